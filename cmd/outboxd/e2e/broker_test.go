//go:build !embedded

package e2e_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// broker is one end of an end-to-end test: the flags that make the relay
// publish to it, and what arrives there.
type broker interface {
	flags() []string
	// domain names the ordering domain of an event, as delivered does.
	domain(aggregateType, aggregateID string) string
	// read reads until done says so of the number of distinct events.
	read(ctx context.Context, done func(distinct int) bool) []checker.Delivered
	// watch compares what is confirmed with what arrived or is parked while do
	// runs, if the broker can tell; sampled returns what it saw.
	watch(s *site, do func())
	sampled() []checker.Sample
}

// kafkaEnd is a set of topics that no other test uses.
type kafkaEnd struct {
	brokers  []string
	prefix   string
	consumer *workload.KafkaConsumer
	samples  []checker.Sample
}

func newKafkaEnd(t *testing.T, brokers []string) *kafkaEnd {
	t.Helper()
	prefix := devtest.Name(t)
	consumer, err := workload.NewKafkaConsumer(brokers, topics(prefix)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consumer.Close)
	return &kafkaEnd{brokers: brokers, prefix: prefix, consumer: consumer}
}

// topics are those of the workload's aggregate types.
func topics(prefix string) []string {
	return []string{prefix + ".order", prefix + ".invoice", prefix + ".big"}
}

// watch has somebody look from outside, while do runs, that nothing is
// confirmed which neither the broker has nor the table of parked events.
func (k *kafkaEnd) watch(s *site, do func()) {
	s.t.Helper()
	o := workload.Onlooker{Database: s.admin, Pipeline: s.pipeline, Slot: "outboxd_" + s.pipeline, Brokers: k.brokers, Topics: topics(k.prefix)}
	ctx, stop := context.WithCancel(s.t.Context())
	defer stop()
	watched := make(chan error, 1)
	go func() {
		var err error
		k.samples, err = o.Watch(ctx)
		watched <- err
	}()
	do()
	stop()
	if err := <-watched; err != nil {
		s.t.Fatal(err)
	}
}

func (k *kafkaEnd) flags() []string {
	return []string{"--broker", "kafka://" + strings.Join(k.brokers, ","), "--topic", k.prefix + ".{aggregatetype}", "--create-topics", "--topic-partitions", "6"}
}

func (k *kafkaEnd) sampled() []checker.Sample { return k.samples }

func (k *kafkaEnd) domain(aggregateType, aggregateID string) string {
	return k.prefix + "." + aggregateType + "/" + aggregateID
}

func (k *kafkaEnd) read(ctx context.Context, done func(int) bool) []checker.Delivered {
	return k.consumer.Read(ctx, done)
}

// rabbitEnd is an exchange with a queue that no other test uses.
type rabbitEnd struct {
	url, exchange string
	consumer      *workload.RabbitMQConsumer
}

func newRabbitEnd(t *testing.T, server string) *rabbitEnd {
	t.Helper()
	name := devtest.Name(t)
	consumer, err := workload.NewRabbitMQConsumer(server, name, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consumer.Close)
	return &rabbitEnd{server, name, consumer}
}

func (r *rabbitEnd) flags() []string {
	return []string{"--broker", r.url, "--exchange", r.exchange}
}

// watch does nothing but do: a queue does not tell when it got a message.
func (r *rabbitEnd) watch(_ *site, do func()) { do() }

func (r *rabbitEnd) sampled() []checker.Sample { return nil }

func (r *rabbitEnd) domain(_, aggregateID string) string { return r.exchange + "/" + aggregateID }

func (r *rabbitEnd) read(ctx context.Context, done func(int) bool) []checker.Delivered {
	return r.consumer.Read(ctx, func(key string) string { return r.exchange + "/" + key }, done)
}

// sharedBrokers are the services that tests share.
var sharedBrokers = map[string]func(*testing.T) broker{
	"Kafka":    func(t *testing.T) broker { return newKafkaEnd(t, devtest.Kafka(t)) },
	"RabbitMQ": func(t *testing.T) broker { return newRabbitEnd(t, devtest.RabbitMQ(t)) },
}

// judge waits until everything committed has arrived, a little longer for what
// should not, and judges.
func judge(t *testing.T, h *workload.History, b broker, duplicates int) {
	t.Helper()
	judgeKilled(t, h, b, duplicates, 0)
}

// judgeKilled is judge for relays that died with bytes on their way.
func judgeKilled(t *testing.T, h *workload.History, b broker, duplicates, stragglers int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	want := h.Committed()
	if want == 0 {
		t.Fatal("no event was committed: there is nothing to judge")
	}
	b.read(ctx, func(distinct int) bool { return distinct >= want })
	settle, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	v := checker.Judge(h.Written(), b.read(settle, func(int) bool { return false }), b.sampled()...)
	if !v.OK(duplicates, stragglers) {
		t.Errorf("at most %d duplicates and %d stragglers allowed\n%s", duplicates, stragglers, v)
	} else {
		t.Log(v)
	}
}

// writeBig writes one transaction of n events as the services' role. Their
// numbers begin with first: they rise from one transaction to the next.
func writeBig(t *testing.T, database string, b broker, h *workload.History, first, n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var written []checker.Written
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		for i := 0; i < n; i += 1000 {
			events := make([]outbox.Event, min(1000, n-i))
			for j := range events {
				number := first + i + j
				key := fmt.Sprintf("big-%d", number%1000)
				payload := fmt.Appendf(nil, `{"number": %d}`, number)
				events[j] = outbox.Event{ID: outbox.NewID(), AggregateType: "big", AggregateID: key, Type: "big.counted", Payload: payload}
				written = append(written, checker.Written{ID: events[j].ID.String(), Outcome: checker.Committed,
					Domain: b.domain("big", key), N: number, Sum: sha256.Sum256(payload)})
			}
			if _, err := outbox.Write(t.Context(), tx, events...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Add(written)
}

// mixed is the workload of most tests here.
func mixed(s *site, b broker) workload.Options {
	return workload.Options{Database: s.app, Seed: 1, Writers: 8, Transactions: 60, Keys: 20, MaxEvents: 1000, Emit: 20, Domain: b.domain}
}

func endToEnd(t *testing.T, b func(*testing.T) broker) {
	for _, version := range []string{"14", "15", "16", "17", "18"} {
		t.Run("PostgreSQL "+version, func(t *testing.T) {
			end := b(t)
			s := newSite(t, devtest.DatabaseOn(t, devtest.PostgresVersion(t, version).URL("postgres", "postgres")))
			relay := s.run(end.flags()...)
			var h workload.History
			if err := workload.Run(t.Context(), mixed(s, end), &h); err != nil {
				t.Fatal(err)
			}
			writeBig(t, s.app, end, &h, 0, 200_000)
			judge(t, &h, end, 0)
			if code := relay.term(); code != 0 {
				t.Errorf("exit code %d after SIGTERM\n%s", code, relay.logged())
			}
		})
	}
}

func TestEndToEndKafka(t *testing.T) {
	endToEnd(t, sharedBrokers["Kafka"])
}

func TestEndToEndRabbitMQ(t *testing.T) {
	endToEnd(t, sharedBrokers["RabbitMQ"])
}

// underLoad writes while disturb runs, and ends the writers after it.
func underLoad(t *testing.T, o workload.Options, h *workload.History, disturb func()) {
	t.Helper()
	o.Transactions, o.MaxEvents, o.Pause = 0, 50, 5*time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	result := make(chan error, 1)
	go func() { result <- workload.Run(ctx, o, h) }()
	disturb()
	stop()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if err := h.Resolve(t.Context(), o.Database); err != nil {
		t.Fatal(err)
	}
}

// confirmed reports whether the slot is at lsn or beyond.
func (s *site) confirmed(lsn string) bool {
	s.t.Helper()
	return s.value("SELECT (confirmed_flush_lsn >= '"+lsn+"')::text FROM pg_replication_slots WHERE slot_name = '"+s.slot()+"'") == "true"
}

// TestIdleOutboxBesideBusyTable: the slot follows the WAL of others, and the
// relay writes nothing while the server is idle.
func TestIdleOutboxBesideBusyTable(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{}) // nobody else writes there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	end := newKafkaEnd(t, devtest.Kafka(t))
	s := newSite(t, server.URL("postgres", "postgres"))
	s.run(end.flags()...).ready()
	s.exec("CREATE TABLE busy WITH (autovacuum_enabled = off) AS SELECT i, repeat('x', 1000) FROM generate_series(1, 100000) i")
	target := s.value("SELECT pg_current_wal_lsn()::text")
	eventually(t, 10*time.Second, "the slot follows", func() bool { return s.confirmed(target) })
	// Autovacuum may still be at work on the busy table: look for a while in
	// which the server wrote next to nothing by itself.
	for range 6 {
		version, lsn := s.value("SELECT version::text FROM outboxd.witness"), s.value("SELECT pg_current_wal_lsn()::text")
		<-time.After(7 * time.Second)
		if s.value("SELECT (pg_current_wal_lsn() - '"+lsn+"' < 16384)::text") != "true" {
			continue
		}
		if now := s.value("SELECT version::text FROM outboxd.witness"); now != version {
			t.Errorf("the relay wrote the witness on an idle server: version %s, then %s", version, now)
		}
		return
	}
	t.Error("the server never was idle")
}

// TestIdleOutboxWithoutBroker: the slot follows also while the broker is away,
// as long as there is no event for it, and an event waits for it.
func TestIdleOutboxWithoutBroker(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	s := newSite(t, server.URL("postgres", "postgres"))
	s.run("--broker", "kafka://127.0.0.1:1")
	s.exec("CREATE TABLE busy AS SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")
	target := s.value("SELECT pg_current_wal_lsn()::text")
	eventually(t, 40*time.Second, "the slot follows", func() bool { return s.confirmed(target) })
	s.exec(`INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'order', '1', 'order.placed')`)
	held := s.value("SELECT pg_current_wal_lsn()::text")
	s.exec("INSERT INTO busy SELECT i, repeat('x', 1000) FROM generate_series(1, 50000) i")
	<-time.After(15 * time.Second)
	if s.confirmed(held) {
		t.Error("an event that no broker took is confirmed")
	}
}

// TestFastShutdownFarBehind: a fast shutdown ends within 5 s with the slot 1 GB
// behind a broker that is away.
func TestFastShutdownFarBehind(t *testing.T) {
	server, err := devenv.StartPostgres(t.Context(), devenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	end := newKafkaEnd(t, devtest.Kafka(t))
	s := newSite(t, server.URL("postgres", "postgres"))
	s.exec(`INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
		SELECT gen_random_uuid(), 'big', (i % 1000)::text, 'big.counted', json_build_object('fill', repeat('x', 700)) FROM generate_series(1, 1000000) i`)
	r := s.run(end.flags()...)
	eventually(t, 30*time.Second, "the relay is catching up", func() bool { return r.metric("outboxd_events_published_total") > 1000 })
	began := time.Now()
	if err := server.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the server took %s to stop", took)
	}
}
