//go:build !embedded

package e2e_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
)

// throughTopics publishes to topics of the shared Kafka, with an option of the
// URL and a client id of its own. No event is larger than their limits below.
func throughTopics(option string) func(*faultRun) {
	return func(f *faultRun) {
		f.t.Helper()
		f.load = lightLoad
		f.load.Small = true
		end := newKafkaEnd(f.t, devtest.Kafka(f.t))
		flags := end.flags()
		flags[1] += "?client_id=" + end.prefix + "&" + option
		f.end, f.flags = kafkaBy{end, flags}, []string{"--poison", "stop"}
	}
}

// burst commits n events of one aggregate, of so many bytes each, in one
// transaction, and returns the id of the last.
func (f *faultRun) burst(n, size int) (id string) {
	f.t.Helper()
	f.probes++
	key := fmt.Sprintf("burst-%d", f.probes)
	events, written := make([]outbox.Event, n), make([]checker.Written, n)
	for i := range n {
		payload := fmt.Appendf(nil, `{"n": %d, "fill": %q}`, i, strings.Repeat("x", size))
		events[i] = outbox.Event{ID: outbox.NewID(), AggregateType: "order", AggregateID: key, Type: "order.burst", Payload: payload}
		written[i] = checker.Written{ID: events[i].ID.String(), Outcome: checker.Committed, Domain: f.end.domain("order", key), N: i, Sum: sha256.Sum256(payload)}
	}
	conn, err := pgx.Connect(f.t.Context(), f.site.app)
	f.must(err)
	defer conn.Close(context.Background())
	f.must(pgx.BeginFunc(f.t.Context(), conn, func(tx pgx.Tx) error {
		_, err := outbox.Write(f.t.Context(), tx, events...)
		return err
	}))
	f.history.Add(written)
	return written[n-1].ID
}

func batchRefused(f *faultRun) {
	f.undisturbed(func() {
		f.setTopic(f.topic(), "max.message.bytes", "20000")
		f.arrives(f.burst(200, 1000))
		f.setTopic(f.topic(), "max.message.bytes", "1000000")
		f.healed()
	})
}

func eventRefused(f *faultRun) {
	f.setTopic(f.topic(), "max.message.bytes", "20000")
	// The broker hears of the limit in its own time: until then events pass.
	eventually(f.t, 30*time.Second, "an event is refused", func() bool {
		f.burst(1, 50_000)
		return f.relay.ends(time.Second)
	})
	f.stops(1, "poison", "too_large", f.topic(), "raise the limit")
	f.setTopic(f.topic(), "max.message.bytes", "1000000")
	f.start().ready()
	f.healed()
}

// withLogin publishes to three brokers as a user with the rights that README
// asks for.
func withLogin(f *faultRun) {
	f.t.Helper()
	onKafkaCluster(f)
	end := f.kafka()
	f.setPassword("kafka-secret")
	_, err := newAdmin(f.t, end.brokers).CreateACLs(f.t.Context(), f.rights(kadm.OpWrite, kadm.OpDescribe, kadm.OpCreate, kadm.OpDescribeConfigs))
	f.must(err)
	f.end = kafkaBy{end, append([]string{"--broker", f.secureURL(end.prefix + ":kafka-secret")}, end.flags()[2:]...)}
}

// secureURL is that of the three brokers for who logs in.
func (f *faultRun) secureURL(user string) string {
	return "kafka://" + user + "@" + strings.Join(devtest.KafkaCluster(f.t).SecureBrokers(), ",") + "?sasl=scram-sha-256"
}

// setPassword gives the relay's user a password, and waits until all brokers
// want that one.
func (f *faultRun) setPassword(password string) {
	f.t.Helper()
	user := f.kafka().prefix
	answers, err := newAdmin(f.t, f.kafka().brokers).AlterUserSCRAMs(f.t.Context(), nil,
		[]kadm.UpsertSCRAM{{User: user, Mechanism: kadm.ScramSha256, Iterations: 4096, Password: password}})
	f.must(errors.Join(err, answers.Error()))
	for _, address := range devtest.KafkaCluster(f.t).SecureBrokers() {
		eventually(f.t, 30*time.Second, "a broker knows the password", func() bool {
			client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha256Mechanism()))
			f.must(err)
			defer client.Close()
			return client.Ping(f.t.Context()) == nil
		})
	}
}

// rights are those of the relay's user on the row's topics.
func (f *faultRun) rights(operations ...kadm.ACLOperation) *kadm.ACLBuilder {
	return kadm.NewACLs().Allow("User:" + f.kafka().prefix).AllowHosts("*").Topics(f.kafka().prefix + ".").
		ResourcePatternType(kadm.ACLPatternPrefixed).Operations(operations...)
}

func rightTakenAway(f *faultRun) {
	admin := newAdmin(f.t, f.kafka().brokers)
	_, err := admin.DeleteACLs(f.t.Context(), f.rights(kadm.OpWrite))
	f.must(err)
	f.relay.says(http.StatusServiceUnavailable, "held", "not_authorized", f.kafka().prefix+".", "grant Write")
	_, err = admin.CreateACLs(f.t.Context(), f.rights(kadm.OpWrite))
	f.must(err)
}

// mortalKafka is topics that the relay may not make and that are deleted once.
// What the first ones held has been read then, by a consumer of their own.
type mortalKafka struct {
	*kafkaEnd
	former *workload.KafkaConsumer
}

// flags are those of the broker and the topic.
func (k *mortalKafka) flags() []string { return k.kafkaEnd.flags()[:4] }

// watch does nothing but do: the ends of logs say nothing when logs begin anew.
func (k *mortalKafka) watch(_ *site, do func()) { do() }

func (k *mortalKafka) seen(id string) bool {
	return k.kafkaEnd.seen(id) || k.former != nil && k.former.Seen(id)
}

func (k *mortalKafka) read(ctx context.Context, done func(int) bool) []checker.Delivered {
	now := k.kafkaEnd.read(ctx, done)
	if k.former == nil {
		return now
	}
	return append(k.former.Read(ctx, func(int) bool { return true }), now...)
}

// create creates the topics.
func (k *mortalKafka) create(f *faultRun) {
	f.t.Helper()
	_, err := newAdmin(f.t, k.brokers).CreateTopics(f.t.Context(), 6, 1, nil, topics(k.prefix)...)
	f.must(err)
}

func mortalTopics(f *faultRun) {
	f.t.Helper()
	end := &mortalKafka{kafkaEnd: newKafkaEnd(f.t, devtest.Kafka(f.t))}
	f.end, f.load = end, lightLoad
	end.create(f)
}

// topicsDeleted deletes all topics when nothing is on its way.
func topicsDeleted(f *faultRun) {
	f.quiet()
	end := f.end.(*mortalKafka)
	answers, err := newAdmin(f.t, end.brokers).DeleteTopics(f.t.Context(), topics(end.prefix)...)
	f.must(errors.Join(err, answers.Error()))
	f.startLoad()
	f.relay.says(http.StatusServiceUnavailable, "held", "missing_topic", end.prefix+".", "--create-topics")
	end.create(f)
	end.former = end.consumer
	end.consumer, err = workload.NewKafkaConsumer(end.brokers, topics(end.prefix)...)
	f.must(err)
	f.t.Cleanup(end.consumer.Close)
}

func throttled(f *faultRun) {
	client := f.kafka().prefix
	limit := func(op kadm.AlterClientQuotaOp) {
		f.t.Helper()
		op.Key = "producer_byte_rate"
		_, err := newAdmin(f.t, f.kafka().brokers).AlterClientQuotas(f.t.Context(), []kadm.AlterClientQuotaEntry{{
			Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &client}}, Ops: []kadm.AlterClientQuotaOp{op},
		}})
		f.must(err)
	}
	f.undisturbed(func() {
		limit(kadm.AlterClientQuotaOp{Value: 50_000})
		last := f.burst(300, 1000)
		eventually(f.t, 30*time.Second, "events wait", func() bool { return f.relay.metric("outboxd_oldest_unpublished_age_seconds") > 2 })
		f.arrives(last)
		limit(kadm.AlterClientQuotaOp{Remove: true})
		f.healed()
	})
}
