package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
)

// suspicion is after how long without an answer a lane asks whether the topics
// of its window still exist: the client waits for a missing topic for ever.
const suspicion = 5 * time.Second

// lane sends the records of some partitions, window after window.
type lane struct {
	pub    *Publisher
	client *kgo.Client
	once   sync.Once // closes client
	warm   map[place]bool
	gate   sync.RWMutex // held while a flush is handed to the client; see gatedConn

	wake chan struct{} // the filling window got a record, or the lane was shut
	room chan struct{} // the filling window was taken, or the lane was shut

	mu      sync.Mutex
	filling *window
	spare   *window // nil while it is on its way
	ended   bool    // nothing may be added
	refused error   // why the last connection could not be made; nil: it was
}

func newLane(p *Publisher) *lane {
	return &lane{
		pub:     p,
		warm:    make(map[place]bool),
		wake:    make(chan struct{}, 1),
		room:    make(chan struct{}, 1),
		filling: &window{batch: make(map[place]int)},
		spare:   &window{batch: make(map[place]int)},
	}
}

// options are those that make a client fit for a lane.
func (l *lane) options(dial dialer) []kgo.Opt {
	topics := &l.pub.topics
	return []kgo.Opt{
		kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			// What a lost connection leaves unsure the client sends again on
			// the next one.
			if l.pub.closing.Err() != nil {
				return nil, publisher.ErrClosed
			}
			conn, err := dial(ctx, network, addr)
			l.mu.Lock()
			l.refused = err
			l.mu.Unlock()
			if err != nil {
				return nil, err
			}
			return &gatedConn{Conn: &pacedConn{Conn: conn}, gate: &l.gate}, nil
		}),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(l.pub.config.WindowRecords + 1),
		kgo.ProducerBatchCompression(l.pub.config.codec()),
		kgo.ProducerBatchMaxBytesFn(topics.batchMax),
		kgo.BrokerMaxWriteBytes(int32(l.pub.config.MaxRequestBytes)),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(name string) func(*kgo.Record, int) int {
			t := topics.get(name)
			return func(r *kgo.Record, n int) int {
				topics.seen(t, n)
				return int(r.Partition)
			}
		})),
		// A missing topic is found by asking, not by an error that would come
		// for a topic that is only slow to appear.
		kgo.UnknownTopicRetries(-1),
		kgo.StopProducerOnDataLossDetected(),
	}
}

func (l *lane) closeClient() { l.once.Do(l.client.Close) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add puts r into the filling window, and waits for room there.
func (l *lane) add(ctx context.Context, r *publisher.Record, t *topic, partition int32, preset error) error {
	pl, size := place{t, partition}, recordSize(r)
	for {
		l.mu.Lock()
		if l.ended {
			l.mu.Unlock()
			return l.pub.declined()
		}
		if l.filling.fits(&l.pub.config, pl, size) {
			l.filling.add(r, pl, size, preset)
			l.mu.Unlock()
			signal(l.wake)
			return nil
		}
		l.mu.Unlock()
		select {
		case <-l.room:
		case <-ctx.Done():
			return fmt.Errorf("wait for room: %w", context.Cause(ctx))
		}
	}
}

// shut keeps records from being added. Those that were are still sent.
func (l *lane) shut() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	signal(l.wake)
	signal(l.room)
}

// run sends windows until the lane is shut and empty, or the publisher broken.
func (l *lane) run() {
	for {
		w := l.take()
		if w == nil {
			return
		}
		l.send(w)
		w.reset()
		l.mu.Lock()
		l.spare = w
		l.mu.Unlock()
	}
}

// take waits for a window with records. It returns nil when there will be
// none.
func (l *lane) take() *window {
	for {
		broken := l.pub.broken.Err() != nil
		if broken {
			l.shut()
		}
		l.mu.Lock()
		w, ended := l.filling, l.ended
		if w.n > 0 {
			l.filling, l.spare = l.spare, nil
			l.mu.Unlock()
			signal(l.room)
			return w
		}
		l.mu.Unlock()
		if ended {
			return nil
		}
		select {
		case <-l.wake:
		case <-l.pub.broken.Done():
		}
	}
}

// send publishes w and reports what became of each record.
func (l *lane) send(w *window) {
	slots := w.used()
	if l.pub.broken.Err() != nil {
		l.abort(slots)
		return
	}
	l.pub.stats.windows.Add(1)
	good := slots
	for i, s := range slots {
		if s.preset != nil {
			good = slots[:i]
			break
		}
	}
	// The first record of a partition goes alone: while the client does not
	// know the topic, it sends a second batch behind the first, and a broker
	// that does not know the producer yet takes a batch behind a refused one.
	cold := l.cold(good)
	if len(cold) > 0 {
		l.flush(cold)
		good = unsent(good)
	}
	if !anyFailed(cold) {
		l.flush(good)
	}
	l.settle(slots)
}

// cold returns the first record of every partition that this lane's client has
// not published to.
func (l *lane) cold(slots []*slot) []*slot {
	var cold []*slot
	for _, s := range slots {
		if !l.warm[s.place()] {
			l.warm[s.place()] = true
			cold = append(cold, s)
		}
	}
	return cold
}

func unsent(slots []*slot) []*slot {
	var rest []*slot
	for _, s := range slots {
		if !s.sent {
			rest = append(rest, s)
		}
	}
	return rest
}

func anyFailed(slots []*slot) bool {
	return slices.ContainsFunc(slots, func(s *slot) bool { return s.err != nil })
}

// flush sends slots and returns when each has its answer. Only closing the
// client cuts it short. Once the publisher is being closed nothing is sent, and
// what was is not sent again.
func (l *lane) flush(slots []*slot) {
	if len(slots) == 0 {
		return
	}
	if l.pub.closing.Err() != nil {
		for _, s := range slots {
			s.err = publisher.ErrClosed
		}
		return
	}
	l.gate.Lock()
	for _, s := range slots {
		l.client.Produce(context.Background(), s.fill(), s.promise)
	}
	l.gate.Unlock()
	// Not before all are handed over: the client would drop the first of a
	// partition and send the others.
	defer context.AfterFunc(l.pub.closing, func() { _ = l.client.AbortBufferedRecords(l.pub.severed) })()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), suspicion)
		err := l.client.Flush(ctx)
		cancel()
		if err == nil {
			return
		}
		l.suspect(slots)
	}
}

// suspect gives up when there is something that the client would try again for
// ever without a word: no connection can be made, because of the certificates
// or the login, or a topic of slots is gone.
func (l *lane) suspect(slots []*slot) {
	l.mu.Lock()
	refused := l.refused
	l.mu.Unlock()
	if l.giveUp(refused) {
		return
	}
	ctx, cancel := context.WithTimeout(l.pub.severed, suspicion)
	defer cancel()
	asked := make(map[*topic]bool)
	for _, s := range slots {
		if asked[s.topic] {
			continue
		}
		asked[s.topic] = true
		_, err := l.pub.topics.count(ctx, s.topic.name)
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			err = l.pub.topics.explain(err, s.topic.name)
		}
		if l.giveUp(err) {
			return
		}
	}
}

// giveUp breaks the publisher and ends the flush if err is one that a
// connection of another session may report, and this one's client does not.
func (l *lane) giveUp(err error) bool {
	err = classifyOpen(err)
	var config *publisher.ConfigError
	if !isOutcome(err) && !errors.As(err, &config) {
		return false
	}
	l.pub.fail(err)
	l.closeClient()
	return true
}
