package devenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

// KafkaCluster is three real brokers that are their own controllers, and two
// ways in. Who comes by Brokers may do everything. Who comes by SecureBrokers
// logs in with SCRAM-SHA-256, without TLS, as a user that was added over the
// first way, again every ten seconds, and may do what access control lists
// allow.
//
// Topics have three replicas, two of which must be in sync, unless they are
// created otherwise; clients cannot create them by asking for them.
type KafkaCluster struct {
	box    *sandbox
	nodes  []*KafkaNode
	secure []string
}

const clusterSize = 3

// StartKafkaCluster starts a cluster and returns when all brokers answer, in
// about 15 seconds. It takes 1 GB of memory. It needs what StartKafka does.
// Close it when done.
func StartKafkaCluster(ctx context.Context) (*KafkaCluster, error) {
	java, err := findKafka(ctx)
	if err != nil {
		return nil, err
	}
	// Brokers wait for each other when they stop in order. Nobody wants these back.
	box, err := newSandbox("kafka-cluster", "KILL")
	if err != nil {
		return nil, err
	}
	k := &KafkaCluster{box: box}
	if err := k.start(ctx, java); err != nil {
		return nil, errors.Join(err, box.close())
	}
	return k, nil
}

// start starts all brokers at once: one alone has no controller.
func (k *KafkaCluster) start(ctx context.Context, java jvm) error {
	ports, err := freePorts(3 * clusterSize) // for each: plain, secure, controller
	if err != nil {
		return err
	}
	var voters []string
	for i := range clusterSize {
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, loopback(ports[3*i+2])))
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range clusterSize {
		node := &KafkaNode{address: loopback(ports[3*i])}
		secure, controller := loopback(ports[3*i+1]), loopback(ports[3*i+2])
		k.nodes, k.secure = append(k.nodes, node), append(k.secure, secure)
		name := "kafka-" + strconv.Itoa(i+1)
		p := kafkaProperties(filepath.Join(k.box.dir, name), node.address, controller, memberProperties(i+1, node.address, secure, controller, voters))
		group.Go(func() error {
			if err := node.prepare(ctx, k.box, java, name, p, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"); err != nil {
				return err
			}
			return node.Start(ctx)
		})
	}
	return group.Wait()
}

// memberProperties are the settings of a node that is not alone.
func memberProperties(id int, broker, secure, controller string, voters []string) map[string]string {
	p := map[string]string{
		"node.id":                        strconv.Itoa(id),
		"controller.quorum.voters":       strings.Join(voters, ","),
		"listeners":                      "PLAINTEXT://" + broker + ",SECURE://" + secure + ",CONTROLLER://" + controller,
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_PLAINTEXT",
		"sasl.enabled.mechanisms":        "SCRAM-SHA-256",
		"listener.name.secure.scram-sha-256.sasl.jaas.config":          "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		"listener.name.secure.scram-sha-256.connections.max.reauth.ms": "10000",
		"authorizer.class.name":                                        "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                                                  "User:ANONYMOUS", // all that do not log in, brokers included
		"auto.create.topics.enable":                                    "false",
		"default.replication.factor":                                   "3",
		"min.insync.replicas":                                          "2",
	}
	maps.Copy(p, map[string]string{
		// A broker or controller that is gone is noticed within seconds.
		"controller.quorum.fetch.timeout.ms":    "1500",
		"controller.quorum.election.timeout.ms": "800",
	})
	return p
}

// Brokers returns the addresses of all nodes.
func (k *KafkaCluster) Brokers() []string {
	var all []string
	for _, node := range k.nodes {
		all = append(all, node.address)
	}
	return all
}

// SecureBrokers returns the addresses where all nodes want a login.
func (k *KafkaCluster) SecureBrokers() []string { return k.secure }

// Nodes returns the brokers; the first has node.id 1.
func (k *KafkaCluster) Nodes() []*KafkaNode { return k.nodes }

// Close ends all brokers and removes their files. It may be called more than
// once; they cannot be started again.
func (k *KafkaCluster) Close() error { return k.box.close() }
