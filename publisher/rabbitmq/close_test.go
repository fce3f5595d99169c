package rabbitmq_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/publisher"
)

// TestCloseDropsWhatWaits: behind a write that the broker does not read, records
// of several channels wait in the buffer, in chains and in lanes. Close sends
// none of them, awaits those that were on their way, and takes its leave.
func TestCloseDropsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan struct{})
		arrived := make(map[string]bool)
		s, config := newScript(t, func(s *script, p published) {
			if len(arrived) == 0 {
				<-read
			}
			arrived[idOf(p)] = true
			s.ack(p, false)
		})
		config.Channels = 3
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		const n = 200
		for i := range uint64(n) {
			r := record(i, fmt.Sprint("key", i%150))
			r.Value = make([]byte, 10_000) // several writes of the library's, a few in one of ours
			mustPublish(t, p, r)
			synctest.Wait()
		}
		closed := make(chan error)
		go func() { closed <- shut(t, p, time.Minute) }()
		synctest.Wait()
		begun := got.len()
		if begun == 0 || begun == n {
			t.Errorf("%d of %d records have an outcome before the broker reads", begun, n)
		}
		began := time.Now()
		close(read)
		if err := <-closed; !errors.Is(err, publisher.ErrClosed) {
			t.Errorf("close: %v", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("close took %v when the broker had read", took)
		}
		<-s.closed
		for i := range uint64(n) {
			want := "closed"
			if arrived[fmt.Sprintf("key%d/%d", i%150, i)] {
				want = ""
			}
			if c := got.of(i); c != want {
				t.Errorf("record %d: %q, want %q", i, c, want)
			}
		}
		if len(arrived) != n-begun {
			t.Errorf("%d records arrived, want the %d that were on their way", len(arrived), n-begun)
		}
	})
}
