// Package publishertest holds the suite that every backend of package
// publisher passes against its real broker, and Fake, a broker in memory with
// scripted answers for the tests of what stands above a publisher.
//
// A backend's test says how to make a destination, and runs the suite:
//
//	func TestConformance(t *testing.T) {
//		publishertest.Run(t, func(t testing.TB) *publishertest.Target { … })
//	}
package publishertest

import (
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

// Backend makes a fresh and empty destination for one check. It reports what
// goes wrong to t and frees what it made with t.Cleanup.
type Backend func(t testing.TB) *Target

// Target is one destination and what the suite may do with it. Open, Topic
// and Read are required.
type Target struct {
	// Topic is the Record.Topic of every record.
	Topic string
	// Open opens a publisher. A check may open several, one after the other.
	Open func(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error)
	// Read returns everything the broker holds at the destination: records
	// of one domain in the order of their delivery, with topic, key, value
	// and headers. It is called after the publishers were closed and may be
	// called more than once.
	Read func() []publisher.Record

	// Refuse changes r into a record that the publisher sends and the broker
	// refuses (or, where a broker cannot, one that the publisher itself
	// refuses). It must keep the first header, by which the suite knows its
	// records. Nil leaves the checks of refusals out.
	Refuse func(r *publisher.Record)
	// Doom changes r into a record of which an Inspector knows that the broker
	// can never take it. It must keep the first header. Nil for a publisher that
	// is none.
	Doom func(r *publisher.Record)
	// Stall keeps everything that publishers send from arriving, until resume
	// is called. Nil leaves the checks of full windows out. See Line.
	Stall func() (resume func())
	// Cut breaks every connection that is open now. Nil leaves the check of
	// lost connections out. See Line.
	Cut func()

	// NoKey says that the broker does not store the key.
	NoKey bool
	// NoNil says that the broker cannot tell an empty value from none.
	NoNil bool
	// HeaderTable says that headers come back in any order and that names do
	// not repeat.
	HeaderTable bool
	// Pipelined says that records behind a refused one may be delivered, as
	// the backend's mode documents: the suite then demands only that the
	// outcomes are true.
	Pipelined bool
	// Patience is how long a check waits for what must happen. Zero is
	// DefaultPatience.
	Patience time.Duration

	sessions int // opened so far
}

// Check is one part of the suite.
type Check struct {
	Name string
	Run  func(t testing.TB, b Backend)
}

// Run runs every check against b, one after the other: they count goroutines.
func Run(t *testing.T, b Backend) {
	t.Helper()
	for _, c := range Checks() {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, b) })
	}
}

// Checks returns the checks that Run runs.
func Checks() []Check {
	return []Check{
		{"fidelity", checkFidelity},
		{"order", checkOrder},
		{"nil keys", checkNilKeys},
		{"refusal", checkRefusal},
		{"refusal in a burst", checkRefusalBurst},
		{"broken for good", checkBroken},
		{"inspection", checkInspection},
		{"full window", checkFullWindow},
		{"close", checkClose},
		{"close a full window", checkCloseFull},
		{"close in a burst", checkCloseBurst},
		{"close gives up", checkCloseGivesUp},
		{"guard", checkGuard},
		{"cut connection", checkCut},
		{"goroutines", checkGoroutines},
	}
}
