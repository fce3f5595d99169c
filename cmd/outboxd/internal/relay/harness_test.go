package relay_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// bench is a relay between a scripted slot and a scripted broker. It lives in a
// synctest bubble: time is virtual.
type bench struct {
	*relay.Relay
	t        *testing.T
	slot     *script
	broker   *publishertest.Fake
	logged   *logs
	registry *metrics.Registry
	stop     context.CancelFunc
	result   chan error
}

func newBench(t *testing.T) *bench {
	format, err := record.New(record.Options{Pipeline: "test"})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, slot: newScript(t), broker: &publishertest.Fake{}, logged: &logs{}, registry: metrics.NewRegistry(metrics.Build{}), result: make(chan error, 1)}
	b.slot.published = b.has
	b.Relay = &relay.Relay{
		Source: b.slot,
		OpenPublisher: func(_ context.Context, done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
			return b.broker.Open(done, guard)
		},
		Format: format, Table: "public.outbox",
		Metrics: b.registry.Pipeline("test"),
		Logger:  slog.New(slog.NewTextHandler(b.logged, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	b.Metrics.Observe(b.Snapshot)
	return b
}

// start runs the relay until the test ends or stops it.
func (b *bench) start() {
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	go func() { b.result <- b.Run(ctx) }()
	b.t.Cleanup(stop)
}

// finish stops the relay and returns what Run returned.
func (b *bench) finish() error {
	b.stop()
	return <-b.result
}

// settle lets virtual time pass.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) has(id string) bool {
	return slices.ContainsFunc(b.broker.Stored(), func(r publisher.Record) bool { return r.ID == id })
}

// stored is what the broker holds, in the order of arrival.
func (b *bench) stored() string {
	var ids []string
	for _, r := range b.broker.Stored() {
		ids = append(ids, r.ID)
	}
	return strings.Join(ids, " ")
}

func (b *bench) expect(what, got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s: %s\nwant %s", what, got, want)
	}
}

// stopped returns the error that the relay stopped with by itself.
func (b *bench) stopped() *relay.StopError {
	b.t.Helper()
	select {
	case err := <-b.result:
		var stop *relay.StopError
		if !errors.As(err, &stop) {
			b.t.Fatalf("Run returned %v, want a *StopError", err)
		}
		return stop
	case <-time.After(10 * time.Minute):
		b.t.Fatal("the relay did not stop")
		return nil
	}
}

// logs counts what was logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), part)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// expose returns all metrics, without the label that all of them have.
func (b *bench) expose() string {
	w := httptest.NewRecorder()
	b.registry.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return strings.NewReplacer(`{pipeline="test"}`, "", `,pipeline="test"`, "", `pipeline="test",`, "").Replace(w.Body.String())
}

// exposed returns the value of a metric, as text.
func (b *bench) exposed(series string) string {
	b.t.Helper()
	for line := range strings.Lines(b.expose()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func simulated(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

// unkeyed is a format that publishes events without an aggregate id.
func unkeyed(t *testing.T) *record.Format {
	t.Helper()
	f, err := record.New(record.Options{Pipeline: "test", AllowUnkeyed: true})
	if err != nil {
		t.Fatal(err)
	}
	return f
}
