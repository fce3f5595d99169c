package setup

import (
	"fmt"
	"io"
)

// reporter says what happens, line by line.
type reporter struct {
	out  io.Writer
	slot string
}

// did prints one thing and what became of it: "created", "already there".
func (r *reporter) did(what, name string) { fmt.Fprintf(r.out, "%-13s  %s\n", what, name) }

// note prints what an operator should know.
func (r *reporter) note(text string) { fmt.Fprintf(r.out, "%s\n", text) }
