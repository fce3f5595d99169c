// Package checker judges what a relay did: a history of what writers committed,
// rolled back or do not know, against what a broker delivered.
package checker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Outcome is what a writer knows of the transaction that held an event.
type Outcome uint8

const (
	Committed  Outcome = iota + 1
	RolledBack         // the transaction, or the savepoint that the event was behind
	Unknown            // the answer to COMMIT was lost
)

// Written is one event that a writer wrote.
type Written struct {
	ID      string
	Outcome Outcome
	// Domain is the ordering domain: destination and key. N counts the
	// domain's events in the order of their commits.
	Domain string
	N      int
	// Sum is a hash of the payload's bytes.
	Sum [32]byte
}

// Delivered is one record as a consumer got it, in the order of its partition
// or queue.
type Delivered struct {
	ID     string
	Domain string
	// Place says where it was found, for people: partition and offset.
	Place    string
	Position string
	Sum      [32]byte
}

// Verdict counts what went wrong. Duplicates alone are no violation; their
// bound depends on the faults that were injected, and is the caller's.
type Verdict struct {
	Written, Delivered int // events committed; records delivered

	Lost       int // committed, never delivered
	Invented   int // delivered, never written or rolled back
	Disordered int // first delivery behind that of a later event of its domain
	// LastDisordered counts events whose last delivery lies before the last
	// delivery of an earlier event of the domain: a consumer that keeps the
	// latest state would end with the wrong one.
	LastDisordered int
	Changed        int // payload bytes differ
	Misplaced      int // wrong domain, or a position that does not rise with the order
	Duplicates     int // deliveries beyond the first

	// Examples describe the first few violations and duplicates.
	Examples []string
}

// OK reports whether nothing was violated, at most duplicates records came more
// than once, and at most stragglers of those came behind the last delivery of a
// later event: what a dead relay's kernel still had to send may arrive beside
// the work of its successor.
func (v *Verdict) OK(duplicates, stragglers int) bool {
	return v.Lost+v.Invented+v.Disordered+v.Changed+v.Misplaced == 0 && v.Duplicates <= duplicates && v.LastDisordered <= stragglers
}

// String is a line for people, then the examples.
func (v *Verdict) String() string {
	s := fmt.Sprintf("written %d, delivered %d: lost %d, invented %d, out of order %d (last delivery %d), changed %d, misplaced %d, duplicates %d",
		v.Written, v.Delivered, v.Lost, v.Invented, v.Disordered, v.LastDisordered, v.Changed, v.Misplaced, v.Duplicates)
	return strings.Join(append([]string{s}, v.Examples...), "\n\t")
}

const maxExamples = 20

func (v *Verdict) example(format string, args ...any) {
	if len(v.Examples) < maxExamples {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

// Judge compares the two sides of a history that has come to rest. It panics
// when two written events have the same id: the history itself is wrong then.
func Judge(written []Written, delivered []Delivered) *Verdict {
	v := &Verdict{Delivered: len(delivered)}
	events := make(map[string]*Written, len(written))
	for i := range written {
		w := &written[i]
		if events[w.ID] != nil {
			panic("two written events have the id " + w.ID)
		}
		events[w.ID] = w
		if w.Outcome == Committed {
			v.Written++
		}
	}
	seen := v.match(events, delivered)
	for _, w := range written {
		if w.Outcome == Committed && seen[w.ID] == nil {
			v.Lost++
			v.example("lost: event %s, number %d of %s", w.ID, w.N, w.Domain)
		}
	}
	v.order(events, seen)
	return v
}

// delivery is where an event came among all records: the index of the first
// and of the last time.
type delivery struct {
	first, last int
	position    string
	place       string
}

// match looks at each record alone and returns when each event came.
func (v *Verdict) match(events map[string]*Written, delivered []Delivered) map[string]*delivery {
	seen := make(map[string]*delivery, len(delivered))
	for i, d := range delivered {
		w := events[d.ID]
		if w == nil || w.Outcome == RolledBack {
			v.Invented++
			v.example("invented: event %q at %s was never committed", d.ID, d.Place)
			continue
		}
		if d.Sum != w.Sum {
			v.Changed++
			v.example("changed: the bytes of event %s at %s", d.ID, d.Place)
		}
		if d.Domain != w.Domain {
			v.Misplaced++
			v.example("misplaced: event %s of %s at %s belongs to %s", d.ID, d.Domain, d.Place, w.Domain)
		}
		s := seen[d.ID]
		if s == nil {
			seen[d.ID] = &delivery{first: i, last: i, position: d.Position, place: d.Place}
			continue
		}
		v.Duplicates++
		v.example("repeated: event %s at %s, before at %s", d.ID, d.Place, s.place)
		s.last, s.place = i, d.Place
		if s.position != d.Position {
			v.Misplaced++
			v.example("misplaced: event %s has the positions %s and %s", d.ID, s.position, d.Position)
		}
	}
	return seen
}

// order compares, in each domain, the order of the writers with the order of
// first deliveries, of last deliveries, and of positions.
func (v *Verdict) order(events map[string]*Written, seen map[string]*delivery) {
	domains := make(map[string][]*Written)
	for id := range seen {
		w := events[id]
		domains[w.Domain] = append(domains[w.Domain], w)
	}
	for _, domain := range slices.Sorted(maps.Keys(domains)) {
		ws := domains[domain]
		slices.SortFunc(ws, func(a, b *Written) int { return a.N - b.N })
		for i := 1; i < len(ws); i++ {
			before, w := seen[ws[i-1].ID], seen[ws[i].ID]
			if w.first < before.first {
				v.Disordered++
				v.example("out of order: number %d of %s first came before number %d", ws[i].N, domain, ws[i-1].N)
			}
			if w.last < before.last {
				v.LastDisordered++
				v.example("out of order: number %d of %s came last after number %d did", ws[i-1].N, domain, ws[i].N)
			}
			if w.position <= before.position {
				v.Misplaced++
				v.example("misplaced: number %d of %s has position %s, number %d has %s", ws[i-1].N, domain, before.position, ws[i].N, w.position)
			}
		}
	}
}
