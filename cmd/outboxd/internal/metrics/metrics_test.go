package metrics_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
)

var update = flag.Bool("update", false, "write the golden file")

const golden = "../../../../testdata/metrics/metrics.golden"

func expose(t *testing.T, r *metrics.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("GET /metrics: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func registry() *metrics.Registry {
	return metrics.NewRegistry(metrics.Build{Version: "v1.2.3", Revision: "abc", GoVersion: "go1.26"})
}

// TestExposition: names, types, help and labels are a contract with alerts and
// dashboards.
func TestExposition(t *testing.T) {
	r := registry()
	m := r.Pipeline("shop")
	m.Received()
	m.Received()
	m.Ignored()
	m.Published("outbox.event.order").Inc()
	m.CommitToAck(3 * time.Millisecond)
	m.CommitToAck(-time.Second)
	m.Session("missing_topic")
	m.Violation("ack")
	m.Rotation("ok")
	m.Observe(func() metrics.Snapshot {
		return metrics.Snapshot{
			OldestUnpublished: 1500 * time.Millisecond,
			InFlightEvents:    7, InFlightBytes: 4096,
			Leader: true, Streaming: true,
			HeldReason: "missing_topic", HeldTarget: "outbox.event.order",
			Slot: cdc.SlotStats{
				At: time.Unix(1, 0), RetainedBytes: 1 << 24, RetainedLimit: 1 << 31, UnconfirmedBytes: 1 << 20, SafeBytes: 1 << 30,
				WALStatus: "extended", CatalogXminAge: 900, SpillTxns: 2, SpillBytes: 1 << 26,
			},
			Broker:         metrics.Broker{Discarded: 3, HotKeyWaits: 6, Blocked: true, GrownTopics: 4},
			SkippedHeaders: 5, RetentionBacklog: 90 * time.Second,
		}
	})
	got := expose(t, r)
	if *update {
		if err := os.MkdirAll("../../../../testdata/metrics", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal([]byte(got), want) {
		t.Errorf("exposition differs from %s (rewrite it with -update):\n%s", golden, got)
	}
}

// TestAbsent: what is not known is not exposed as 0.
func TestAbsent(t *testing.T) {
	r := registry()
	m := r.Pipeline("shop")
	s := metrics.Snapshot{}
	m.Observe(func() metrics.Snapshot { return s })
	got := expose(t, r)
	for _, name := range []string{"outboxd_slot_", "outboxd_events_held"} {
		if strings.Contains(got, name) {
			t.Errorf("%s* is exposed although nothing is known of it", name)
		}
	}
	s.Slot = cdc.SlotStats{At: time.Unix(1, 0), SafeBytes: -1, WALStatus: "reserved"}
	got = expose(t, r)
	if strings.Contains(got, "outboxd_slot_safe_wal_bytes") {
		t.Error("slot_safe_wal_bytes is exposed although the server sets no limit")
	}
	if strings.Contains(got, "outboxd_slot_retained_wal_limit_bytes") {
		t.Error("slot_retained_wal_limit_bytes is exposed although there is none")
	}
	if !strings.Contains(got, `outboxd_slot_wal_status{pipeline="shop",status="reserved"} 1`) {
		t.Errorf("wal_status is missing:\n%s", got)
	}
}

// TestDestinationsBounded: a topic per aggregate id must not fill the memory of
// whoever scrapes.
func TestDestinationsBounded(t *testing.T) {
	r := registry()
	m := r.Pipeline("shop")
	for i := range 150 {
		m.Published(fmt.Sprint("topic-", i)).Inc()
	}
	m.Published("topic-3").Inc()
	got := expose(t, r)
	if n := strings.Count(got, "outboxd_events_published_total{"); n != 101 {
		t.Errorf("%d series, want 100 and one for the others", n)
	}
	for _, want := range []string{`{destination="other",pipeline="shop"} 50`, `{destination="topic-3",pipeline="shop"} 2`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
}

// TestPipelines: each has series of its own, and what is the process's has no
// pipeline.
func TestPipelines(t *testing.T) {
	r := registry()
	for _, name := range []string{"kafka", "rabbitmq"} {
		m := r.Pipeline(name)
		m.Received()
		m.Observe(func() metrics.Snapshot { return metrics.Snapshot{Stopped: name == "kafka"} })
	}
	got := expose(t, r)
	for _, want := range []string{
		`outboxd_events_received_total{pipeline="kafka"} 1`, `outboxd_events_received_total{pipeline="rabbitmq"} 1`,
		`outboxd_pipeline_up{pipeline="kafka"} 0`, `outboxd_pipeline_up{pipeline="rabbitmq"} 1`,
		`outboxd_build_info{goversion="go1.26",revision="abc",version="v1.2.3"} 1`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

func TestWithRuntime(t *testing.T) {
	got := expose(t, registry().WithRuntime())
	for _, want := range []string{"go_goroutines ", "process_resident_memory_bytes "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
}
