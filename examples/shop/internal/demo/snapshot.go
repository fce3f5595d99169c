package demo

import (
	"fmt"
	"strings"
	"time"
)

// snapshot is everything the view shows, at one moment.
type snapshot struct {
	elapsed, duration time.Duration
	placed, refused   int64
	rows              []row
	relays            []relayState
}

// row is a context.
type row struct {
	station
	written, relayed int // events that it publishes
	consumed         int // events that it listens to, each counted once
	p50, p99         time.Duration
}

const none = "–"

// table is the snapshot for a terminal, at most 80 columns wide.
func (s snapshot) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d orders placed, %d refused and rolled back\n\n", s.when(), s.placed, s.refused)
	fmt.Fprintf(&b, "%-14s%10s%10s%10s%12s%12s\n", "context", "written", "relayed", "consumed", "p50", "p99")
	for _, r := range s.rows {
		if r.absent != "" {
			fmt.Fprintf(&b, "%-14s  %s\n", r.name, r.absent)
			continue
		}
		written, relayed := none, none
		if r.publishes != "" {
			written, relayed = fmt.Sprint(r.written), fmt.Sprint(r.relayed)
		}
		fmt.Fprintf(&b, "%-14s%10s%10s%10d%12s%12s\n", r.name, written, relayed, r.consumed, milliseconds(r.p50), milliseconds(r.p99))
	}
	b.WriteByte('\n')
	for _, r := range s.relays {
		fmt.Fprintf(&b, "outboxd, pipeline %s: %s\n", r.name, r)
	}
	return b.String()
}

// line is the snapshot for a log.
func (s snapshot) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: placed %d, refused %d", s.when(), s.placed, s.refused)
	for _, r := range s.rows {
		if r.absent != "" {
			continue
		}
		fmt.Fprintf(&b, " | %s", r.name)
		if r.publishes != "" {
			fmt.Fprintf(&b, " written %d relayed %d", r.written, r.relayed)
		}
		fmt.Fprintf(&b, " consumed %d p50 %s p99 %s", r.consumed, milliseconds(r.p50), milliseconds(r.p99))
	}
	return b.String()
}

// when says how much of the time is over.
func (s snapshot) when() string {
	if s.elapsed >= s.duration {
		return "closed"
	}
	return fmt.Sprintf("%s of %s", s.elapsed.Truncate(time.Second), s.duration)
}

// String says whether the relay runs and what it did.
func (r relayState) String() string {
	sum := 0
	for _, n := range r.published {
		sum += n
	}
	if r.pid == 0 {
		return fmt.Sprintf("not running, published %d", sum)
	}
	return fmt.Sprintf("process %d, published %d", r.pid, sum)
}

// of is how many events of an aggregate type were published to Kafka's topic
// for it.
func (r relayState) of(aggregateType string) int {
	return r.published["outbox.event."+aggregateType]
}

func milliseconds(d time.Duration) string {
	if d == 0 {
		return none
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
