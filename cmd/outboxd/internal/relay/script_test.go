package relay_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
)

// script is a slot in memory: what was committed stays and is sent again in
// each session unless it was acked. It fails the test when the relay breaks the
// contract of the read side.
type script struct {
	t testing.TB
	// open answers each Source.Open, by attempt from 1. Nil always opens.
	open func(attempt int) error
	// guard answers Stream.Guard. Nil always allows.
	guard func() error
	// leave is what Stream.Run returns when its ctx ends. Nil: the cause.
	leave error
	// published says whether an event may be acked, by its id. Nil: any.
	published func(id string) bool

	mu       sync.Mutex
	messages []message
	changed  chan struct{} // closed by the next commit
	broken   chan error    // ends Stream.Run

	attempts int
	taken    bool          // another relay has the slot
	epoch    uint16        // of the sessions to come
	stream   *scriptStream // that is open
	lost     chan struct{} // of the stream that is open
	tokens   map[uint64]place
	ids      map[place]string
	acked    map[place]bool
	prefix   int      // messages at the beginning with nothing to ack
	acks     []string // ids, in the order of the acks
	opened   int
	closed   []time.Time
	stats    cdc.Stats
	lent     weak.Pointer[byte] // the last large payload that a handler got
}

// place is where an event stands in the WAL, whatever the epoch.
type place struct {
	commit  cdc.LSN
	ordinal uint32
}

// message is a committed change that holds events.
type message struct {
	cdc.Message
	ids []string // of its events
}

func newScript(t testing.TB) *script {
	return &script{
		t: t, changed: make(chan struct{}), broken: make(chan error),
		epoch: 1, tokens: map[uint64]place{}, ids: map[place]string{}, acked: map[place]bool{},
		stats: cdc.Stats{SilenceLimit: time.Hour},
	}
}

var outboxTable = &cdc.Relation{OID: 1, Schema: "public", Name: "outbox", Columns: []cdc.Column{
	{Name: "id", Type: pgtype.TextOID}, {Name: "aggregatetype", Type: pgtype.TextOID}, {Name: "aggregateid", Type: pgtype.TextOID},
	{Name: "type", Type: pgtype.TextOID}, {Name: "payload", Type: pgtype.JSONOID},
}}

func row(values ...string) []cdc.Value {
	row := make([]cdc.Value, len(values))
	for i, v := range values {
		row[i] = cdc.Value{Format: cdc.Text, Bytes: []byte(v)}
		if v == "NULL" {
			row[i] = cdc.Value{Format: cdc.Null}
		}
	}
	return row
}

// insert commits one event of an aggregate in a transaction of its own.
func (s *script) insert(id, aggregateID string) {
	s.commit(message{ids: []string{id}, Message: cdc.Message{
		Kind: cdc.Insert, Relation: outboxTable, Row: row(id, "order", aggregateID, "placed", "{}"),
	}})
}

func (s *script) commit(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.Commit = cdc.LSN(0x1000 + 0x100*len(s.messages))
	m.CommitTime = time.Now()
	s.messages = append(s.messages, m)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Open implements relay.Source.
func (s *script) Open(context.Context) (relay.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts++
	if s.stream != nil {
		s.t.Error("a session was opened before the last one was closed")
	}
	if s.taken {
		return nil, &cdc.Error{Code: cdc.CodeSlotActive, Detail: "held by another"}
	}
	if s.open != nil {
		if err := s.open(s.attempts); err != nil {
			return nil, err
		}
	}
	s.opened++
	s.stream, s.lost = &scriptStream{s}, make(chan struct{})
	s.stats.Streaming, s.stats.LastReceived, s.stats.Epoch = true, time.Now(), s.epoch
	return s.stream, nil
}

// Ack implements relay.Source.
func (s *script) Ack(token uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.tokens[token]
	switch {
	case !ok:
		s.t.Errorf("ack of token %d, which was not given out", token)
	case s.acked[p]:
		s.t.Errorf("event %s was acked twice", s.ids[p])
	case s.stream == nil:
		s.t.Errorf("event %s was acked after its session was closed", s.ids[p])
	case s.published != nil && !s.published(s.ids[p]):
		s.t.Errorf("event %s was acked, and the broker does not have it", s.ids[p])
	}
	s.acked[p] = true
	s.acks = append(s.acks, s.ids[p])
}

// Stats implements relay.Source.
func (s *script) Stats() cdc.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.prefix < len(s.messages) && s.settled(&s.messages[s.prefix]) {
		s.stats.Acked = s.messages[s.prefix].Commit + 0x80 // the record's end
		s.prefix++
	}
	return s.stats
}

// settled says whether every event of m is acked. The caller holds mu.
func (s *script) settled(m *message) bool {
	for ordinal := range m.ids {
		if !s.acked[place{m.Commit, uint32(ordinal)}] {
			return false
		}
	}
	return true
}

// take gives the slot to another relay, or takes it back.
func (s *script) take(taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = taken
}

// failOver begins a new epoch with the next session.
func (s *script) failOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
}

func (s *script) ackedIDs() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.acks, " ")
}

// forget takes everything committed so far for confirmed by another relay.
func (s *script) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.messages {
		for ordinal := range s.messages[i].ids {
			s.acked[place{s.messages[i].Commit, uint32(ordinal)}] = true
		}
	}
}

// forgetFirst takes the first event of the first message for published by
// another relay.
func (s *script) forgetFirst() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked[place{commit: s.messages[0].Commit}] = true
}

// crash forgets every ack since the beginning: the witness was not written.
func (s *script) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked, s.prefix, s.stats.Acked = map[place]bool{}, 0, 0
}

// rewind forgets every ack from a position on: the witness was not written since.
func (s *script) rewind(to cdc.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.acked, func(p place, _ bool) bool { return p.commit >= to })
	s.prefix = 0
	for s.prefix < len(s.messages) && s.messages[s.prefix].Commit < to {
		s.prefix++
	}
	s.stats.Acked = to
}

// lose takes what is not acked out of the WAL.
func (s *script) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = slices.DeleteFunc(s.messages, func(m message) bool { return !s.settled(&m) })
}

// sessions returns how many were opened, and when each was closed.
func (s *script) sessions() (opened int, closed []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened, slices.Clone(s.closed)
}

type scriptStream struct{ s *script }

func (st *scriptStream) Guard() error {
	if st.s.guard == nil {
		return nil
	}
	return st.s.guard()
}

func (st *scriptStream) Lost() <-chan struct{} { return st.s.lost }

// loseStream ends the session that is open, of which Run may have returned.
func (s *script) loseStream() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.lost)
}

func (st *scriptStream) Close(context.Context) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.s.stream = nil
	st.s.stats.Streaming = false
	st.s.closed = append(st.s.closed, time.Now())
	return nil
}

// Run sends every message again, from the first.
func (st *scriptStream) Run(ctx context.Context, h cdc.Handler) error {
	for i := 0; ; i++ {
		m, err := st.s.wait(ctx, i)
		if err != nil {
			return err
		}
		if err := st.s.deliver(ctx, m, h); err != nil {
			return err
		}
	}
}

// wait returns message i once it is committed.
func (s *script) wait(ctx context.Context, i int) (message, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		if i < len(s.messages) && ctx.Err() == nil {
			defer s.mu.Unlock()
			return s.messages[i], nil
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case err := <-s.broken:
			return message{}, err
		case <-ctx.Done():
			return message{}, cmp.Or(s.leave, context.Cause(ctx))
		}
	}
}

func (s *script) deliver(ctx context.Context, m message, h cdc.Handler) error {
	calls := 0
	next := func() (cdc.Delivery, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		p := place{m.Commit, uint32(calls)}
		position := cdc.Position{Epoch: s.stats.Epoch, Commit: p.commit, Ordinal: p.ordinal}
		s.ids[p] = m.ids[calls]
		calls++
		if s.acked[p] {
			return cdc.Delivery{Position: position}, false
		}
		token := uint64(len(s.tokens) + 1000)
		s.tokens[token] = p
		return cdc.Delivery{Position: position, Token: token}, true
	}
	m.Content = bytes.Clone(m.Content)
	m.Row = slices.Clone(m.Row)
	for i := range m.Row {
		m.Row[i].Bytes = bytes.Clone(m.Row[i].Bytes)
		if len(m.Row[i].Bytes) >= largePayload {
			s.lent = weak.Make(&m.Row[i].Bytes[0])
		}
	}
	err := h(ctx, cdc.NewMessage(m.Message, next))
	m.wipe()
	if err == nil && calls != len(m.ids) {
		s.t.Errorf("Next was called %d times for %v: the ordinals of later events are wrong", calls, m.ids)
	}
	return err
}

// wipe overwrites what the handler may not use any more.
func (m *message) wipe() {
	for i := range m.Content {
		m.Content[i] = '?'
	}
	for _, v := range m.Row {
		for i := range v.Bytes {
			v.Bytes[i] = '?'
		}
	}
}

func event(i int) string { return fmt.Sprintf("e%03d", i) }
