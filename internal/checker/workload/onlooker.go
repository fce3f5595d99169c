package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/checker"
)

// Onlooker compares from outside, at random moments, what a slot has confirmed
// with what is parked and what the topics hold.
type Onlooker struct {
	Database string // of a role that may read pg_replication_slots and outboxd.parked
	Pipeline string
	Slot     string
	Brokers  []string
	Topics   []string
}

// Watch takes samples until ctx ends. A server that is away makes no sample.
func (o *Onlooker) Watch(ctx context.Context) ([]checker.Sample, error) {
	// Topics appear while we look: what was known of them before is no answer.
	client, err := kgo.NewClient(kgo.SeedBrokers(o.Brokers...), kgo.RetryTimeout(time.Second), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	ids := map[string]string{} // one copy of each, however many samples have it
	var samples []checker.Sample
	for {
		select {
		case <-ctx.Done():
			return samples, nil
		case <-time.After(20*time.Millisecond + rand.N(200*time.Millisecond)):
		}
		if s, err := o.look(ctx, admin, ids); err == nil {
			samples = append(samples, s)
		}
	}
}

// look asks the slot first: what is stored in between is no excuse for it. What is
// parked comes before the topics: a row goes when its event is in one of them.
func (o *Onlooker) look(ctx context.Context, admin *kadm.Client, ids map[string]string) (checker.Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s := checker.Sample{Ends: map[string]int64{}}
	conn, err := pgx.Connect(ctx, o.Database)
	if err != nil {
		return s, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, "SELECT lpad(to_hex((confirmed_flush_lsn - '0/0')::bigint), 16, '0') FROM pg_replication_slots WHERE slot_name = $1", o.Slot).Scan(&s.Confirmed)
	if err != nil {
		return s, err
	}
	if s.Parked, err = o.parked(ctx, conn, ids); err != nil {
		return s, err
	}
	ends, err := admin.ListEndOffsets(ctx, o.Topics...)
	if err != nil {
		return s, err
	}
	var unknown error
	ends.Each(func(end kadm.ListedOffset) {
		if end.Err != nil && end.Partition >= 0 {
			unknown = end.Err
			return
		}
		s.Ends[logName(end.Topic, end.Partition)] = end.Offset
	})
	return s, unknown
}

// parked returns the ids of what is parked or was discarded.
func (o *Onlooker) parked(ctx context.Context, conn *pgx.Conn, ids map[string]string) ([]string, error) {
	rows, err := conn.Query(ctx, "SELECT convert_from(id, 'UTF8') FROM outboxd.parked WHERE pipeline = $1 AND id IS NOT NULL ORDER BY id", o.Pipeline)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var id string
		err := row.Scan(&id)
		if _, known := ids[id]; !known {
			ids[id] = id
		}
		return ids[id], err
	})
}

func logName(topic string, partition int32) string { return fmt.Sprintf("%s %d", topic, partition) }
