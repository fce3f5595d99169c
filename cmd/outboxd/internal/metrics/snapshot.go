package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outboxd/outboxd/cdc"
)

// Snapshot is the state of a relay at one moment.
type Snapshot struct {
	// Stopped: the relay has met what only an operator can mend.
	Stopped bool
	// OldestUnpublished is the age of the oldest committed event that is known
	// and not acked; 0 when there is none.
	OldestUnpublished time.Duration
	// InFlightEvents and InFlightBytes count what was given to the publisher
	// and has no outcome yet.
	InFlightEvents, InFlightBytes int64
	// Leader: this process has the slot, or had it last and tries again.
	// Streaming: a session is up.
	Leader, Streaming bool
	// HeldReason and HeldTarget say what an event waits for; empty when
	// nothing is held.
	HeldReason, HeldTarget string
	// ParkedEvents, ParkedBytes and ParkedKeys count what is parked: events,
	// their bytes, and keys whose later events wait behind them.
	ParkedEvents, ParkedBytes, ParkedKeys int64
	// Slot is as the server last described it.
	Slot cdc.SlotStats
	// Broker is what the backend counts.
	Broker Broker
	// RetentionBacklog is for how long there has been an expired partition that
	// is not empty; 0: there is none, or another process looks after it.
	RetentionBacklog time.Duration
	// SkippedHeaders counts headers of events that were left out because the
	// record's own headers have their names.
	SkippedHeaders uint64
}

// Broker is what a backend counts beside the acks. What a backend does not
// know stays zero.
type Broker struct {
	// Discarded counts events that no queue was bound for and that were let go,
	// as configured, since the start of the process.
	Discarded uint64
	// HotKeyWaits counts the times that an event had to wait for the ack of an
	// earlier one of its key while the broker had room, since the start of the
	// process.
	HotKeyWaits uint64
	// Blocked: the broker has blocked the connection.
	Blocked bool
	// GrownTopics is how many topics have more partitions than when this
	// session first used them.
	GrownTopics int
}

// walStatuses are the values of pg_replication_slots.wal_status.
var walStatuses = [...]string{"reserved", "extended", "unreserved", "lost"}

// Observe has f called at each scrape. It may be called once.
func (m *Metrics) Observe(f func() Snapshot) { m.registerer.MustRegister(&collector{snapshot: f}) }

type collector struct{ snapshot func() Snapshot }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("outboxd_"+name, help, labels, nil)
}

var (
	descUp          = desc("pipeline_up", "1 while the relay of the pipeline works or tries to; 0 when it has stopped on what only an operator can mend.")
	descAge         = desc("oldest_unpublished_age_seconds", "Age of the oldest committed event that is known to the relay and not acked; 0 when there is none.")
	descInFlight    = desc("inflight_events", "Events given to the publisher whose outcome is not known yet.")
	descBytes       = desc("inflight_bytes", "Bytes of the events in flight.")
	descLeader      = desc("leader", "1 when this process holds the slot or held it last, 0 while it stands by.")
	descStreaming   = desc("streaming", "1 while a session is up.")
	descHeld        = desc("events_held", "1 for the reason and target that an event waits for; those behind it are not counted.", "reason", "target")
	descParked      = desc("parked_events", "Events that are parked, of a pipeline that this process leads.")
	descParkedBytes = desc("parked_bytes", "Bytes of the parked events.")
	descParkedKeys  = desc("parked_keys", "Keys that have a parked event: their later events are parked behind it.")
	descRetained    = desc("slot_retained_wal_bytes", "WAL that the server keeps for the slot: current position - restart_lsn.")
	descLimit       = desc("slot_retained_wal_limit_bytes", "--max-retained-wal; absent without it.")
	descUnconfirmed = desc("slot_unconfirmed_wal_bytes", "WAL not confirmed yet: current position - confirmed_flush_lsn.")
	descSafe        = desc("slot_safe_wal_bytes", "WAL that may still be written before the slot is lost (safe_wal_size); absent when the server sets no limit.")
	descXmin        = desc("slot_catalog_xmin_age", "Transactions since the oldest one for which the slot keeps dead rows of the catalogs: age(catalog_xmin).")
	descStatus      = desc("slot_wal_status", "1 for the current wal_status of the slot.", "status")
	descDiscarded   = desc("events_discarded_total", "Events that no queue was bound for and that were discarded, as --unroutable discard asks.")
	descHotKey      = desc("hot_key_waits_total", "Times that an event waited for the ack of an earlier one of its key while the broker had room: one key caps the rate.")
	descBlocked     = desc("broker_blocked", "1 while the broker blocks the connection (memory or disk alarm).")
	descGrown       = desc("topics_grown", "Topics that have more partitions than when this session first used them: keys move with the next session.")
	descBacklog     = desc("retention_backlog_seconds", "For how long there has been an expired partition of the event table that could not be emptied; some minutes are usual, 0 is none.")
	descSkipped     = desc("headers_skipped_total", "Headers of events that were left out because the record's own headers have their names.")
	descSpillTxns   = desc("slot_spill_transactions_total", "Transactions that decoding spilled to the server's disk.")
	descSpillBytes  = desc("slot_spill_bytes_total", "Bytes that decoding spilled to the server's disk.")
)

// Describe sends nothing: what is absent (a slot never seen) must stay absent,
// which an unchecked collector allows.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the snapshot once, so that the values fit together.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.snapshot()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descUp, flag(!s.Stopped))
	gauge(descAge, max(s.OldestUnpublished, 0).Seconds())
	gauge(descInFlight, float64(s.InFlightEvents))
	gauge(descBytes, float64(s.InFlightBytes))
	gauge(descParked, float64(s.ParkedEvents))
	gauge(descParkedBytes, float64(s.ParkedBytes))
	gauge(descParkedKeys, float64(s.ParkedKeys))
	gauge(descBacklog, max(s.RetentionBacklog, 0).Seconds())
	gauge(descLeader, flag(s.Leader))
	gauge(descStreaming, flag(s.Streaming))
	gauge(descBlocked, flag(s.Broker.Blocked))
	gauge(descGrown, float64(s.Broker.GrownTopics))
	ch <- prometheus.MustNewConstMetric(descDiscarded, prometheus.CounterValue, float64(s.Broker.Discarded))
	ch <- prometheus.MustNewConstMetric(descHotKey, prometheus.CounterValue, float64(s.Broker.HotKeyWaits))
	ch <- prometheus.MustNewConstMetric(descSkipped, prometheus.CounterValue, float64(s.SkippedHeaders))
	if s.HeldReason != "" {
		gauge(descHeld, 1, s.HeldReason, s.HeldTarget)
	}
	if s.Slot.At.IsZero() {
		return
	}
	gauge(descRetained, float64(s.Slot.RetainedBytes))
	if s.Slot.RetainedLimit > 0 {
		gauge(descLimit, float64(s.Slot.RetainedLimit))
	}
	gauge(descUnconfirmed, float64(s.Slot.UnconfirmedBytes))
	if s.Slot.SafeBytes >= 0 {
		gauge(descSafe, float64(s.Slot.SafeBytes))
	}
	gauge(descXmin, float64(s.Slot.CatalogXminAge))
	for _, status := range walStatuses {
		gauge(descStatus, flag(status == s.Slot.WALStatus), status)
	}
	ch <- prometheus.MustNewConstMetric(descSpillTxns, prometheus.CounterValue, float64(s.Slot.SpillTxns))
	ch <- prometheus.MustNewConstMetric(descSpillBytes, prometheus.CounterValue, float64(s.Slot.SpillBytes))
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
