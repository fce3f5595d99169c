package setup

import (
	"fmt"
	"io"
	"strings"
	"time"
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

// short is a duration without the zeros that String ends with: 72h, 14h24m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
