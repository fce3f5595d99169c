//go:build !embedded

package e2e_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// TestMatrixNetwork breaks the network between the relay and PostgreSQL, Kafka
// and RabbitMQ.
func TestMatrixNetwork(t *testing.T) {
	toKafka := behindProxy(t)
	// What a lost connection to RabbitMQ leaves unconfirmed, and so unknown. When
	// nothing comes from PostgreSQL, the lease on publishing runs out, and all
	// that is in flight is unknown.
	const window = 5000
	const cuts = 5
	runMatrix(t, "Network", []fault{
		{id: "F15", name: "PostgreSQL: reset within a message", how: "RST after a random number of bytes, five times",
			expect: "the partial message is dropped; nothing comes twice", arrange: farDatabase, inject: cutting(cuts)},
		{id: "F14", name: "PostgreSQL: link dead, no FIN", how: "nothing passes, in neither direction, for longer than `wal_sender_timeout`",
			expect:     "nothing more is published within half the timeout, and `/readyz` says so; goes on when the link is back",
			duplicates: mostInFlight, stragglers: mostInFlight, arrange: farDatabase, inject: silent(devtest.Wire{Frozen: true}, devtest.Wire{Frozen: true})},
		{id: "F16", name: "PostgreSQL: our side is not heard", how: "nothing passes to the server",
			expect: "as F14", duplicates: mostInFlight, stragglers: mostInFlight, arrange: farDatabase, inject: silent(devtest.Wire{Frozen: true}, devtest.Wire{})},
		{id: "F16b", name: "PostgreSQL: the server is not heard", how: "nothing passes to the relay",
			expect: "as F14", duplicates: mostInFlight, stragglers: mostInFlight, arrange: farDatabase, inject: silent(devtest.Wire{}, devtest.Wire{Frozen: true})},
		{id: "F17", name: "PostgreSQL: 64 kbit/s", how: "8,000 bytes a second, both ways, with a `wal_sender_timeout` of 6 s",
			expect: "slow, and the session stays", arrange: farPatientDatabase, inject: slowDatabase(devtest.Wire{Rate: 8000})},
		{id: "F17b", name: "PostgreSQL: far away", how: "100 ms each way, with a `wal_sender_timeout` of 3 s",
			expect: "as F17", arrange: farDatabase, inject: slowDatabase(devtest.Wire{Delay: 100 * time.Millisecond})},

		{id: "F43", name: "Kafka: reset within an answer", how: "RST after a random number of bytes, five times", alone: true,
			expect: "the client asks again with the same sequence numbers; nothing comes twice", arrange: toKafka, inject: cutting(cuts)},
		{id: "F37", name: "Kafka: link dead, no FIN", how: "nothing passes, in neither direction, for three times the `wal_sender_timeout`", alone: true,
			expect: "events wait, the session with PostgreSQL stays; nothing comes twice", arrange: toKafka, inject: brokerSilent(devtest.Wire{Frozen: true}, devtest.Wire{Frozen: true})},
		{id: "F5", name: "Kafka: link dead, backlog of 60,000 events", how: "as F37, and one transaction of 60,000 events meanwhile", alone: true,
			expect: "what is in flight stays bounded, and so does memory; nothing comes twice", arrange: toKafka, inject: backlog(60_000)},
		{id: "F43b", name: "Kafka: answers are lost", how: "nothing passes to the relay, then RST", alone: true,
			expect: "as F37", arrange: toKafka, inject: brokerSilent(devtest.Wire{}, devtest.Wire{Frozen: true})},
		{id: "F48", name: "Kafka: 5 s for each answer", how: "5 s delay to the relay", alone: true,
			expect: "slow, what is in flight stays bounded, the session with PostgreSQL stays", arrange: toKafka, inject: brokerSlow(devtest.Wire{}, devtest.Wire{Delay: 5 * time.Second})},
		{id: "F48b", name: "Kafka: 64 kbit/s", how: "8,000 bytes a second to the broker", alone: true,
			expect: "as F48", arrange: toKafka, inject: brokerSlow(devtest.Wire{Rate: 8000}, devtest.Wire{})},

		{id: "F54", name: "RabbitMQ: reset within an answer", how: "RST after a random number of bytes, five times",
			expect: "what was unconfirmed is published again", duplicates: cuts * window, stragglers: cuts * window, arrange: farRabbitMQ, inject: cutting(cuts)},
		{id: "F57", name: "RabbitMQ: link dead, no FIN", how: "nothing passes, in neither direction, for longer than the heartbeat allows",
			expect: "found by the heartbeat, `/readyz` says so; as F54", duplicates: window, stragglers: window, arrange: farRabbitMQ, inject: silentRabbitMQ(devtest.Wire{Frozen: true}, devtest.Wire{Frozen: true})},
		{id: "F58", name: "RabbitMQ: confirms are lost", how: "nothing passes to the relay",
			expect: "as F57", duplicates: window, stragglers: window, arrange: farRabbitMQ, inject: silentRabbitMQ(devtest.Wire{}, devtest.Wire{Frozen: true})},
		{id: "F58c", name: "RabbitMQ: 1 s for each answer", how: "1 s delay to the relay",
			expect: "as F58b; a key has one event a second", arrange: farRabbitMQ, inject: brokerSlow(devtest.Wire{}, devtest.Wire{Delay: time.Second})},
		{id: "F58b", name: "RabbitMQ: 64 kbit/s", how: "8,000 bytes a second to the broker",
			expect: "slow, what is in flight stays bounded, the session with PostgreSQL stays", arrange: farRabbitMQ, inject: brokerSlow(devtest.Wire{Rate: 8000}, devtest.Wire{})},
	})
}

// farDatabase puts a proxy between the relay and PostgreSQL.
func farDatabase(f *faultRun) {
	f.t.Helper()
	f.shortTimeoutFromStart()
	f.databaseBehindProxy()
}

// farPatientDatabase is that with twice the time: the lease asks once a second,
// and beside a stream that fills the wire an answer may take as long.
func farPatientDatabase(f *faultRun) {
	f.t.Helper()
	farDatabase(f)
	f.site.exec("ALTER ROLE " + f.role() + " SET wal_sender_timeout = '6s'")
}

func (f *faultRun) databaseBehindProxy() {
	f.t.Helper()
	u, err := url.Parse(f.site.relay)
	if err != nil {
		f.t.Fatal(err)
	}
	f.net = devtest.NewProxy(f.t, u.Host)
	u.Host = f.net.Addr
	f.site.relay = u.String()
}

// farRabbitMQ puts a proxy between the relay and RabbitMQ.
func farRabbitMQ(f *faultRun) {
	f.t.Helper()
	f.shortTimeoutFromStart()
	server := devtest.RabbitMQ(f.t)
	end := newRabbitEnd(f.t, server)
	u, err := url.Parse(server)
	if err != nil {
		f.t.Fatal(err)
	}
	f.net = devtest.NewProxy(f.t, u.Host)
	u.Host = f.net.Addr
	u.RawQuery = "heartbeat=2s"
	end.url = u.String()
	f.end = end
}

// shortTimeoutFromStart lets the relay begin with a wal_sender_timeout of 3 s.
func (f *faultRun) shortTimeoutFromStart() {
	f.t.Helper()
	f.site = newSite(f.t, devtest.Database(f.t))
	f.site.exec("ALTER ROLE " + f.role() + " SET wal_sender_timeout = '3s'")
}

// behindProxy starts a Kafka that tells its clients to connect to a proxy. The
// consumers of the rows do not.
func behindProxy(t *testing.T) (arrange func(*faultRun)) {
	t.Helper()
	net := devtest.NewProxy(t, "")
	kafka, err := devenv.StartKafka(t.Context(), devenv.KafkaOptions{Advertised: net.Addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kafka.Close() })
	address := kafka.Brokers()[0]
	net.Lead(address)
	return func(f *faultRun) {
		f.t.Helper()
		f.shortTimeoutFromStart()
		prefix := devtest.Name(f.t)
		consumer, err := workload.NewKafkaConsumerAt(address, topics(prefix)...)
		if err != nil {
			f.t.Fatal(err)
		}
		f.t.Cleanup(consumer.Close)
		f.net, f.end = net, &kafkaEnd{brokers: []string{net.Addr}, prefix: prefix, consumer: consumer}
		f.t.Cleanup(func() { net.Set(devtest.Wire{}, devtest.Wire{}) })
	}
}

// cutting resets all connections at random bytes of what comes to the relay.
func cutting(times int) func(*faultRun) {
	return func(f *faultRun) {
		for range times {
			f.net.CutAfter(rand.Int64N(20_000))
			eventually(f.t, 30*time.Second, "the connections are cut", f.net.Cut)
			f.healed()
		}
	}
}

// silent is a link to PostgreSQL that loses bytes.
func silent(up, down devtest.Wire) func(*faultRun) {
	return func(f *faultRun) {
		f.net.Set(up, down)
		f.relay.says(http.StatusServiceUnavailable, "database_unreachable")
		f.net.Set(devtest.Wire{}, devtest.Wire{})
	}
}

// slowDatabase lets events through a slow link, for longer than
// wal_sender_timeout.
func slowDatabase(w devtest.Wire) func(*faultRun) {
	return func(f *faultRun) {
		f.undisturbed(func() {
			f.net.Set(w, w)
			began, before := time.Now(), f.relay.metric("outboxd_events_published_total")
			eventually(f.t, time.Minute, "events come through", func() bool {
				return time.Since(began) > 8*time.Second && f.relay.metric("outboxd_events_published_total") >= before+20
			})
			f.net.Set(devtest.Wire{}, devtest.Wire{})
		})
	}
}

// brokerSilent is a link to Kafka that loses bytes, while PostgreSQL must
// neither lose its session nor be confirmed to.
func brokerSilent(up, down devtest.Wire) func(*faultRun) {
	return func(f *faultRun) {
		f.undisturbed(func() {
			f.net.Set(up, down)
			eventually(f.t, 30*time.Second, "events wait", func() bool { return f.relay.metric("outboxd_oldest_unpublished_age_seconds") > 9 })
			f.net.Set(devtest.Wire{}, devtest.Wire{})
			f.net.Reset()
		})
	}
}

// backlog lets events come while the link to the broker is dead.
func backlog(n int) func(*faultRun) {
	return func(f *faultRun) {
		f.undisturbed(func() {
			f.net.Set(devtest.Wire{Frozen: true}, devtest.Wire{Frozen: true})
			f.commitMany(n)
			eventually(f.t, 30*time.Second, "events wait", func() bool { return f.relay.metric("outboxd_oldest_unpublished_age_seconds") > 9 })
			f.boundedInFlight()
			f.net.Set(devtest.Wire{}, devtest.Wire{})
		})
	}
}

// commitMany writes n events in one transaction.
func (f *faultRun) commitMany(n int) {
	f.t.Helper()
	events, written := make([]outbox.Event, n), make([]checker.Written, n)
	for i := range n {
		events[i], written[i] = f.event()
	}
	conn, err := pgx.Connect(f.t.Context(), f.site.app)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	err = pgx.BeginFunc(f.t.Context(), conn, func(tx pgx.Tx) error {
		for chunk := range slices.Chunk(events, 1000) {
			if _, err := outbox.Write(f.t.Context(), tx, chunk...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.history.Add(written)
}

// boundedInFlight looks whether the relay holds more than it should.
func (f *faultRun) boundedInFlight() {
	f.t.Helper()
	if n := f.relay.metric("outboxd_inflight_events"); n > mostInFlight {
		f.t.Errorf("%v events in flight", n)
	}
}

// brokerSlow lets events through a slow link to a broker.
func brokerSlow(up, down devtest.Wire) func(*faultRun) {
	return func(f *faultRun) {
		f.undisturbed(func() {
			f.net.Set(up, down)
			before := f.relay.metric("outboxd_events_published_total")
			eventually(f.t, 30*time.Second, "events wait", func() bool { return f.relay.metric("outboxd_oldest_unpublished_age_seconds") > 5 })
			eventually(f.t, time.Minute, "events come through", func() bool { return f.relay.metric("outboxd_events_published_total") >= before+20 })
			f.boundedInFlight()
			f.net.Set(devtest.Wire{}, devtest.Wire{})
		})
	}
}

// silentRabbitMQ is a link that loses bytes until the heartbeat finds it.
func silentRabbitMQ(up, down devtest.Wire) func(*faultRun) {
	return func(f *faultRun) {
		f.net.Set(up, down)
		f.relay.says(http.StatusServiceUnavailable, "broker_unreachable")
		f.net.Set(devtest.Wire{}, devtest.Wire{})
	}
}
