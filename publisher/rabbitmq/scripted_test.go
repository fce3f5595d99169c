package rabbitmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/rabbitmq"
)

func record(token uint64, key string) *publisher.Record {
	return &publisher.Record{Topic: "k", Key: []byte(key), Value: []byte("v"), ID: fmt.Sprintf("%s/%d", key, token), Token: token}
}

// scripted opens a publisher to a script and publishes records of n keys.
func scripted(t testing.TB, config rabbitmq.Config, done publisher.Done) *rabbitmq.Publisher {
	t.Helper()
	p, err := rabbitmq.Open(context.Background(), config, done, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shut(t, p, 0) })
	return p
}

func mustPublish(t testing.TB, p *rabbitmq.Publisher, rs ...*publisher.Record) {
	t.Helper()
	for _, r := range rs {
		if err := p.Publish(t.Context(), r); err != nil {
			t.Fatalf("publish record %d: %v", r.Token, err)
		}
	}
}

// batch calls handle with n messages at a time.
func batch(n int, handle func(s *script, ps []published)) func(*script, published) {
	var ps []published
	return func(s *script, p published) {
		if ps = append(ps, p); len(ps) == n {
			handle(s, ps)
			ps = nil
		}
	}
}

// TestNackBelowMultipleAck: a nack that comes before the acks of older
// messages, which then come in one ack that spans it. The library's own
// listener for confirms tells of an ack in its place.
func TestNackBelowMultipleAck(t *testing.T) {
	_, config := newScript(t, batch(5, func(s *script, ps []published) {
		s.nack(ps[2])
		s.ack(ps[4], true)
	}))
	config.Channels = 1
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	for i := range uint64(5) {
		mustPublish(t, p, record(i, fmt.Sprint(i)))
	}
	got.wait(5)
	for i := range uint64(5) {
		want := ""
		if i == 2 {
			want = "refused"
		}
		if c := got.of(i); c != want {
			t.Errorf("record %d: %q, want %q", i, c, want)
		}
	}
}

// TestConfirmsInAnyOrder: random orders of confirms, several at once where the
// broker may, with returns among them.
func TestConfirmsInAnyOrder(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		theirs := rand.New(rand.NewPCG(seed, 1))
		_, config := newScript(t, batch(40, func(s *script, ps []published) {
			for _, p := range ps {
				if p.routingKey == "stray" {
					s.giveBack(p)
				}
			}
			confirmShuffled(s, ps, theirs)
		}))
		config.Channels = 1
		config.Unroutable = rabbitmq.Discard
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		stray := uint64(0)
		for i := range uint64(400) {
			r := record(i, fmt.Sprint(i))
			if rnd.IntN(4) == 0 {
				r.Topic = "stray"
				stray++
			}
			mustPublish(t, p, r)
		}
		got.wait(400)
		if n := got.count(); n[""] != 400 {
			t.Fatalf("seed %d: outcomes %v", seed, n)
		}
		stats := p.Stats()
		if stats.Returned != stray || stats.Discarded != stray || stats.Published != 400-stray || stats.InFlight != 0 || stats.Bytes != 0 {
			t.Errorf("seed %d: %d stray records, stats %+v", seed, stray, stats)
		}
	}
}

// confirmShuffled acks all of ps in random order. An ack of several spans what
// is older and open, as the protocol has it.
func confirmShuffled(s *script, ps []published, rnd *rand.Rand) {
	open := make([]bool, len(ps))
	for i := range open {
		open[i] = true
	}
	for _, i := range rnd.Perm(len(ps)) {
		if !open[i] {
			continue
		}
		multiple := rnd.IntN(3) == 0
		s.ack(ps[i], multiple)
		open[i] = false
		for j := range i {
			open[j] = open[j] && !multiple
		}
	}
}

// watcher confirms messages in random order, and looks whether a key ever has
// two that are unconfirmed.
type watcher struct {
	t    *testing.T
	mu   sync.Mutex
	keys map[string]bool // unconfirmed
	last map[string]int
	ps   chan published
}

func (w *watcher) saw(p published) {
	key, number, _ := strings.Cut(idOf(p), "/")
	n, err := strconv.Atoi(number)
	if err != nil {
		w.t.Errorf("message id %q: %v", idOf(p), err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.keys[key] {
		w.t.Errorf("%s/%d came while an earlier record of its key was unconfirmed", key, n)
	}
	if last, ok := w.last[key]; ok && n <= last {
		w.t.Errorf("%s/%d came after %d", key, n, last)
	}
	w.keys[key], w.last[key] = true, n
	w.ps <- p
}

// confirm runs until ps is closed.
func (w *watcher) confirm(s *script, rnd *rand.Rand) {
	var open []published
	for {
		if len(open) == 0 {
			p, more := <-w.ps
			if !more {
				return
			}
			open = append(open, p)
		}
		select {
		case p, more := <-w.ps:
			if more {
				open = append(open, p)
			}
			continue
		default:
		}
		i := rnd.IntN(len(open))
		key, _, _ := strings.Cut(idOf(open[i]), "/")
		w.mu.Lock()
		delete(w.keys, key)
		w.mu.Unlock()
		s.ack(open[i], false)
		open = slices.Delete(open, i, i+1)
	}
}

// TestOneUnconfirmedRecordAKey looks from the broker's side.
func TestOneUnconfirmedRecordAKey(t *testing.T) {
	const records, keys = 5000, 40
	w := &watcher{t: t, keys: make(map[string]bool), last: make(map[string]int), ps: make(chan published, records)}
	s, config := newScript(t, func(_ *script, p published) { w.saw(p) })
	config.Channels = 1
	config.Window = 100
	rnd := rand.New(rand.NewPCG(7, 7))
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	go w.confirm(s, rand.New(rand.NewPCG(8, 8)))
	for i := range uint64(records) {
		mustPublish(t, p, record(i, fmt.Sprint("key", rnd.IntN(keys))))
	}
	got.wait(records)
	if err := shut(t, p, time.Minute); err != nil {
		t.Error(err)
	}
	close(w.ps)
	if n := got.count(); n[""] != records {
		t.Errorf("outcomes %v", n)
	}
	if p.Stats().Chained == 0 {
		t.Error("no record waited for its key: the test tests nothing")
	}
}

// idOf finds the message id of record: key/number.
func idOf(p published) string { return string(messageID.Find(p.header)) }

var messageID = regexp.MustCompile(`[a-z]+[0-9]+/[0-9]+`)

// TestReturnsThatFitSeveral: nothing says which of two equal messages was
// returned, so none of them passes for delivered.
func TestReturnsThatFitSeveral(t *testing.T) {
	_, config := newScript(t, batch(4, func(s *script, ps []published) {
		s.giveBack(ps[1])
		s.ack(ps[3], true)
	}))
	config.Channels = 1
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	mustPublish(t, p,
		&publisher.Record{Topic: "k", ID: "same", Token: 0}, &publisher.Record{Topic: "k", ID: "same", Token: 1},
		&publisher.Record{Topic: "k", ID: "other", Token: 2}, &publisher.Record{Topic: "l", ID: "same", Token: 3})
	got.wait(4)
	for i, want := range []string{"unroutable", "unroutable", "", ""} {
		if c := got.of(uint64(i)); c != want {
			t.Errorf("record %d: %q, want %q", i, c, want)
		}
	}
}

// TestReturnThatFitsSeveralDiscardsNone: of two equal messages one is returned and
// confirmed, and the channel ends before the other is. That may be in no queue.
func TestReturnThatFitsSeveralDiscardsNone(t *testing.T) {
	_, config := newScript(t, batch(2, func(s *script, ps []published) {
		s.giveBack(ps[0])
		s.ack(ps[0], false)
		s.closeChannel(ps[0], 541, "INTERNAL_ERROR")
	}))
	config.Channels, config.Unroutable = 1, rabbitmq.Discard
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	mustPublish(t, p, &publisher.Record{Topic: "k", ID: "same", Token: 0}, &publisher.Record{Topic: "k", ID: "same", Token: 1})
	got.wait(2)
	if err := got.err(0); err != nil {
		t.Errorf("the record that was returned: %v, want it discarded", err)
	}
	if err := got.err(1); !errors.Is(err, publisher.ErrUnknown) {
		t.Errorf("the record without an answer: %v, want an unknown outcome", err)
	}
}

// TestChannelEndLeavesUnknown: what the end of a channel overtakes is unknown,
// never refused, and what was confirmed before it is acked.
func TestChannelEndLeavesUnknown(t *testing.T) {
	_, config := newScript(t, batch(6, func(s *script, ps []published) {
		s.ack(ps[1], false)
		s.giveBack(ps[2])
		s.closeChannel(ps[0], 404, "NOT_FOUND - no exchange 'events' in vhost '/'")
	}))
	config.Channels = 1
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	for i := range uint64(6) {
		mustPublish(t, p, record(i, fmt.Sprint(i)))
	}
	got.wait(6)
	for i := range uint64(6) {
		err := got.err(i)
		switch {
		case i == 1 && err == nil:
		case i == 2 && classOf(err) == "unroutable" && !errors.Is(err, publisher.ErrUnknown):
		case i != 1 && i != 2 && errors.Is(err, publisher.ErrUnknown) && classOf(err) == "missing_exchange":
		default:
			t.Errorf("record %d: %v", i, err)
		}
	}
	if err := p.Publish(t.Context(), record(9, "9")); classOf(err) != "missing_exchange" {
		t.Errorf("publish then: %v", err)
	}
	if n := p.Stats().Nacked; n != 0 {
		t.Errorf("%d records count as refused by the broker", n)
	}
}

// TestTooLargeNamesTheRecord: over a message that is too large the broker ends
// the channel and names only its size.
func TestTooLargeNamesTheRecord(t *testing.T) {
	_, config := newScript(t, batch(4, func(s *script, ps []published) {
		s.closeChannel(ps[0], 406, "PRECONDITION_FAILED - message size 500 is larger than configured max size 400")
	}))
	config.Channels = 1
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	for i, size := range []int{100, 500, 500, 300} {
		r := record(uint64(i), fmt.Sprint(i))
		r.Value = make([]byte, size)
		mustPublish(t, p, r)
	}
	got.wait(4)
	for i, want := range []string{"unknown", "too_large", "unknown", "unknown"} {
		if c := got.of(uint64(i)); c != want {
			t.Errorf("record %d: %q (%v), want %q", i, c, got.err(uint64(i)), want)
		}
	}
	if err := p.Publish(t.Context(), record(9, "9")); classOf(err) == "" {
		t.Errorf("publish then: %v", err)
	}
}

// TestPoisonWaitsForItsKey: a record that is found bad before it is sent fails
// after the earlier ones of its key were delivered, and the later ones with it.
func TestPoisonWaitsForItsKey(t *testing.T) {
	var sent []string
	_, config := newScript(t, func(s *script, p published) {
		sent = append(sent, p.routingKey)
		s.ack(p, false)
	})
	config.Channels = 1
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	for i := range uint64(5) {
		r := record(i, "a")
		r.Topic = fmt.Sprint(i)
		if i == 3 {
			r.Topic = strings.Repeat("x", 256)
		}
		if err := p.Publish(t.Context(), r); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	got.wait(5)
	if err := shut(t, p, time.Minute); err != nil {
		t.Error(err)
	}
	for i, want := range []string{"", "", "", "bad_topic", "aborted"} {
		if c := got.of(uint64(i)); c != want {
			t.Errorf("record %d: %q, want %q", i, c, want)
		}
	}
	if fmt.Sprint(sent) != "[0 1 2]" {
		t.Errorf("sent %v", sent)
	}
}

// TestPipelinedReportsWhatPassed: behind a refused record others of its key are
// out. They were acked, and must not be taken for done.
func TestPipelinedReportsWhatPassed(t *testing.T) {
	_, config := newScript(t, batch(4, func(s *script, ps []published) {
		s.nack(ps[1])
		s.ack(ps[3], true)
	}))
	config.Channels = 1
	config.Ordering = rabbitmq.Pipelined
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	for i, key := range []string{"a", "a", "b", "a"} {
		mustPublish(t, p, record(uint64(i), key))
	}
	got.wait(4)
	for i, want := range []string{"", "refused", "", "unknown"} {
		if c := got.of(uint64(i)); c != want {
			t.Errorf("record %d: %q, want %q", i, c, want)
		}
	}
	if err := got.err(3); !errors.Is(err, publisher.ErrAborted) {
		t.Errorf("the record that passed: %v", err)
	}
}

// TestConfirmOfNothing: a confirm of what was never sent ends the connection,
// however it is cut into reads, and confirms nothing.
func TestConfirmOfNothing(t *testing.T) {
	for _, f := range []struct {
		tag      uint64
		multiple bool
		refused  bool
	}{
		{2, true, false}, {3, true, true}, {1 << 62, false, true}, {1 << 62, true, true},
	} {
		s, config := newScript(t, batch(2, func(s *script, ps []published) {
			s.ack(published{channel: ps[0].channel, tag: f.tag}, f.multiple)
		}))
		s.bytewise = true
		config.Channels = 1
		got := newOutcomes(t)
		p := scripted(t, config, got.done)
		mustPublish(t, p, record(0, "a"), record(1, "b"))
		got.wait(2)
		for token := range uint64(2) {
			err := got.err(token)
			told := errors.Is(err, publisher.ErrUnknown) && strings.Contains(err.Error(), "confirms what was not sent")
			if f.refused != told || !f.refused && err != nil {
				t.Errorf("confirm of %d, multiple %t: record %d has %v", f.tag, f.multiple, token, err)
			}
		}
	}
}

func TestMandatoryAndLogin(t *testing.T) {
	var first published
	s, config := newScript(t, func(s *script, p published) {
		first = p
		s.ack(p, false)
	})
	got := newOutcomes(t)
	p := scripted(t, config, got.done)
	mustPublish(t, p, record(0, "a"))
	got.wait(1)
	if !first.mandatory || first.exchange != "events" {
		t.Errorf("published to %q, mandatory %t", first.exchange, first.mandatory)
	}
	// Without this capability a refused login is a connection that ends.
	if !bytes.Contains(s.startOK, []byte("authentication_failure_close")) {
		t.Errorf("the broker is not asked to say that it refuses a login")
	}
}
