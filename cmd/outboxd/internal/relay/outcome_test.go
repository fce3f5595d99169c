package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/publisher"
)

// TestCause: of all that goes wrong in a session, which error is the cause, and
// which event was in the way.
func TestCause(t *testing.T) {
	var (
		aborted = fmt.Errorf("%w: behind another", publisher.ErrAborted)
		closed  = errors.Join(publisher.ErrClosed, publisher.ErrUnknown)
		unknown = fmt.Errorf("connection lost: %w", publisher.ErrUnknown)
		held    = &publisher.HeldError{Reason: "missing_topic", Target: "orders"}
		refused = &publisher.HeldError{Reason: "refused", Target: "queue"}
		poison  = &publisher.PoisonError{Reason: "too_large"}
		lost    = &cdc.Error{Code: cdc.CodeUnreachable}
		lease   = fmt.Errorf("write refused: %w", &cdc.Error{Code: cdc.CodeLostLead})
	)
	type outcome struct {
		ordinal uint32
		err     error
	}
	tests := []struct {
		name     string
		outcomes []outcome
		run      error // what Run returned; nil: the cause that cancelled it
		refused  bool  // the handler refused ordinal 9
		code     string
		ordinal  int // of the event in the way; -1: none
	}{
		{"nothing but the stream", nil, lost, false, "database_unreachable", -1},
		{"culprit first", []outcome{{3, held}, {4, aborted}}, nil, false, "missing_topic", 3},
		{"culprit last", []outcome{{4, aborted}, {5, closed}, {3, held}}, nil, false, "missing_topic", 3},
		{"two culprits", []outcome{{5, refused}, {3, held}}, nil, false, "refused", 5},
		{"only consequences: the first in the WAL", []outcome{{5, aborted}, {4, aborted}, {6, aborted}}, nil, false, "broker_unreachable", 4},
		{"closed by ourselves is no culprit", []outcome{{4, closed}, {5, unknown}}, nil, false, "broker_unreachable", 5},
		{"the stream was lost before", []outcome{{3, held}}, lost, false, "database_unreachable", -1},
		{"the lease", []outcome{{3, lease}}, nil, false, "lost_lead", -1},
		{"poison alone", []outcome{{3, poison}, {4, aborted}}, nil, false, "poison", 3},
		{"poison behind a victim", []outcome{{3, poison}, {2, aborted}}, nil, false, "poison_pending", 3},
		{"poison behind what is held", []outcome{{2, held}, {3, poison}}, nil, false, "missing_topic", 2},
		{"two poison events", []outcome{{5, poison}, {3, poison}}, nil, false, "poison", 3},
		{"two poison events, the other way", []outcome{{3, poison}, {5, poison}}, nil, false, "poison", 3},
		{"poison while the stream was lost", []outcome{{3, poison}}, lost, false, "poison", 3},
		{"refused, all before it published", nil, poison, true, "poison", 9},
		{"refused, something before it failed", []outcome{{3, held}}, poison, true, "missing_topic", 3},
		{"refused, something before it was given up", []outcome{{3, aborted}}, poison, true, "poison_pending", 9},
		{"refused, poison before it", []outcome{{3, poison}}, poison, true, "poison", 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &Relay{Metrics: metrics.NewRegistry(metrics.Build{}).Pipeline("test"), Logger: slog.New(slog.DiscardHandler)}
			r.init()
			s := r.newSession()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			s.cancel = cancel
			for _, o := range tt.outcomes {
				s.failed(&publisher.Record{}, &item{delivery: cdc.Delivery{Position: cdc.Position{Ordinal: o.ordinal}}}, o.err)
			}
			if tt.refused {
				s.event.Position.Ordinal = 9
				_ = s.refuse(poison)
			}
			run := tt.run
			if run == nil {
				run = context.Cause(ctx)
			}
			failure, err := s.cause(run)
			ordinal := -1
			if failure != nil {
				ordinal = int(failure.position.Ordinal)
			}
			if got := classify(err, proven); got.Code != tt.code || ordinal != tt.ordinal {
				t.Errorf("%s (%v), event %d; want %s, event %d", got.Code, err, ordinal, tt.code, tt.ordinal)
			}
		})
	}
}
