package devenv

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Kfake is franz-go's fake Kafka cluster, in this process.
type Kfake struct {
	cluster *kfake.Cluster
}

// StartKfake starts a cluster of one broker. As with StartKafka, unknown topics
// are created when a client allows it, with one partition. Options are kfake's
// own and override these.
func StartKfake(options ...kfake.Opt) (*Kfake, error) {
	all := append([]kfake.Opt{kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1)}, options...)
	cluster, err := kfake.NewCluster(all...)
	if err != nil {
		return nil, fmt.Errorf("start kfake: %w", err)
	}
	return &Kfake{cluster: cluster}, nil
}

// Brokers returns the addresses to connect to.
func (k *Kfake) Brokers() []string { return k.cluster.ListenAddrs() }

// Cluster is the cluster itself, for scripted faults.
func (k *Kfake) Cluster() *kfake.Cluster { return k.cluster }

// Close ends the cluster and all that it holds.
func (k *Kfake) Close() error {
	k.cluster.Close()
	return nil
}
