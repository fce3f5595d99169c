//go:build !embedded

package e2e_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestMatrixKafka breaks Kafka: three real brokers, of which rows take some
// away, or topics of the shared one.
func TestMatrixKafka(t *testing.T) {
	runMatrix(t, "Kafka", []fault{
		{id: "F37", name: "all brokers killed", how: "SIGKILL of three nodes of three, then started again", alone: true,
			expect: "events wait and nothing past them is confirmed; `/livez` stays; nothing comes twice", arrange: onKafkaCluster, inject: brokersKilled},
		{id: "F38", name: "leaders move", how: "replicas reordered and preferred leaders elected, three times", alone: true,
			expect: "retried in the client, the session stays", arrange: onKafkaCluster, inject: leadersMove},
		{id: "F38b", name: "one of three stopped", how: "SIGTERM of a node that leads partitions", alone: true,
			expect: "events flow without it, the session stays", arrange: onKafkaCluster, inject: oneBroker(byStop)},
		{id: "F38c", name: "one of three killed", how: "SIGKILL of a node that leads partitions", alone: true,
			expect: "as F38b", arrange: onKafkaCluster, inject: oneBroker(byKill)},
		{id: "F38d", name: "one of three late", how: "a node that leads partitions stands still for 500 ms out of 600", alone: true,
			expect: "slow, the session stays", arrange: onKafkaCluster, inject: lateBroker},
		{id: "F39", name: "too few replicas in sync", how: "`min.insync.replicas=3` and one node of three stopped", alone: true,
			expect: "as F37; goes on when the node is back", arrange: onKafkaCluster, inject: tooFewReplicas},
		{id: "F40", name: "topic missing", elsewhere: "TestMissingTopicOfKafka"},
		{id: "F41", name: "event larger than the topic allows", elsewhere: "TestOversizedEventForKafka, TestLargeEvent"},
		{id: "F42", name: "topic's limit lowered below a batch", how: "`max.message.bytes` set to 20 kB while events flow; a transaction of 200 kB of one key",
			expect: "the batch that is refused is split; nothing comes twice, the session stays", arrange: throughTopics("compression=none"), inject: batchRefused},
		{id: "F42b", name: "topic's limit lowered below an event", how: "`max.message.bytes` set to 20 kB while events flow; one event of 50 kB",
			expect: "exit 1 in front of the event, `poison`, `too_large`; goes on when the limit is raised, and may repeat what was in flight behind the event", duplicates: mostInFlight, arrange: throughTopics("compression=none"), inject: eventRefused},
		{id: "F44", name: "protocol errors", how: "fifteen error codes in answers of a fake broker", elsewhere: "publisher/kafka TestFaults"},
		{id: "F45", name: "right to write taken away", how: "ACL for Write deleted while events flow", alone: true,
			expect: "held, `not_authorized` with the topic; goes on when the right is back; nothing comes twice", arrange: withLogin, inject: rightTakenAway},
		{id: "F46", name: "more partitions", elsewhere: "publisher/kafka TestGrowth"},
		{id: "F47", name: "topics deleted while running", how: "deleted between two events, created again later",
			expect: "held, `missing_topic` with its name; goes on when the topics are there", arrange: mortalTopics, inject: topicsDeleted},
		{id: "F49", name: "quota", how: "`producer_byte_rate` of 50 kB/s for the client; a transaction of 300 kB",
			expect: "slow, the session stays", arrange: throughTopics("compression=none"), inject: throttled},
	})
}

// node is one of several that a broker consists of.
type node interface {
	Start(context.Context) error
	Stop(context.Context) error
	Kill() error
	Freeze() error
	Thaw() error
}

// outage is a way to lose a node, and to get it back.
type outage struct {
	begin, end func(context.Context, node) error
}

var (
	restart = func(ctx context.Context, n node) error { return n.Start(ctx) }
	byStop  = outage{func(ctx context.Context, n node) error { return n.Stop(ctx) }, restart}
	byKill  = outage{func(_ context.Context, n node) error { return n.Kill() }, restart}
)

// lightLoad leaves a processor to the brokers: three of them start up in rows
// here.
var lightLoad = workload.Options{Seed: 1, Writers: 4, Keys: 20, MaxEvents: 50, Emit: 20, Pause: 40 * time.Millisecond}

// without takes nodes away while do runs, and brings them back at once.
func (f *faultRun) without(o outage, do func(), nodes ...node) {
	f.t.Helper()
	for _, n := range nodes {
		f.must(o.begin(f.t.Context(), n))
	}
	defer func() { // also when do ends the test
		errs := make([]error, len(nodes))
		var all sync.WaitGroup
		for i, n := range nodes {
			all.Go(func() { errs[i] = o.end(f.t.Context(), n) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			f.t.Error(err)
		}
	}()
	do()
}

func (f *faultRun) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// waits commits an event that cannot be published now, and looks at the relay
// until that has waited for some seconds.
func (f *faultRun) waits() {
	f.t.Helper()
	f.probe()
	lsn := f.site.value("SELECT pg_current_wal_lsn()::text")
	eventually(f.t, 30*time.Second, "an event waits", func() bool { return f.relay.metric("outboxd_oldest_unpublished_age_seconds") > 3 })
	if f.site.confirmed(lsn) {
		f.t.Error("an event that the broker does not have is confirmed")
	}
	if status, body := f.relay.get("/livez"); status != http.StatusOK {
		f.t.Errorf("livez: %d %s", status, body)
	}
}

// onKafkaCluster publishes to three brokers, three replicas of each topic.
func onKafkaCluster(f *faultRun) {
	f.t.Helper()
	brokers := devtest.KafkaCluster(f.t).Brokers()
	f.end = newKafkaEnd(f.t, brokers)
	f.flags = []string{"--topic-replication", "3"}
	f.load = lightLoad
	admin := newAdmin(f.t, brokers)
	eventually(f.t, time.Minute, "all brokers are there", func() bool {
		all, err := admin.ListBrokers(f.t.Context())
		return err == nil && len(all) == len(brokers)
	})
}

// newAdmin asks brokers anew each time.
func newAdmin(t *testing.T, brokers []string) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// kafkaBy is a Kafka that the relay reaches by other flags.
type kafkaBy struct {
	*kafkaEnd
	by []string
}

func (k kafkaBy) flags() []string { return k.by }

// kafka returns the row's end.
func (f *faultRun) kafka() *kafkaEnd {
	if k, ok := f.end.(kafkaBy); ok {
		return k.kafkaEnd
	}
	return f.end.(*kafkaEnd)
}

func (f *faultRun) topic() string { return f.kafka().prefix + ".order" }

// leading returns the broker that leads the first partition of the row's topic.
func (f *faultRun) leading() node {
	f.t.Helper()
	topics, err := newAdmin(f.t, f.kafka().brokers).ListTopics(f.t.Context(), f.topic())
	f.must(err)
	return devtest.KafkaCluster(f.t).Nodes()[topics[f.topic()].Partitions[0].Leader-1]
}

func brokersKilled(f *faultRun) {
	nodes := devtest.KafkaCluster(f.t).Nodes()
	f.undisturbed(func() { f.without(byKill, f.waits, nodes[0], nodes[1], nodes[2]) })
}

// oneBroker takes a leader away; events flow before it is back.
func oneBroker(o outage) func(*faultRun) {
	return func(f *faultRun) {
		f.undisturbed(func() { f.without(o, f.healed, f.leading()) })
	}
}

func lateBroker(f *faultRun) {
	n := f.leading()
	ctx, stop := context.WithCancel(f.t.Context())
	var stutter sync.WaitGroup
	stutter.Go(func() {
		for ctx.Err() == nil {
			if err := errors.Join(n.Freeze(), pause(ctx, 500*time.Millisecond), n.Thaw(), pause(ctx, 100*time.Millisecond)); err != nil {
				f.t.Error(err)
			}
		}
	})
	defer stutter.Wait()
	defer stop()
	f.undisturbed(func() {
		before := f.relay.metric("outboxd_events_published_total")
		eventually(f.t, time.Minute, "events come through", func() bool { return f.relay.metric("outboxd_events_published_total") >= before+100 })
	})
}

// pause is part of a fault. It returns nil.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

// leadersMove gives each partition another leader, again and again.
func leadersMove(f *faultRun) {
	admin := newAdmin(f.t, f.kafka().brokers)
	f.undisturbed(func() {
		for range 3 {
			topics, err := admin.ListTopics(f.t.Context(), f.topic())
			f.must(err)
			var order kadm.AlterPartitionAssignmentsReq
			leaders := map[int32]int32{}
			for _, p := range topics[f.topic()].Partitions {
				replicas := append(slices.Clone(p.Replicas[1:]), p.Replicas[0])
				order.Assign(p.Topic, p.Partition, replicas)
				leaders[p.Partition] = replicas[0]
			}
			answer, err := admin.AlterPartitionAssignments(f.t.Context(), order)
			f.must(errors.Join(err, answer.Error()))
			eventually(f.t, 30*time.Second, "others lead", func() bool {
				if _, err := admin.ElectLeaders(f.t.Context(), kadm.ElectPreferredReplica, topics.TopicsSet()); err != nil {
					return false
				}
				topics, err = admin.ListTopics(f.t.Context(), f.topic())
				f.must(err)
				for _, p := range topics[f.topic()].Partitions {
					if p.Leader != leaders[p.Partition] {
						return false
					}
				}
				return true
			})
			f.healed()
		}
	})
}

func tooFewReplicas(f *faultRun) {
	for _, name := range topics(f.kafka().prefix)[:2] {
		f.setTopic(name, "min.insync.replicas", "3")
	}
	f.undisturbed(func() { f.without(byStop, f.waits, f.leading()) })
}

// setTopic sets an option of a topic.
func (f *faultRun) setTopic(topic, name, value string) {
	f.t.Helper()
	answers, err := newAdmin(f.t, f.kafka().brokers).AlterTopicConfigs(f.t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, topic)
	f.must(err)
	f.must(answers[0].Err)
}
