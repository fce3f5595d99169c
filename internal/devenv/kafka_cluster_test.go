//go:build !embedded

package devenv_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/outboxd/outboxd/internal/devenv"
)

// TestKafkaCluster takes one node after the other away in each of the ways: the
// others take over.
func TestKafkaCluster(t *testing.T) {
	ctx := testContext(t)
	k, err := devenv.StartKafkaCluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers()...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, 1, -1, nil, topic); err != nil {
		t.Fatal(err)
	}
	for _, away := range []struct {
		how       string
		take, put func(*devenv.KafkaNode) error
	}{
		{"stopped", func(n *devenv.KafkaNode) error { return n.Stop(ctx) }, func(n *devenv.KafkaNode) error { return n.Start(ctx) }},
		{"killed", (*devenv.KafkaNode).Kill, func(n *devenv.KafkaNode) error { return n.Start(ctx) }},
		{"frozen", (*devenv.KafkaNode).Freeze, (*devenv.KafkaNode).Thaw},
	} {
		node, others := leading(ctx, t, admin, k)
		if err := away.take(node); err != nil {
			t.Fatalf("%s: %v", away.how, err)
		}
		awaitLeader(ctx, t, others)
		if err := produce(ctx, others, away.how); err != nil {
			t.Fatalf("with the leader %s: %v", away.how, err)
		}
		if err := away.put(node); err != nil {
			t.Fatalf("back from %s: %v", away.how, err)
		}
		// The one that is back may not know yet that it leads no more.
		if got, err := lastRecord(ctx, others); err != nil || got != away.how {
			t.Errorf("read %q, %v; want %q", got, err, away.how)
		}
	}
	testLogin(ctx, t, k, admin)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	expectNothingLeft(t, k.Dir())
}

// leading returns the node that leads the topic's partition and the addresses of
// the others, when all replicas are in sync.
func leading(ctx context.Context, t *testing.T, admin *kadm.Client, k *devenv.KafkaCluster) (node *devenv.KafkaNode, others []string) {
	t.Helper()
	if !poll(ctx, func() bool {
		topics, err := admin.ListTopics(ctx, topic)
		p := topics[topic].Partitions[0]
		if err != nil || len(p.ISR) < 3 || p.Leader < 1 {
			return false
		}
		node = k.Nodes()[p.Leader-1]
		return true
	}) {
		t.Fatal("the replicas are not in sync")
	}
	return node, slices.DeleteFunc(k.Brokers(), func(address string) bool { return address == node.Address() })
}

// awaitLeader waits until one of those brokers leads the topic's partition.
func awaitLeader(ctx context.Context, t *testing.T, brokers []string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if !poll(ctx, func() bool {
		m, err := kadm.NewClient(client).Metadata(ctx, topic)
		p := m.Topics[topic].Partitions[0]
		return err == nil && p.Err == nil && slices.ContainsFunc(m.Brokers, func(b kadm.BrokerDetail) bool {
			return b.NodeID == p.Leader && slices.Contains(brokers, net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))))
		})
	}) {
		t.Fatal("no other broker became the leader")
	}
}

// testLogin: a user with the right password may do what it was allowed to.
func testLogin(ctx context.Context, t *testing.T, k *devenv.KafkaCluster, admin *kadm.Client) {
	t.Helper()
	_, err := admin.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "relay", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "right"}})
	if err != nil {
		t.Fatal(err)
	}
	write := func(password string) error {
		client, err := kgo.NewClient(kgo.SeedBrokers(k.SecureBrokers()...), kgo.SASL(scram.Auth{User: "relay", Pass: password}.AsSha256Mechanism()))
		if err != nil {
			return err
		}
		defer client.Close()
		if err := client.Ping(ctx); err != nil {
			return err // a refused login, after which producing would try again
		}
		return client.ProduceSync(ctx, &kgo.Record{Topic: topic}).FirstErr()
	}
	eventually := func(what, password string, want error) {
		t.Helper()
		// Brokers learn one after the other.
		if !poll(ctx, func() bool { err = write(password); return errors.Is(err, want) }) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	eventually("no right", "right", kerr.TopicAuthorizationFailed)
	acl := kadm.NewACLs().Allow("User:relay").AllowHosts().Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite, kadm.OpDescribe)
	if _, err := admin.CreateACLs(ctx, acl); err != nil {
		t.Fatal(err)
	}
	eventually("wrong password", "wrong", kerr.SaslAuthenticationFailed)
	eventually("allowed", "right", nil)
}
