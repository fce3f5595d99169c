package relay

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxd/outboxd/cdc"
)

// Phase is what the relay is doing, in one word.
type Phase string

const (
	Starting   Phase = "starting"  // no session yet
	Streaming  Phase = "streaming" // a session is up
	StandingBy Phase = "standby"   // another relay has the slot
	Holding    Phase = "held"      // an event waits for the world
	Retrying   Phase = "retrying"  // a service cannot be reached, or a session broke
	Stopping   Phase = "stopping"  // draining
	Stopped    Phase = "stopped"
)

// state is what the relay knows of itself, shared with probes and metrics. It
// logs one line for each change, whatever number of attempts lies between.
type state struct {
	log *slog.Logger

	mu       sync.Mutex
	phase    Phase
	fault    Fault // of Holding and Retrying
	detail   string
	since    time.Time
	attempts int // failed sessions since the last change to Streaming or StandingBy
	leader   bool
	running  bool   // a session is up
	stalled  string // why a session that is up does not move; "": it does

	history history
	// oldest is the commit time of the oldest event that failed and has not
	// been handed over again; the source may know of none between sessions.
	oldest time.Time

	// pending is the event whose failure ended the last session. The phase
	// becomes Streaming again when it is acked or passed, and not before: a
	// session that is up says nothing about a topic that is missing, nor does the
	// ack of a later event, which may go elsewhere. Changed under mu; read for
	// each ack, so without it.
	pending atomic.Pointer[waiting]
}

// waiting is an event that failed.
type waiting struct {
	position cdc.Position
	// released: it is parked, and the source has passed it.
	released bool
}

func newState(log *slog.Logger) *state {
	return &state{log: log, phase: Starting, since: time.Now()}
}

// lead says that this relay has the slot.
func (s *state) lead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.source = true
	s.leader = true
}

// up says that a session is up.
func (s *state) up(epoch uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.broker = true
	s.running = true
	if s.pending.Load() == nil {
		s.streaming(slog.Int("epoch", int(epoch)))
	}
}

// progress says how far the source is. The pending event is done with, without
// an ack of ours, when the acked prefix is past it, because another relay
// published it, or when a new epoch has begun, in which it comes under another
// position or not at all.
func (s *state) progress(stats cdc.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.pending.Load()
	if w == nil || w.released || w.position.Epoch > stats.Epoch || w.position.Epoch == stats.Epoch && w.position.Commit >= stats.Acked {
		return
	}
	s.passed(slog.Int("epoch", int(stats.Epoch)))
}

// unmarked says that nobody wants parked events to be released, so that none
// waits for it.
func (s *state) unmarked() {
	if w := s.pending.Load(); w == nil || !w.released {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed(slog.String("released", "not any more"))
}

// passed says that the pending event is done with. The caller holds mu.
func (s *state) passed(attr slog.Attr) {
	s.pending.Store(nil)
	s.oldest = time.Time{}
	if s.running {
		s.streaming(attr)
	}
}

// acked says that the event at p is published.
func (s *state) acked(p cdc.Position) {
	if pending := s.pending.Load(); pending == nil || pending.position != p {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.Store(nil)
	s.oldest = time.Time{}
	s.streaming(slog.String("position", p.String()))
}

// streaming changes the phase, unless the relay drains: what is acked then does
// not make it ready again. The caller holds mu.
func (s *state) streaming(attr slog.Attr) {
	if s.phase == Stopping {
		return
	}
	was, after, attempts, code := s.phase, time.Since(s.since), s.attempts, s.fault.Code
	s.attempts = 0
	if !s.enter(Streaming, Fault{}, "") {
		return
	}
	attrs := []slog.Attr{slog.String("was", string(was)), attr}
	if attempts > 0 {
		attrs = append(attrs, slog.String("cleared", code), slog.Duration("after", after.Round(time.Millisecond)), slog.Int("attempts", attempts))
	}
	s.log.LogAttrs(context.Background(), slog.LevelInfo, "streaming", attrs...)
}

// enter changes phase, fault and detail, and says whether that is a change. The
// caller holds mu.
func (s *state) enter(phase Phase, f Fault, detail string) bool {
	same := phase == s.phase && f.Code == s.fault.Code && f.Target == s.fault.Target
	s.phase, s.fault, s.detail = phase, f, detail
	if same {
		return false
	}
	s.since, s.stalled = time.Now(), ""
	return true
}

// standby says that another relay has the slot.
func (s *state) standby(f Fault, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = false
	s.history.source = true
	s.attempts = 0
	s.pending.Store(nil) // the leader publishes it
	s.oldest = time.Time{}
	if s.enter(StandingBy, f, err.Error()) {
		s.log.Info("standby: another relay has the slot", "detail", err.Error())
	}
}

// failed says that a session ended with an error after which the relay goes
// on. failure is the event that failed, if one did.
func (s *state) failed(f Fault, err error, failure *failure) (attempts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts++
	s.running = false
	phase := Retrying
	if f.Class == Held {
		phase = Holding
	}
	if failure != nil {
		s.pending.Store(&waiting{failure.position, failure.released})
		if !failure.released && (s.oldest.IsZero() || failure.commit.Before(s.oldest)) {
			s.oldest = failure.commit
		}
	}
	if !s.enter(phase, f, err.Error()) {
		return s.attempts
	}
	attrs := []slog.Attr{slog.String("code", f.Code), slog.String("error", err.Error())}
	if f.Target != "" {
		attrs = append(attrs, slog.String("target", f.Target))
	}
	if failure != nil {
		attrs = append(attrs, slog.String("event", failure.id), slog.String("position", failure.position.String()))
	}
	if f.Fix != "" && !strings.Contains(err.Error(), f.Fix) {
		attrs = append(attrs, slog.String("fix", f.Fix))
	}
	s.log.LogAttrs(context.Background(), slog.LevelWarn, string(phase), attrs...)
	return s.attempts
}

// stop says that the relay drains, or has ended.
func (s *state) stop(phase Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, code := s.pending.Load(), s.fault.Code
	if !s.enter(phase, Fault{}, "") {
		return
	}
	if waiting != nil && code != "" {
		s.log.Warn(string(phase)+" with an event that waits; it stays in the slot", "position", waiting.position.String(), "code", code)
		return
	}
	s.log.Info(string(phase))
}

// stall says why a session that is up does not move; "" that it does.
func (s *state) stall(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != Streaming || reason == s.stalled {
		return
	}
	if (reason == "") != (s.stalled == "") {
		if reason != "" {
			s.log.Warn("stalled", "reason", reason)
		} else {
			s.log.Info("moving again", "was", s.stalled)
		}
	}
	s.stalled = reason
}

// worked says what has worked in this process.
func (s *state) worked() history {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history
}

// Status is what a probe is told.
type Status struct {
	Phase Phase
	// Ready: events flow, or this relay waits for its turn to make them flow.
	Ready bool
	// Reason says why it is not ready: a code, and the error or what does not
	// move; of one that is, what an operator should know.
	Reason string
	// Target is what an event waits for, if the phase is Holding.
	Target string
	Since  time.Time
}

func (s *state) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{Phase: s.phase, Target: s.fault.Target, Since: s.since, Reason: s.detail}
	switch s.phase {
	case Streaming:
		status.Ready, status.Reason = s.stalled == "", s.stalled
	case StandingBy:
		status.Ready, status.Target = true, ""
	}
	if code := s.fault.Code; status.Reason == s.detail && !strings.Contains(s.detail, code) {
		status.Reason = code + ": " + s.detail
	}
	return status
}
