package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// pair is a database with two pipelines on one table, first and second, and the
// file that says so.
type pair struct {
	db, file, out string
	first, second string
}

// newPair sets up both; the second's broker is given, the first's is a file.
func newPair(t *testing.T, secondBroker string) pair {
	t.Helper()
	dir := t.TempDir()
	p := pair{db: database(t), file: filepath.Join(dir, "outboxd.yaml"), out: filepath.Join(dir, "out"), first: devtest.Name(t), second: devtest.Name(t)}
	write(t, p.file, fmt.Sprintf("database: %s\nmetrics: 127.0.0.1:0\nlog-format: json\npipelines:\n  %s: {broker: 'jsonl:%s'}\n  %s: {broker: '%s'}\n",
		p.db, p.first, p.out, p.second, secondBroker))
	r := call(t, nil, "setup", "--config", p.file)
	r.expect(t, 0)
	for _, want := range []string{"pipeline " + p.first + "\n", "pipeline " + p.second + "\n", "slot outboxd_" + p.first, "slot outboxd_" + p.second} {
		if !strings.Contains(r.out, want) {
			t.Fatalf("setup does not say %q:\n%s", want, r.out)
		}
	}
	return p
}

// published waits until the first pipeline's file has n events.
func (p pair) published(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events of the first pipeline", n), func() bool { return len(numbers(t, p.out)) >= n })
}

func (b *background) shows(what string, path string, code int, texts ...string) {
	b.t.Helper()
	var got int
	var body string
	eventually(b.t, what, func() bool {
		got, body = b.get(path)
		for _, text := range texts {
			if !strings.Contains(body, text) {
				return false
			}
		}
		return got == code
	})
}

// TestBrokerDownHoldsOnlyItsPipeline: the other publishes everything and
// confirms it, and the probe names the one that is held.
func TestBrokerDownHoldsOnlyItsPipeline(t *testing.T) {
	p := newPair(t, "amqp://127.0.0.1:1")
	b := start(t, nil, "run", "--config", p.file)
	insert(t, p.db, 0, 50)
	p.published(t, 50)
	b.shows("the held pipeline", "/readyz", 503, p.first+": streaming\n", p.second+": retrying: broker_unreachable: ")
	b.shows("each pipeline's metrics", "/metrics", 200, `outboxd_events_published_total{destination="outbox.event.order",pipeline="`+p.first+`"} 50`,
		`outboxd_pipeline_up{pipeline="`+p.second+`"} 1`, `outboxd_streaming{pipeline="`+p.first+`"} 1`, `outboxd_streaming{pipeline="`+p.second+`"} 0`)
	if !b.says(`"msg":"retrying","pipeline":"` + p.second + `"`) {
		t.Error("the log does not name the pipeline")
	}
	insert(t, p.db, 50, 50)
	p.published(t, 100)
	if code := b.finish(); code != 0 {
		t.Errorf("exit code %d after a stop", code)
	}
	// What was acked is confirmed: only the second still has something to do.
	again := start(t, nil, "run", "--config", p.file, "--pipeline", p.first)
	b = again
	insert(t, p.db, 100, 1)
	p.published(t, 101)
	if n := len(numbers(t, p.out)); n != 101 {
		t.Errorf("%d records, want 101: some were repeated", n)
	}
	if again.says(p.second) {
		t.Error("--pipeline runs the other one as well")
	}
	if code := b.finish(); code != 0 {
		t.Errorf("exit code %d after a stop", code)
	}
}

// TestStoppedPipeline: one that only an operator can mend is told everywhere,
// stops no other, and is the exit code in the end.
func TestStoppedPipeline(t *testing.T) {
	p := newPair(t, "jsonl:/dev/null")
	execSQL(t, p.db, "DROP PUBLICATION outboxd_"+p.second)
	b := start(t, nil, "run", "--config", p.file)
	b.shows("the stopped pipeline", "/readyz", 503, p.first+": streaming\n", p.second+": stopped: ", "publication_missing", "outboxd adopt --pipeline "+p.second+" --config "+p.file)
	b.shows("its metric", "/metrics", 200, `outboxd_pipeline_up{pipeline="`+p.first+`"} 1`, `outboxd_pipeline_up{pipeline="`+p.second+`"} 0`,
		`outboxd_leader{pipeline="`+p.second+`"} 0`)
	b.shows("life", "/livez", 200)
	insert(t, p.db, 0, 50)
	p.published(t, 50)
	eventually(t, "a line in the log", func() bool {
		return b.says(`"msg":"this pipeline has stopped, the others go on; mend it, then restart the process","pipeline":"` + p.second + `","code":"publication_missing"`)
	})
	if code := b.finish(); code != 78 {
		t.Errorf("exit code %d after a stop, want that of the pipeline", code)
	}
	if !b.says(`"msg":"giving up"`) || !b.says("pipeline "+p.second+": ") {
		t.Error("the last words do not name the pipeline")
	}
}

// TestAllPipelinesStopped: then the process ends by itself.
func TestAllPipelinesStopped(t *testing.T) {
	p := newPair(t, "jsonl:/dev/null")
	execSQL(t, p.db, "DROP PUBLICATION outboxd_"+p.first+", outboxd_"+p.second)
	call(t, nil, "run", "--config", p.file).expect(t, 78, "publication_missing", p.first, p.second)
}

// TestFailFastEndsAll: who asked for a supervisor gets the exit code at once.
func TestFailFastEndsAll(t *testing.T) {
	p := newPair(t, "amqp://127.0.0.1:1")
	call(t, nil, "run", "--config", p.file, "--fail-fast").expect(t, 69, "broker_unreachable", `"error":"pipeline `+p.second+": ")
}

func TestRemind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), 150*time.Second)
		defer stop()
		told := 0
		remind(ctx, remindInterval, func() { told++ })
		if told != 3 {
			t.Errorf("told %d times in two and a half minutes, want at once and twice more", told)
		}
	})
}

// refusing is a slot that is not there.
type refusing struct{}

func (refusing) Open(context.Context) (relay.Stream, error) {
	return nil, &cdc.Error{Code: cdc.CodeSlotMissing}
}
func (refusing) Ack(uint64)       {}
func (refusing) Stats() cdc.Stats { return cdc.Stats{} }

// TestStoppedPipelineIsAlive: a restart would not mend it.
func TestStoppedPipelineIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.NewRegistry(metrics.Build{}).Pipeline("p")
		r := &relay.Relay{Source: refusing{}, Metrics: m, Logger: slog.New(slog.DiscardHandler)}
		d := &daemon{relay: r, err: r.Run(t.Context())}
		time.Sleep(time.Minute)
		if d.err == nil || r.Live() == nil {
			t.Fatalf("the relay ended with %v and lives", d.err)
		}
		if err := d.live(); err != nil {
			t.Error(err)
		}
	})
}
