package cdc

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/jackc/pgx/v5/pgproto3"
)

// script plays the server's side of a stream, message by message: what a real
// server sends only at moments that no test can choose.
type script struct {
	t   *testing.T
	out []byte
}

func (s *script) message(m pgproto3.BackendMessage) *script {
	s.t.Helper()
	out, err := m.Encode(s.out)
	if err != nil {
		s.t.Fatal(err)
	}
	s.out = out
	return s
}

func (s *script) copyData(b []byte) *script {
	return s.message(&pgproto3.CopyData{Data: b})
}

func (s *script) keepalive(end LSN, reply bool) *script {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(end))
	b = binary.BigEndian.AppendUint64(b, 0)
	if reply {
		return s.copyData(append(b, 1))
	}
	return s.copyData(append(b, 0))
}

func (s *script) wal(at LSN, data []byte) *script {
	b := binary.BigEndian.AppendUint64([]byte{'w'}, uint64(at))
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint64(b, 0)
	return s.copyData(append(b, data...))
}

func (s *script) begin(commit LSN) *script {
	b := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(commit))
	b = binary.BigEndian.AppendUint64(b, 0)
	return s.wal(commit, binary.BigEndian.AppendUint32(b, 7))
}

func (s *script) commit(commit, end LSN) *script {
	b := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(commit))
	b = binary.BigEndian.AppendUint64(b, uint64(end))
	return s.wal(end, binary.BigEndian.AppendUint64(b, 0))
}

func (s *script) logical(transactional bool, at LSN, content string) *script {
	flags := byte(0)
	if transactional {
		flags = 1
	}
	b := binary.BigEndian.AppendUint64([]byte{'M', flags}, uint64(at))
	b = append(b, "x\x00"...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	return s.wal(at, append(b, content...))
}

// unbuffered is conn as a stream reads it, but that nothing is taken before it is
// wanted.
func unbuffered(conn net.Conn) *bufferedConn {
	return &bufferedConn{Conn: conn, buf: make([]byte, 1)}
}

// newScripted returns a stream over conn, without keeper and status writer.
func newScripted(t *testing.T, conn net.Conn) *Stream {
	t.Helper()
	r, err := NewReader(Config{Pipeline: "p", Slot: "s", Publication: "p"})
	if err != nil {
		t.Fatal(err)
	}
	wire := unbuffered(conn)
	s := &Stream{r: r, conn: wire, wire: wire, frontend: pgproto3.NewFrontend(wire, wire), pid: pid, timeout: 10 * time.Second,
		decoder: newDecoder(), wake: make(chan struct{}, 1), queries: context.Background(), started: time.Now()}
	s.message.next = s.next
	s.ctx, s.fail = context.WithCancelCause(context.Background())
	return s
}

// play runs a stream over the script and returns it with what Run returned.
// Every event is acked at once, or none is.
func (s *script) play(ack bool) (*Stream, error) {
	s.t.Helper()
	client, server := net.Pipe()
	s.t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	go func() {
		_, _ = server.Write(s.out)
		_ = server.Close()
	}()
	stream := newScripted(s.t, client)
	r := stream.r
	err := stream.Run(context.Background(), func(_ context.Context, m *Message) error {
		if d, fresh := m.Next(); fresh && ack {
			r.Ack(d.Token)
		}
		return nil
	})
	return stream, err
}

func code(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestKeepaliveInsideTransactionConfirmsNothing(t *testing.T) {
	s := &script{t: t}
	s.keepalive(50, false).begin(100).logical(true, 90, "a").keepalive(100, true)
	stream, _ := s.play(true)
	if got := stream.r.queue.progress().confirm; got != 50 {
		t.Errorf("confirm %s, want 50: the transaction has not ended", got)
	}
	if !stream.asked.Load() {
		t.Error("the server's wish for a reply was dropped")
	}
}

func TestKeepaliveBehindUnackedEventWaits(t *testing.T) {
	s := &script{t: t}
	s.begin(100).logical(true, 90, "a").commit(100, 120).keepalive(500, false)
	stream, _ := s.play(false)
	if got := stream.r.queue.progress().confirm; got != 0 {
		t.Errorf("confirm %s with the event not acked", got)
	}
	stream, _ = s.play(true)
	if got := stream.r.queue.progress().confirm; got != 500 {
		t.Errorf("confirm %s, want 500", got)
	}
	if got := LSN(stream.received.Load()); got != 500 {
		t.Errorf("received %s, want 500", got)
	}
}

func TestNonTransactionalMessageIsAPositionOnly(t *testing.T) {
	s := &script{t: t}
	s.logical(false, 80, "never an event")
	stream, _ := s.play(false)
	if got := stream.r.queue.progress().confirm; got != 80 {
		t.Errorf("confirm %s, want 80", got)
	}
}

func TestNonTransactionalMessageInsideTransaction(t *testing.T) {
	s := &script{t: t}
	s.begin(100).logical(false, 150, "x").logical(true, 90, "a")
	stream, _ := s.play(true)
	if got := stream.r.queue.progress().confirm; got != 0 {
		t.Errorf("confirm %s inside a transaction", got)
	}
}

func TestStreamEndsAreNamed(t *testing.T) {
	tests := []struct {
		name string
		s    func(s *script) *script
		want Code
	}{
		{"connection lost", func(s *script) *script { return s }, CodeUnreachable},
		{"graceful stop", func(s *script) *script {
			return s.message(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")})
		}, CodeServerStopping},
		{"terminated", func(s *script) *script {
			return s.message(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P01", Message: "terminating connection"})
		}, CodeUnreachable},
		{"publication missing", func(s *script) *script {
			return s.message(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42704", Message: `»p« gibt es nicht`})
		}, CodePublication},
		{"publication skipped", func(s *script) *script {
			return s.message(&pgproto3.NoticeResponse{Severity: "WARNING", Code: "55000", Message: `»p« wird übergangen`})
		}, CodePublication},
		{"held back for a standby", func(s *script) *script {
			return s.message(&pgproto3.NoticeResponse{Severity: "WARNING", Code: "55000", Message: `Slot »s« ist inaktiv`, File: "slot.c"}).message(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")})
		}, CodeServerStopping},
		{"other notices go on", func(s *script) *script {
			return s.message(&pgproto3.NoticeResponse{Severity: "NOTICE", Message: "hello"}).message(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")})
		}, CodeServerStopping},
		{"unknown message", func(s *script) *script { return s.copyData([]byte("z")) }, CodeMalformedStream},
		{"empty message", func(s *script) *script { return s.copyData(nil) }, CodeMalformedStream},
		{"change outside of a transaction", func(s *script) *script { return s.logical(true, 10, "a") }, CodeMalformedStream},
		{"begin inside a transaction", func(s *script) *script { return s.begin(10).begin(20) }, CodeMalformedStream},
		{"commit of another transaction", func(s *script) *script { return s.begin(10).commit(20, 30) }, CodeMalformedStream},
		{"commit without begin", func(s *script) *script { return s.commit(20, 30) }, CodeMalformedStream},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.s(&script{t: t}).play(true)
			if code(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// What is skipped counts all the same, or the events behind it would be renamed.
func TestOrdinalsCountSkippedEvents(t *testing.T) {
	s := newScripted(t, nil)
	s.r.queue.reset(progress{commit: 100, events: 2})
	s.tx = transaction{open: true, commit: 100}
	for i, wanted := range []bool{false, false, true, true} {
		if d, fresh := s.next(); fresh != wanted || d.Position.Ordinal != uint32(i) {
			t.Errorf("event %d: wanted %t, ordinal %d; want %t", i, fresh, d.Position.Ordinal, wanted)
		}
	}
}

// TestCutAnywhere cuts the stream after each byte: what was acked before the
// cut is the whole truth, and a transaction counts only when its end has come.
func TestCutAnywhere(t *testing.T) {
	whole := &script{t: t}
	whole.begin(100).logical(true, 90, "a").logical(true, 95, "b").commit(100, 120).keepalive(130, false).begin(200).logical(true, 190, "c").commit(200, 220)
	for n := range len(whole.out) + 1 {
		s := &script{t: t, out: whole.out[:n]}
		stream, err := s.play(true)
		if code(err) != CodeUnreachable {
			t.Fatalf("cut at %d: %v", n, err)
		}
		switch g := stream.r.queue.progress(); g.confirm {
		case 0, 120, 130, 220:
		default:
			t.Fatalf("cut at %d: confirm %s is no entry", n, g.confirm)
		}
	}
}

func TestBranchForgetsWhatLiesBeyondTheSwitch(t *testing.T) {
	tests := []struct{ from, want progress }{
		{progress{confirm: 100, commit: 90, events: 3}, progress{confirm: 100, commit: 90, events: 3}},
		{progress{confirm: 300, commit: 290, events: 3}, progress{confirm: 200}},
		{progress{confirm: 200, commit: 210, events: 3}, progress{confirm: 200}},
		{progress{confirm: 150, commit: 200, events: 1}, progress{confirm: 150}},
	}
	for _, tt := range tests {
		if got := branch(tt.from, 200); got != tt.want {
			t.Errorf("branch(%+v, 200) = %+v, want %+v", tt.from, got, tt.want)
		}
	}
}

func TestSwitchPoint(t *testing.T) {
	history := "1\t0/3000148\tno recovery target specified\n\n2\t1/2A000000\tbefore 2026-01-01 00:00:00+00\n"
	cfg := &Config{Pipeline: "p"}
	for old, want := range map[int32]LSN{1: 0x3000148, 2: 0x12A000000} {
		if got, err := switchPoint(cfg, history, old); err != nil || got != want {
			t.Errorf("timeline %d was left at %s, %v; want %s", old, got, err, want)
		}
	}
	for _, bad := range []string{"", "3\t0/1\tother\n", "1\n", "1\tnowhere\treason\n"} {
		if got, err := switchPoint(cfg, bad, 1); code(err) != CodeRestored {
			t.Errorf("history %q: %s, %v", bad, got, err)
		}
	}
}

func TestSenderTimeout(t *testing.T) {
	for server, want := range map[time.Duration]time.Duration{
		0: maxSenderTimeout, time.Minute: maxSenderTimeout, 5 * time.Second: 5 * time.Second, maxSenderTimeout: maxSenderTimeout, time.Second: minSenderTimeout,
	} {
		if got := senderTimeout(server); got != want {
			t.Errorf("server %s: %s, want %s", server, got, want)
		}
	}
}

func TestWitnessIsDue(t *testing.T) {
	written := time.Unix(1000, 0)
	k := &keeper{witness: witness{acked: progress{confirm: 1 << 20, commit: 500, events: 2}}, writtenAt: written}
	tests := []struct {
		name  string
		g     progress
		after time.Duration
		want  bool
	}{
		{"nothing new", progress{1 << 20, 500, 2}, time.Hour, false},
		{"an event", progress{1 << 20, 500, 3}, 0, true},
		{"an event of a new transaction", progress{1 << 20, 600, 2}, 0, true},
		{"a position, too near", progress{1<<20 + idleBytes - 1, 500, 2}, time.Hour, false},
		{"a position, too soon", progress{1<<20 + idleBytes, 500, 2}, idleStride - 1, false},
		{"a position", progress{1<<20 + idleBytes, 500, 2}, idleStride, true},
	}
	for _, tt := range tests {
		if got := k.due(tt.g, written.Add(tt.after)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// While nothing comes, a large message does not keep the buffer that it came
// in.
func TestBufferOfLargeMessageIsLetGo(t *testing.T) {
	s := &script{t: t}
	s.begin(100).logical(true, 90, strings.Repeat("x", 1<<20)).commit(100, 120)
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	stream := newScripted(t, client)
	var content weak.Pointer[byte]
	ended := make(chan error, 1)
	go func() {
		ended <- stream.Run(context.Background(), func(_ context.Context, m *Message) error {
			content = weak.Make(&m.Content[0])
			return nil
		})
	}()
	if _, err := server.Write(s.keepalive(500, false).out); err != nil {
		t.Fatal(err)
	}
	for stream.received.Load() < 500 {
		runtime.Gosched()
	}
	// The library may keep it for another use, until the second collection.
	for began := time.Now(); content.Value() != nil; runtime.GC() {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the buffer of the message is still in use")
		}
	}
	_ = server.Close()
	<-ended
	runtime.KeepAlive(stream)
}
