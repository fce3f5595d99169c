package cdc

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// tick is how often the status writer looks when nothing wakes it. It
	// bounds how late the server learns of progress, and how late we learn of
	// its when it has nothing to send.
	tick = time.Second
	// minReplyInterval keeps a server that shuts down from playing ping-pong:
	// there every reply of ours asks for the next.
	minReplyInterval = 100 * time.Millisecond
)

// statusWriter is the only one who writes the walsender connection. It sends
// what the witness holds, never more:
//
//   - when the witness has moved;
//   - when the server asks, which it does before it gives us up;
//   - when nothing came since the last look. It then asks the server for its
//     position: one that has nothing for us does not tell it by itself, and the
//     slot of an idle outbox would hold the WAL of its busy neighbours;
//   - else often enough for wal_sender_timeout.
type statusWriter struct {
	s         *Stream
	lastSent  time.Time
	lastFlush LSN
	pieces    uint64 // received when it last looked
	silent    int    // ticks in which nothing came while Run waited
}

// writeStatus runs until ctx ends. It fails the session when it cannot write,
// or when the server has been silent for longer than its own timeout.
func (s *Stream) writeStatus(ctx context.Context) {
	w := statusWriter{s: s}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-s.ctx.Done():
			return
		case <-ticker.C:
			err = w.tick()
		case <-s.wake:
			err = w.look(false)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// tick looks after a pause of one tick. Whatever comes is a sign of life, also
// a part of a message: a large event may take longer than any timeout.
func (w *statusWriter) tick() error {
	n := w.s.wire.pieces.Load()
	quiet := n == w.pieces
	w.pieces = n
	switch {
	case !quiet:
		w.silent = 0
		now := time.Now()
		w.s.r.record(func(st *Stats) { st.LastReceived, st.Received = now, LSN(w.s.received.Load()) })
	case !w.s.handling.Load():
		w.silent++
	}
	if time.Duration(w.silent)*tick > w.s.timeout {
		return &Error{Code: CodeUnreachable, Detail: "the server has not sent anything for " + w.s.timeout.String() + " though it was asked to"}
	}
	return w.look(quiet)
}

// look sends a status if one is due; ask makes it due and wants an answer.
func (w *statusWriter) look(ask bool) error {
	now := time.Now()
	flush := LSN(w.s.durable.Load())
	since := now.Sub(w.lastSent)
	reply := w.s.asked.Load() && since >= minReplyInterval
	if !ask && !reply && flush <= w.lastFlush && since < w.s.timeout/3 {
		return nil
	}
	w.s.asked.Store(false)
	if err := w.s.sendStatus(flush, ask); err != nil {
		return &Error{Code: CodeUnreachable, Detail: "send the status to the server", Err: err}
	}
	w.lastSent, w.lastFlush = now, flush
	return nil
}

// sendStatus writes one standby status update: everything received is written,
// flush is flushed and applied.
func (s *Stream) sendStatus(flush LSN, ask bool) error {
	write := max(LSN(s.received.Load()), flush)
	frame := make([]byte, 0, 5+statusLen)
	frame = append(frame, 'd')
	frame = binary.BigEndian.AppendUint32(frame, 4+statusLen)
	frame = appendStatus(frame, write, flush, flush, time.Now(), ask)
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	if _, err := s.conn.Write(frame); err != nil {
		return err
	}
	s.r.record(func(st *Stats) { st.Confirmed = flush })
	return nil
}

// farewell sends the last status and takes leave: CopyDone, then whatever the
// server still had on its way, until it answers or a second has passed.
// Closing with unread input would reset the connection, and a reset may
// overtake the status.
func (s *Stream) farewell(ctx context.Context) error {
	if err := s.sendStatus(LSN(s.durable.Load()), false); err != nil {
		return &Error{Code: CodeUnreachable, Detail: "send the last status to the server", Err: err}
	}
	s.frontend.Send(&pgproto3.CopyDone{})
	if err := s.frontend.Flush(); err != nil {
		return &Error{Code: CodeUnreachable, Detail: "end the stream", Err: err}
	}
	limit := time.Now().Add(time.Second)
	if t, ok := ctx.Deadline(); ok && t.Before(limit) {
		limit = t
	}
	if err := s.conn.SetReadDeadline(limit); err != nil {
		return nil // the connection is gone, after the status
	}
	for {
		msg, err := s.frontend.Receive()
		if err != nil {
			return nil // time is up, or the server closed first
		}
		if _, ok := msg.(*pgproto3.CommandComplete); ok {
			return nil
		}
	}
}
