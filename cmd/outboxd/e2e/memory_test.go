//go:build !embedded

package e2e_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// peakRSS returns the process's largest resident set so far, in bytes.
func (r *relay) peakRSS() int64 {
	r.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				r.t.Fatal(err)
			}
			return kb << 10
		}
	}
	r.t.Fatal("no VmHWM in /proc")
	return 0
}

// TestMemoryOfOneHugeTransaction: 1,000,000 events in one transaction go
// through a relay of less than 128 MB.
func TestMemoryOfOneHugeTransaction(t *testing.T) {
	end := newKafkaEnd(t, devtest.Kafka(t))
	s := newSite(t, devtest.Database(t))
	r := s.run(end.flags()...)
	r.ready()
	const n = 1_000_000
	s.exec(fmt.Sprintf(`INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
		SELECT gen_random_uuid(), 'big', (i %% 1000)::text, 'big.counted', json_build_object('fill', repeat('x', 250)) FROM generate_series(1, %d) i`, n))
	eventually(t, 3*time.Minute, "everything is published", func() bool { return r.metric("outboxd_events_published_total") >= n })
	rss := r.peakRSS()
	t.Logf("peak RSS %d MiB", rss>>20)
	if rss > 128<<20 {
		t.Errorf("peak RSS %d MiB, 128 allowed", rss>>20)
	}
}
