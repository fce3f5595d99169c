// Package metrics holds what outboxd tells Prometheus. It has a registry of its
// own; nothing registers anywhere else.
//
// What is counted where it happens are counters here; what is a state is read
// at each scrape from the Snapshot of whoever knows it, so that a gauge cannot
// be forgotten when its state ends.
package metrics

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxDestinations bounds the label of the published counter: destinations come
// from data, and data can hold any number of them.
const maxDestinations = 100

// otherDestination counts for all destinations beyond maxDestinations.
const otherDestination = "other"

// latencyBuckets reach from a commit that is acked at once to a broker outage.
var latencyBuckets = [...]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}

// Build names what runs.
type Build struct {
	Version, Revision, GoVersion string
}

// Registry holds the metrics of one process.
type Registry struct{ registry *prometheus.Registry }

// NewRegistry returns a registry with what runs, and no pipeline yet.
func NewRegistry(build Build) *Registry {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "outboxd_build_info",
		Help:        "1, with what runs as labels.",
		ConstLabels: prometheus.Labels{"version": build.Version, "revision": build.Revision, "goversion": build.GoVersion},
	})
	info.Set(1)
	r := &Registry{registry: prometheus.NewRegistry()}
	r.registry.MustRegister(info)
	return r
}

// WithRuntime adds the collectors of the Go runtime and of the process.
func (r *Registry) WithRuntime() *Registry {
	r.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

// Handler serves the exposition.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{})
}

// Metrics are the counters of one pipeline. All methods are safe for concurrent
// use.
type Metrics struct {
	registerer prometheus.Registerer
	received   prometheus.Counter
	ignored    prometheus.Counter
	published  *prometheus.CounterVec
	latency    prometheus.Histogram
	sessions   *prometheus.CounterVec
	violations *prometheus.CounterVec
	rotations  *prometheus.CounterVec
	parked     *prometheus.CounterVec
	released   prometheus.Counter
	discarded  prometheus.Counter

	mu           sync.Mutex
	destinations map[string]prometheus.Counter
}

// Pipeline returns metrics that begin at zero and carry the pipeline's name as
// a label, also when it is the only one: what is drawn of one pipeline stays
// right when a second comes. Each name may be asked for once.
func (r *Registry) Pipeline(name string) *Metrics {
	m := &Metrics{
		registerer: prometheus.WrapRegistererWith(prometheus.Labels{"pipeline": name}, r.registry),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outboxd_events_received_total",
			Help: "Events taken from the replication slot, without those skipped because they were published before.",
		}),
		ignored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outboxd_messages_ignored_total",
			Help: "Messages in the slot that are not events of this pipeline: rows of other tables, logical messages with another prefix.",
		}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_events_published_total",
			Help: "Events acked by the broker, by topic or routing key (the first 100 of them, then \"other\").",
		}, []string{"destination"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "outboxd_commit_to_ack_seconds",
			Help:    "Time from the commit of an event's transaction (clock of PostgreSQL) to the broker's ack.",
			Buckets: latencyBuckets[:],
		}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_sessions_total",
			Help: "Sessions, and attempts at one, by what ended them.",
		}, []string{"reason"}),
		violations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_invariant_violations_total",
			Help: "Things that must never be so. Any value but 0 is a defect.",
		}, []string{"kind"}),
		rotations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_retention_runs_total",
			Help: "Attempts to empty expired partitions of the event table, by result: ok, error, behind (not all is published, or a gap is to be replayed), busy (somebody uses the partition).",
		}, []string{"result"}),
		parked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "outboxd_events_parked_total",
			Help: "Events that were parked, by reason; behind: an earlier event of the key is parked.",
		}, []string{"reason"}),
		released: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outboxd_parked_released_total",
			Help: "Parked events that were published after all.",
		}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "outboxd_parked_discarded_total",
			Help: "Parked events that were discarded on request.",
		}),
		destinations: map[string]prometheus.Counter{},
	}
	m.registerer.MustRegister(m.received, m.ignored, m.published, m.latency, m.sessions, m.violations, m.rotations,
		m.parked, m.released, m.discarded)
	// A violation must show as a step from 0, not as a series that appears.
	for _, kind := range []string{"ack", "order"} {
		m.violations.WithLabelValues(kind)
	}
	return m
}

// Received counts one event taken from the slot.
func (m *Metrics) Received() { m.received.Inc() }

// Ignored counts one message that is no event of this pipeline.
func (m *Metrics) Ignored() { m.ignored.Inc() }

// Published returns the counter of a destination. Asking takes a lock: keep
// the counter.
func (m *Metrics) Published(destination string) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.destinations[destination]; ok {
		return c
	}
	if len(m.destinations) >= maxDestinations {
		return m.published.WithLabelValues(otherDestination)
	}
	c := m.published.WithLabelValues(destination)
	m.destinations[destination] = c
	return c
}

// CommitToAck records one latency. The two times come from two clocks: less
// than nothing counts as nothing.
func (m *Metrics) CommitToAck(d time.Duration) { m.latency.Observe(max(d, 0).Seconds()) }

// Session counts the end of a session.
func (m *Metrics) Session(reason string) { m.sessions.WithLabelValues(reason).Inc() }

// Violation counts a broken invariant.
func (m *Metrics) Violation(kind string) { m.violations.WithLabelValues(kind).Inc() }

// Rotation counts one run of the retention: "ok", "error", "behind" or "busy".
func (m *Metrics) Rotation(result string) { m.rotations.WithLabelValues(result).Inc() }

// Parked counts one parked event.
func (m *Metrics) Parked(reason string) { m.parked.WithLabelValues(reason).Inc() }

// ParkedReleased counts n parked events that were published.
func (m *Metrics) ParkedReleased(n int) { m.released.Add(float64(n)) }

// ParkedDiscarded counts n parked events that were discarded.
func (m *Metrics) ParkedDiscarded(n int) { m.discarded.Add(float64(n)) }
