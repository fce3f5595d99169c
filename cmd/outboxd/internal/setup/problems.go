package setup

import (
	"fmt"
	"strings"

	"github.com/outboxd/outboxd/cdc"
)

// Conditions that only setup meets, beside those of cdc.
const (
	CodeTable       cdc.Code = "table_mismatch" // the outbox table cannot be used as it is
	CodeRole        cdc.Code = "role_missing"   // a role to grant to does not exist
	CodeServerLimit cdc.Code = "server_limit"   // a limit of the server is reached
	CodeSlotTimeout cdc.Code = "slot_timeout"   // open transactions held up the slot for too long
	CodeUnconfirmed cdc.Code = "unconfirmed"    // the pipeline's name was not confirmed
)

// Problems is everything that stands in the way of a setup.
type Problems []*cdc.Error

func (p *Problems) add(code cdc.Code, fix, format string, args ...any) {
	*p = append(*p, &cdc.Error{Code: code, Detail: fmt.Sprintf(format, args...), Fix: fix})
}

// Error lists the problems, one a line, with what mends each.
func (p Problems) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems, nothing was changed:", len(p))
	for _, e := range p {
		fmt.Fprintf(&b, "\n  %v", e)
		if e.Fix != "" {
			fmt.Fprintf(&b, "\n    fix: %s", strings.ReplaceAll(e.Fix, "\n", "\n    "))
		}
	}
	return b.String()
}

// Unwrap gives errors.As the first problem, and errors.Is all of them.
func (p Problems) Unwrap() []error {
	errs := make([]error, len(p))
	for i, e := range p {
		errs[i] = e
	}
	return errs
}

// err is nil, the only problem, or all of them.
func (p Problems) err() error {
	switch len(p) {
	case 0:
		return nil
	case 1:
		return p[0]
	}
	return p
}
