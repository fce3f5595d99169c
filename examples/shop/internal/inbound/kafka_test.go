package inbound_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/examples/shop/internal/inbound"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

const topic = "outbox.event.order"

// produce publishes count events for each of keys keys, as outboxd would.
func produce(t *testing.T, brokers []string, keys, count int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for n := range count {
		for key := range keys {
			r := &kgo.Record{Topic: topic, Key: fmt.Append(nil, key), Value: fmt.Append(nil, n)}
			for name, value := range map[string]string{
				"ce_id": fmt.Sprintf("%d-%d", key, n), "ce_type": "order.placed", "ce_subject": fmt.Sprint(key), "ce_aggregatetype": "order",
				"ce_sequence": fmt.Sprintf("%09d", n), "ce_time": "2018-11-24T20:15:00.25Z", "traceparent": "00-00",
			} {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
			}
			if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// notes is what the members of a group have handled.
type notes struct {
	mu     sync.Mutex
	events []inbound.Event
	by     map[int]int // events by member
}

func (n *notes) handler(member int) inbound.Handler {
	return func(_ context.Context, e inbound.Event) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.by == nil {
			n.by = map[int]int{}
		}
		n.by[member]++
		n.events = append(n.events, e)
		return nil
	}
}

func (n *notes) take() []inbound.Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// member runs a consumer until the function that it returns is called, which
// returns the consumer's error.
func member(t *testing.T, brokers []string, group string, handle inbound.Handler) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- inbound.ConsumeKafka(ctx, brokers, inbound.Subscription{Group: group, Topics: []string{topic}}, handle)
	}()
	return sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

func TestGroup(t *testing.T) {
	t.Parallel()
	const keys, count = 20, 10
	brokers := devtest.Kfake(t, kfake.DefaultNumPartitions(6)).Brokers()
	var one, other notes
	// They wait for a topic that does not exist yet.
	stops := []func() error{
		member(t, brokers, "one", one.handler(0)),
		member(t, brokers, "one", one.handler(1)),
		member(t, brokers, "other", other.handler(0)),
	}
	produce(t, brokers, keys, count)
	eventually(t, "both groups have everything", func() bool {
		return len(one.take()) == keys*count && len(other.take()) == keys*count
	})
	// The one member may have had it all before the other came.
	eventually(t, "the second member gets something", func() bool {
		produce(t, brokers, keys, 1)
		one.mu.Lock()
		defer one.mu.Unlock()
		return len(one.by) == 2
	})
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Errorf("stopped with %v", err)
		}
	}
	next := map[string]int{}
	for _, e := range one.take()[:keys*count] {
		if want := fmt.Sprint(next[e.Subject]); string(e.Payload) != want {
			t.Fatalf("%s: event %s of key %s, want event %s", e.Place, e.Payload, e.Subject, want)
		}
		next[e.Subject]++
	}
}

func TestEventFromKafka(t *testing.T) {
	t.Parallel()
	brokers := devtest.Kfake(t).Brokers()
	produce(t, brokers, 1, 1)
	var n notes
	stop := member(t, brokers, "group", n.handler(0))
	eventually(t, "the event comes", func() bool { return len(n.take()) == 1 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	e := n.take()[0]
	if want := time.Date(2018, 11, 24, 20, 15, 0, 250e6, time.UTC); !e.Time.Equal(want) {
		t.Errorf("time %s, want %s", e.Time, want)
	}
	e.Time = time.Time{}
	got, want := fmt.Sprintf("%+v", e), fmt.Sprintf("%+v", inbound.Event{
		ID: "0-0", Position: "000000000", AggregateType: "order", Subject: "0", Type: "order.placed", Payload: []byte("0"),
		Place: topic + " partition 0 offset 0",
	})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// An event whose handler fails comes again, and none behind it before.
func TestFailedEventComesAgain(t *testing.T) {
	t.Parallel()
	brokers := devtest.Kfake(t).Brokers()
	produce(t, brokers, 1, 10)
	sick := errors.New("no database")
	handled := 0
	failing := func(context.Context, inbound.Event) error {
		if handled == 5 {
			return sick
		}
		handled++
		return nil
	}
	err := inbound.ConsumeKafka(t.Context(), brokers, inbound.Subscription{Group: "group", Topics: []string{topic}}, failing)
	if !errors.Is(err, sick) || !strings.Contains(err.Error(), "order.placed 0-5 at "+topic+" partition 0 offset 5") {
		t.Fatalf("ended with %v", err)
	}
	var n notes
	stop := member(t, brokers, "group", n.handler(0))
	eventually(t, "the rest comes", func() bool {
		events := n.take()
		return len(events) > 0 && events[len(events)-1].ID == "0-9"
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	events := n.take()
	if !slices.ContainsFunc(events, func(e inbound.Event) bool { return e.ID == "0-5" }) {
		t.Errorf("event 5 was skipped: %v", events)
	}
}

// What was handled and committed does not come again.
func TestCommittedDoesNotComeAgain(t *testing.T) {
	t.Parallel()
	brokers := devtest.Kfake(t).Brokers()
	var first, second notes
	produce(t, brokers, 1, 3)
	stop := member(t, brokers, "group", first.handler(0))
	eventually(t, "three events come", func() bool { return len(first.take()) == 3 })
	// The fourth is fetched after the offsets of the first three were committed.
	produce(t, brokers, 2, 1)
	eventually(t, "two more come", func() bool { return len(first.take()) == 5 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	stop = member(t, brokers, "group", second.handler(0))
	produce(t, brokers, 1, 1)
	eventually(t, "another one comes", func() bool { return len(second.take()) > 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if place := second.take()[0].Place; place < topic+" partition 0 offset 3" {
		t.Errorf("the second member begins at %s", place)
	}
}
