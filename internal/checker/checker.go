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
	// Tx names the transaction that held the event; empty: not known.
	// Where its outcome is Unknown, all of its events come or none of them.
	Tx string
}

// Delivered is one record as a consumer got it, in the order of its partition
// or queue.
type Delivered struct {
	ID     string
	Domain string
	// Place says where it was found, for people: partition and offset.
	Place    string
	Position string
	// Replayed: the record says that it was published again from the table,
	// which does not know its position.
	Replayed bool
	Sum      [32]byte
	// Log and Offset say where the broker keeps it, in the order in which it
	// was stored; Log is empty for a broker that cannot tell.
	Log    string
	Offset int64
}

// Sample is what an onlooker saw of a running relay: first the position that
// the slot had confirmed, then what was parked, then the ends of the broker's
// logs. Everything that committed before the first must be among the second or
// lie before the third.
type Sample struct {
	// Confirmed is confirmed_flush_lsn in the form of the middle of a
	// position: 16 hexadecimal digits.
	Confirmed string
	// Parked are the ids of the events that were parked or had been discarded,
	// sorted.
	Parked []string
	// Ends is the offset of the next record of each log; a log that is not
	// there was empty.
	Ends map[string]int64
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
	Misplaced      int // wrong domain, a position that does not rise with the order, or a second log of one domain
	// Premature counts events that a slot had confirmed before the broker had
	// stored them or they were parked: a crash at that moment would have lost
	// them.
	Premature  int
	Samples    int // how often it was looked
	Duplicates int // deliveries beyond the first

	// Examples describe the first few violations, Repeats the first few
	// duplicates. Duplicates may be many: they take no room from violations.
	Examples, Repeats []string
}

// OK reports whether nothing was violated, at most duplicates records came more
// than once, and at most stragglers of those came behind the last delivery of a
// later event: what a dead relay's kernel still had to send may arrive beside
// the work of its successor.
func (v *Verdict) OK(duplicates, stragglers int) bool {
	return v.Lost+v.Invented+v.Disordered+v.Changed+v.Misplaced+v.Premature == 0 && v.Duplicates <= duplicates && v.LastDisordered <= stragglers
}

// String is a line for people, then the examples.
func (v *Verdict) String() string {
	s := fmt.Sprintf("written %d, delivered %d: lost %d, invented %d, out of order %d (last delivery %d), changed %d, misplaced %d, duplicates %d",
		v.Written, v.Delivered, v.Lost, v.Invented, v.Disordered, v.LastDisordered, v.Changed, v.Misplaced, v.Duplicates)
	if v.Samples > 0 {
		s += fmt.Sprintf(", confirmed too early %d (%d samples)", v.Premature, v.Samples)
	}
	return strings.Join(slices.Concat([]string{s}, v.Examples, v.Repeats), "\n\t")
}

const (
	maxExamples = 20
	maxRepeats  = 5
)

func (v *Verdict) example(format string, args ...any) {
	if len(v.Examples) < maxExamples {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

func (v *Verdict) repeat(format string, args ...any) {
	v.Duplicates++
	if len(v.Repeats) < maxRepeats {
		v.Repeats = append(v.Repeats, fmt.Sprintf(format, args...))
	}
}

// Judge compares the two sides of a history that has come to rest, and what was
// seen of the slot meanwhile. It panics when two written events have the same
// id: the history itself is wrong then.
func Judge(written []Written, delivered []Delivered, samples ...Sample) *Verdict {
	v := &Verdict{Delivered: len(delivered), Samples: len(samples)}
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
	v.missing(written, seen)
	v.order(events, seen)
	v.premature(delivered, samples)
	return v
}

// missing counts what should have come: what committed, and the rest of a
// transaction with an unknown outcome of which a part came.
func (v *Verdict) missing(written []Written, seen map[string]*delivery) {
	happened := make(map[string]bool)
	for _, w := range written {
		if w.Outcome == Unknown && w.Tx != "" && seen[w.ID] != nil {
			happened[w.Tx] = true
		}
	}
	for _, w := range written {
		if seen[w.ID] == nil && (w.Outcome == Committed || w.Outcome == Unknown && happened[w.Tx]) {
			v.Lost++
			v.example("lost: event %s, number %d of %s", w.ID, w.N, w.Domain)
		}
	}
}

func (s *Sample) parked(id string) bool {
	_, found := slices.BinarySearch(s.Parked, id)
	return found
}

// premature compares each sample with what was stored or parked by then. An event that
// was never stored is lost, and counted there.
func (v *Verdict) premature(delivered []Delivered, samples []Sample) {
	first := make(map[string]bool, len(delivered))
	reached := newReached(samples)
	for _, d := range delivered {
		if d.Log == "" || first[d.ID] {
			continue
		}
		first[d.ID] = true
		if d.Replayed {
			continue
		}
		_, commit, _ := strings.Cut(d.Position, ".")
		commit, _, _ = strings.Cut(commit, ".")
		if d.Offset < reached.leastBeyond(commit, d.Log) {
			continue
		}
		for _, s := range samples {
			if commit < s.Confirmed && d.Offset >= s.Ends[d.Log] && !s.parked(d.ID) {
				v.Premature++
				v.example("confirmed too early: event %s at %s, position %s, when %s was confirmed and the log ended at %d", d.ID, d.Place, d.Position, s.Confirmed, s.Ends[d.Log])
				break
			}
		}
	}
}

// delivery is where an event came among all records: the index of the first
// and of the last time.
type delivery struct {
	first, last       int
	firstPlace, place string // place is the last
	position          string
}

// match looks at each record alone and returns when each event came.
func (v *Verdict) match(events map[string]*Written, delivered []Delivered) map[string]*delivery {
	seen := make(map[string]*delivery, len(delivered))
	logs := make(map[string]string) // by domain: a consumer sees order within one log only
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
		if d.Replayed != (d.Position == "") {
			v.Misplaced++
			v.example("misplaced: event %s at %s has the position %q, replayed: %t", d.ID, d.Place, d.Position, d.Replayed)
		}
		if d.Domain != w.Domain {
			v.Misplaced++
			v.example("misplaced: event %s of %s at %s belongs to %s", d.ID, d.Domain, d.Place, w.Domain)
		}
		if log := logs[w.Domain]; log != "" && d.Log != log {
			v.Misplaced++
			v.example("misplaced: event %s of %s is in the log %s, those before it are in %s", d.ID, w.Domain, d.Log, log)
		}
		logs[w.Domain] = d.Log
		s := seen[d.ID]
		if s == nil {
			seen[d.ID] = &delivery{first: i, last: i, firstPlace: d.Place, place: d.Place, position: d.Position}
			continue
		}
		v.repeat("repeated: event %s at %s, before at %s", d.ID, d.Place, s.place)
		s.last, s.place = i, d.Place
		switch {
		case d.Replayed:
		case s.position == "":
			s.position = d.Position
		case !again(s.position, d.Position):
			v.Misplaced++
			v.example("misplaced: event %s has the positions %s and %s", d.ID, s.position, d.Position)
		}
	}
	return seen
}

// again reports whether an event that had the position first may have the
// position now when it comes another time: the same one, or that of a later
// epoch. A server that was promoted has it where the old one had it.
func again(first, now string) bool {
	_, place, ok := strings.Cut(first, ".")
	_, same, _ := strings.Cut(now, ".")
	return now == first || ok && place == same && now > first
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
				v.example("out of order: number %d of %s first came at %s, number %d at %s", ws[i-1].N, domain, before.firstPlace, ws[i].N, w.firstPlace)
			}
			if w.last < before.last {
				v.LastDisordered++
				v.example("out of order: number %d of %s last came at %s, number %d at %s", ws[i-1].N, domain, before.place, ws[i].N, w.place)
			}
			if w.position != "" && before.position != "" && w.position <= before.position {
				v.Misplaced++
				v.example("misplaced: number %d of %s has position %s, number %d has %s", ws[i-1].N, domain, before.position, ws[i].N, w.position)
			}
		}
	}
}
