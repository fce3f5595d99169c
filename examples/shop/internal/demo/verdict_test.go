package demo

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/checker"
)

// history is three events of one order, one of its reservation, and what a
// context that listens to both has consumed.
func history() ([]event, []checker.Delivered) {
	events := []event{
		{"a", "order", "1", "{}"}, {"b", "order", "1", "[]"}, {"c", "reservation", "1", "{}"}, {"d", "order", "1", "{}"},
	}
	var consumed []checker.Delivered
	for i, e := range events {
		consumed = append(consumed, checker.Delivered{
			ID: e.ID, Domain: domain(e.AggregateType, e.AggregateID), Position: string(rune('1' + i)), Sum: sha256.Sum256([]byte(e.Payload)),
		})
	}
	return events, consumed
}

func TestJudge(t *testing.T) {
	both := station{name: "audit", consumes: []string{"order", "reservation"}, witness: true}
	orders := station{name: "reservation", consumes: []string{"order"}}
	heap := station{name: "notification", consumes: []string{"order", "reservation"}, competing: true, witness: true}
	drop := func(i int) func([]checker.Delivered) []checker.Delivered {
		return func(c []checker.Delivered) []checker.Delivered { return slices.Delete(c, i, i+1) }
	}
	swap := func(c []checker.Delivered) []checker.Delivered {
		c[0], c[1] = c[1], c[0]
		return c
	}
	again := func(c []checker.Delivered) []checker.Delivered { return append(c, c[3]) }
	for _, c := range []struct {
		name    string
		station station
		bend    func([]checker.Delivered) []checker.Delivered
		clean   bool
		want    string
	}{
		{"right", both, nil, true, "lost 0, invented 0, out of order 0, duplicates 0"},
		{"lost", both, drop(1), false, "lost 1, invented 0, out of order 0, duplicates 0"},
		{"not listened to", orders, drop(2), true, "lost 0, invented 0, out of order 0, duplicates 0"},
		{"not asked for", orders, nil, false, "lost 0, invented 1, out of order 0, duplicates 0"},
		{"rolled back", both, func(c []checker.Delivered) []checker.Delivered {
			return append(c, checker.Delivered{ID: "x", Domain: "order/1"})
		}, false, "lost 0, invented 1, out of order 0, duplicates 0"},
		{"out of order", both, swap, false, "lost 0, invented 0, out of order 2, duplicates 0"},
		{"out of order among competitors", heap, swap, true, "lost 0, invented 0, out of order 0, duplicates 0"},
		{"twice", both, again, true, "lost 0, invented 0, out of order 0, duplicates 1"},
		{"twice among competitors", heap, again, true, "lost 0, invented 0, out of order 0, duplicates 1"},
		{"changed", both, func(c []checker.Delivered) []checker.Delivered {
			c[1].Sum = sha256.Sum256([]byte("[ ]"))
			return c
		}, false, "bytes changed 1, in the wrong place 0"},
		{"wrong key", both, func(c []checker.Delivered) []checker.Delivered {
			c[1].Domain = "order/2"
			return c
		}, false, "bytes changed 0, in the wrong place 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, consumed := history()
			if c.bend != nil {
				consumed = c.bend(consumed)
			}
			v := verdict{{c.station, c.station.judge(events, consumed)}}
			if v.clean() != c.clean || !strings.Contains(v.String(), "\n"+c.want+"\n") {
				t.Errorf("clean %t, want %t with %q:\n%s", v.clean(), c.clean, c.want, v)
			}
			// Violations are told one by one, duplicates are not.
			if told := strings.Contains(v.String(), "  "+c.station.name+": "); told == c.clean {
				t.Errorf("examples are told: %t\n%s", told, v)
			}
		})
	}
}

// A record that is twice in Kafka is consumed twice by two contexts, and is one
// duplicate.
func TestDuplicatesCountOnce(t *testing.T) {
	events, consumed := history()
	consumed = append(consumed, consumed[3])
	orders := station{name: "reservation", consumes: []string{"order"}}
	both := station{name: "audit", consumes: []string{"order", "reservation"}, witness: true}
	v := verdict{
		{orders, orders.judge(events, slices.Delete(slices.Clone(consumed), 2, 3))},
		{both, both.judge(events, consumed)},
	}
	if want := "duplicates 1\n"; !v.clean() || !strings.Contains(v.String(), want) {
		t.Errorf("want %q:\n%s", want, v)
	}
}

// A kill explains so many duplicates, and so few of them behind later work.
func TestVerdictBounds(t *testing.T) {
	var events []event
	var once []checker.Delivered
	for i := range inFlight + 2 {
		e := event{fmt.Sprint(i), "order", "1", "{}"}
		events = append(events, e)
		once = append(once, checker.Delivered{ID: e.ID, Domain: "order/1", Position: fmt.Sprintf("%08d", i), Sum: sha256.Sum256([]byte(e.Payload))})
	}
	// Each of the first n comes last behind the last delivery of the one after it.
	backwards := func(n int) []checker.Delivered {
		again := slices.Clone(once[:n])
		slices.Reverse(again)
		return slices.Concat(once, again)
	}
	both := station{name: "audit", consumes: []string{"order"}, witness: true}
	for _, c := range []struct {
		name     string
		consumed []checker.Delivered
		clean    bool
	}{
		{"all in flight, in order", slices.Concat(once, once), true},
		{"more than a second", slices.Concat(once, once, once), false},
		{"last deliveries in flight", backwards(inFlight), true},
		{"one more", backwards(inFlight + 1), false},
	} {
		v := verdict{{both, both.judge(events, c.consumed)}}
		if v.clean() != c.clean {
			t.Errorf("%s: clean %t, want %t: %s", c.name, v.clean(), c.clean, v[0])
		}
	}
}
