//go:build !embedded

package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

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
	rss := peakRSS(r.cmd.Process.Pid)
	t.Logf("peak RSS %d MiB", rss>>20)
	if rss > 128<<20 {
		t.Errorf("peak RSS %d MiB, 128 allowed", rss>>20)
	}
}
