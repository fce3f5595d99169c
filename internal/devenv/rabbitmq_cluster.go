package devenv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
)

// RabbitMQCluster is three real nodes. One that cannot reach the two others
// pauses until it can, so that a minority serves nobody.
type RabbitMQCluster struct {
	box   *sandbox
	nodes []*RabbitMQNode
}

// StartRabbitMQCluster starts a cluster and returns when all nodes answer and
// know each other, in about 20 seconds. It takes half a GB of memory. It needs
// what StartRabbitMQ does. Close it when done.
func StartRabbitMQCluster(ctx context.Context, o RabbitMQOptions) (*RabbitMQCluster, error) {
	box, err := newSandbox("rabbitmq-cluster", "KILL")
	if err != nil {
		return nil, err
	}
	r := &RabbitMQCluster{box: box}
	if err := r.start(ctx, o); err != nil {
		return nil, errors.Join(err, box.close())
	}
	return r, nil
}

// start starts the first node alone and the others at once: they find it, and
// join.
func (r *RabbitMQCluster) start(ctx context.Context, o RabbitMQOptions) error {
	erl, err := startErlang(ctx, r.box)
	if err != nil {
		return err
	}
	var config strings.Builder
	config.WriteString("cluster_partition_handling = pause_minority\ncluster_formation.peer_discovery_backend = classic_config\n")
	// A node that is gone without a word is noticed within seconds.
	config.WriteString("net_ticktime = 4\n")
	for i := range clusterSize {
		fmt.Fprintf(&config, "cluster_formation.classic_config.nodes.%d = rabbitmq-%[1]d@localhost\n", i+1)
	}
	config.WriteString(o.Config)
	o.Config = config.String()
	for i := range clusterSize {
		node := new(RabbitMQNode)
		if err := node.prepare(r.box, erl, "rabbitmq-"+strconv.Itoa(i+1), o); err != nil {
			return err
		}
		r.nodes = append(r.nodes, node)
	}
	if err := r.nodes[0].Start(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range r.nodes[1:] {
		group.Go(func() error { return node.Start(ctx) })
	}
	return group.Wait()
}

// Nodes returns the nodes.
func (r *RabbitMQCluster) Nodes() []*RabbitMQNode { return r.nodes }

// Close ends all nodes and removes their files. It may be called more than
// once; they cannot be started again.
func (r *RabbitMQCluster) Close() error { return r.box.close() }
