package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
)

// printer writes what is parked, as tables for people or as JSON.
type printer struct {
	out  io.Writer
	json bool
}

func (o *parkedOptions) printer(s streams) printer { return printer{s.out, o.output == "json"} }

// encode writes v as one JSON document.
func (p printer) encode(v any) error {
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table writes lines of tabbed columns.
func (p printer) table(head string, lines func(io.Writer)) error {
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	lines(w)
	return w.Flush()
}

type groupView struct {
	Reason string       `json:"reason"`
	State  parked.State `json:"state"`
	Events int          `json:"events"`
	Keys   int          `json:"keys"`
	Bytes  int64        `json:"bytes"`
	Oldest time.Time    `json:"oldest"`
}

func (p printer) groups(groups []parked.Group) error {
	views := make([]groupView, len(groups))
	for i, g := range groups {
		views[i] = groupView(g)
	}
	switch {
	case p.json:
		return p.encode(views)
	case len(views) == 0:
		_, err := fmt.Fprintln(p.out, "nothing is parked")
		return err
	}
	return p.table("REASON\tSTATE\tEVENTS\tKEYS\tBYTES\tOLDEST", func(w io.Writer) {
		for _, g := range views {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\n", g.Reason, g.State, g.Events, g.Keys, g.Bytes, stamp(g.Oldest))
		}
	})
}

// rowView is a parked event for people and programs. Bytes that are not text
// are in base64, in fields of their own.
type rowView struct {
	ID            string       `json:"id"`
	Position      string       `json:"position"`
	State         parked.State `json:"state"`
	Reason        string       `json:"reason"`
	Detail        string       `json:"detail"`
	Attempts      int          `json:"attempts"`
	Destination   string       `json:"destination"`
	AggregateType string       `json:"aggregatetype"`
	AggregateID   *string      `json:"aggregateid"`
	Type          string       `json:"type"`
	Committed     time.Time    `json:"committed"`
	Parked        time.Time    `json:"parked"`
	Marked        *time.Time   `json:"marked,omitempty"`
	MarkedBy      string       `json:"marked_by,omitempty"`
	Note          string       `json:"note,omitempty"`
	Headers       string       `json:"headers,omitempty"`
	Payload       string       `json:"payload,omitempty"`
	PayloadBytes  []byte       `json:"payload_base64,omitempty"`
}

func newRowView(r *parked.Row) rowView {
	v := rowView{
		ID: string(r.ID), Position: r.Position.String(), State: r.State, Reason: r.Reason, Detail: r.Detail, Attempts: r.Attempts,
		Destination: r.Destination, AggregateType: string(r.AggregateType), Type: string(r.Type), Committed: r.CommitTime.UTC(), Parked: r.ParkedAt.UTC(),
		MarkedBy: r.MarkedBy, Note: r.Note, Headers: string(r.Headers),
	}
	if r.AggregateID != nil {
		id := string(r.AggregateID)
		v.AggregateID = &id
	}
	if !r.MarkedAt.IsZero() {
		at := r.MarkedAt.UTC()
		v.Marked = &at
	}
	if utf8.Valid(r.Payload) {
		v.Payload = string(r.Payload)
	} else {
		v.PayloadBytes = r.Payload
	}
	return v
}

func (p printer) rows(rows []parked.Row) error {
	views := make([]rowView, len(rows))
	for i := range rows {
		views[i] = newRowView(&rows[i])
	}
	if p.json {
		return p.encode(views)
	}
	return p.table("POSITION\tID\tKEY\tDESTINATION\tREASON\tSTATE\tTRIES\tPARKED", func(w io.Writer) {
		for _, v := range views {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", v.Position, printable(v.ID), v.key(), printable(v.Destination), v.Reason, v.State, v.Attempts, stamp(v.Parked))
		}
	})
}

func (v *rowView) key() string {
	if v.AggregateID == nil {
		return "NULL"
	}
	return printable(*v.AggregateID)
}

// shownBytes is up to which length headers and payload are shown to people.
const shownBytes = 16 << 10

func (p printer) row(r *parked.Row) error {
	v := newRowView(r)
	if p.json {
		return p.encode(v)
	}
	lines := [][2]string{
		{"id", printable(v.ID)}, {"position", v.Position}, {"state", string(v.State)}, {"reason", v.Reason}, {"detail", printable(v.Detail)},
		{"attempts", strconv.Itoa(v.Attempts)}, {"destination", printable(v.Destination)}, {"aggregatetype", printable(v.AggregateType)},
		{"aggregateid", v.key()}, {"type", printable(v.Type)}, {"committed", stamp(v.Committed)}, {"parked", stamp(v.Parked)},
	}
	if v.Marked != nil {
		lines = append(lines, [2]string{"marked", stamp(*v.Marked) + " by " + v.MarkedBy}, [2]string{"note", printable(v.Note)})
	}
	headers := printable(v.Headers)
	if n := len(v.Headers); n > shownBytes {
		headers = fmt.Sprintf("%d bytes, too many to show: see --output json", n)
	}
	lines = append(lines, [2]string{"headers", headers})
	for _, line := range lines {
		fmt.Fprintf(p.out, "%-14s %s\n", line[0], line[1])
	}
	if n := len(r.Payload); n > shownBytes {
		_, err := fmt.Fprintf(p.out, "%-14s %d bytes, too many to show: see --payload\n", "payload", n)
		return err
	}
	if v.PayloadBytes != nil {
		_, err := fmt.Fprintf(p.out, "%-14s %d bytes that are no text: see --payload\n", "payload", len(v.PayloadBytes))
		return err
	}
	_, err := fmt.Fprintf(p.out, "%-14s %s\n", "payload", printable(v.Payload))
	return err
}

// marking is what a mark came to.
type marking struct {
	Marked  int  `json:"marked"`
	Behind  int  `json:"behind"`
	Waited  bool `json:"waited"`
	Refused int  `json:"refused"`
}

func (p printer) marking(as parked.State, m marking) error {
	if p.json {
		return p.encode(m)
	}
	switch {
	case !m.Waited:
		fmt.Fprintf(p.out, "marked      %s to %s; the relay does it within a second or so\n", events(m.Marked), as)
	case as == parked.Retry:
		fmt.Fprintf(p.out, "published   %s\n", events(m.Marked-m.Refused))
	default:
		fmt.Fprintf(p.out, "discarded   %s\n", events(m.Marked-m.Refused))
	}
	if m.Refused > 0 {
		fmt.Fprintf(p.out, "still there %s: outboxd parked list\n", events(m.Refused))
	}
	switch {
	case m.Behind == 0:
	case as == parked.Retry:
		fmt.Fprintf(p.out, "behind      %s, which follow unless they have a reason of their own\n", events(m.Behind))
	default:
		fmt.Fprintf(p.out, "behind      %s, which stay parked: outboxd parked retry --key …\n", events(m.Behind))
	}
	return nil
}

func events(n int) string {
	if n == 1 {
		return "1 event"
	}
	return fmt.Sprintf("%d events", n)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// printable keeps what an event holds from steering the terminal.
func printable(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
