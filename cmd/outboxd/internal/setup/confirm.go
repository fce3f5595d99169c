package setup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/outboxd/outboxd/cdc"
)

// Confirm asks on out for the pipeline's name and reads it from in; to is what
// that permits. Any other answer is an *cdc.Error.
func Confirm(in io.Reader, out io.Writer, pipeline, to string) error {
	fmt.Fprintf(out, "To %s, type the pipeline's name: %s\n", to, pipeline)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if answer = strings.TrimSpace(answer); answer != pipeline {
		return &cdc.Error{Code: CodeUnconfirmed, Detail: fmt.Sprintf("%q is not the pipeline's name: nothing was changed", answer),
			Fix: fmt.Sprintf("type %s, or give --yes", pipeline)}
	}
	return nil
}
