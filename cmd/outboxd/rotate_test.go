package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
)

// A certificate that is being replaced when the first rotation is due says
// nothing of the retention, and must not stop the relay.
func TestRetentionDoesNotStopForConnection(t *testing.T) {
	o := &runOptions{retention: time.Hour}
	o.database = "postgres://h/d?sslmode=verify-full&sslrootcert=" + t.TempDir() + "/none.pem"
	r := &rotation{daemon: &daemon{pipeline: &pipeline{}, options: o}}
	_, err := r.step(t.Context())
	var named *cdc.Error
	var refused unfit
	if !errors.As(err, &named) || named.Code != cdc.CodeConfig || errors.As(err, &refused) {
		t.Errorf("got %v, want the connection's own error and no verdict on the retention", err)
	}
}

// taken is a slot that another relay has.
type taken struct{}

func (taken) Open(context.Context) (relay.Stream, error) {
	return nil, &cdc.Error{Code: cdc.CodeSlotActive, Detail: "held by another"}
}
func (taken) Ack(uint64)       {}
func (taken) Stats() cdc.Stats { return cdc.Stats{} }

// What waits in the table is the leader's business: a relay that stands by since
// tells of nothing that it saw when it led.
func TestBacklogIsForgottenInStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		m := metrics.NewRegistry(metrics.Build{}).Pipeline("p")
		d := &daemon{pipeline: &pipeline{}, options: &runOptions{}, log: log, metrics: m}
		d.backlog.note(time.Now(), retention.Busy)
		ctx, stop := context.WithCancel(t.Context())
		r := &relay.Relay{Source: taken{}, Metrics: m, Logger: log}
		done := make(chan error, 2)
		go func() { done <- d.rotate(ctx, r) }()
		time.Sleep(time.Minute)
		if got := d.backlog.age(time.Now()); got != time.Minute {
			t.Errorf("waits for %s before the relay has looked who leads, want 1m", got)
		}
		go func() { done <- r.Run(ctx) }()
		time.Sleep(2 * rotateLook)
		if got := d.backlog.age(time.Now()); got != 0 {
			t.Errorf("waits for %s, and another relay leads", got)
		}
		stop()
		for range cap(done) {
			<-done
		}
	})
}
