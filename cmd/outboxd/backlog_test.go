package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
)

// A partition that cannot be emptied is told of after ten minutes, then after
// twice the time, at last once a day; one that only takes its two steps never.
func TestBacklogIsToldAtGrowingPace(t *testing.T) {
	for _, outcome := range []retention.Outcome{retention.Behind, retention.Busy, retention.Marked} {
		var b backlog
		var told []string
		began := time.Unix(0, 0)
		for now := began; now.Sub(began) <= 5*24*time.Hour; now = now.Add(time.Minute) {
			if waits, tell := b.note(now, outcome); tell {
				told = append(told, waits.String())
			}
		}
		want := []string{"10m0s", "20m0s", "40m0s", "1h20m0s", "2h40m0s", "5h20m0s", "10h40m0s", "21h20m0s", "42h40m0s", "66h40m0s", "90h40m0s", "114h40m0s"}
		if !slices.Equal(told, want) {
			t.Errorf("%s: told after %v\nwant %v", outcome, told, want)
		}
	}
	var b backlog
	began := time.Unix(0, 0)
	for i, outcome := range slices.Repeat([]retention.Outcome{retention.Marked, retention.Behind, retention.Truncated, retention.Idle}, 10) {
		if _, tell := b.note(began.Add(time.Duration(i)*time.Minute), outcome); tell {
			t.Errorf("step %d (%s) is told of", i, outcome)
		}
	}
}

// What each step comes to is counted, and the metric tells how long a partition
// waits, until it is emptied or another relay leads.
func TestRotationThatGetsNowhereIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		registry := metrics.NewRegistry(metrics.Build{})
		d := &daemon{log: slog.New(slog.NewTextHandler(&log, nil)), metrics: registry.Pipeline("p")}
		r := &rotation{daemon: d}
		step := func(result retention.Result, err error) {
			r.tell(result, err)
			time.Sleep(time.Minute)
		}
		const partition = "public.outbox_b3"
		step(retention.Result{Outcome: retention.Marked, Partition: partition}, nil)
		for range 10 {
			step(retention.Result{Outcome: retention.Behind, Partition: partition}, nil)
		}
		if got := d.backlog.age(time.Now()); got != 11*time.Minute {
			t.Errorf("waits for %s, want 11m", got)
		}
		for _, want := range []string{"cannot be emptied", partition, "waits=10m0s", "outboxd.witness"} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("%q is not once in the log:\n%s", want, log.String())
			}
		}
		step(retention.Result{Outcome: retention.Busy, Partition: partition}, nil)
		step(retention.Result{}, errors.New("connection lost"))
		if got := d.backlog.age(time.Now()); got != 13*time.Minute {
			t.Errorf("waits for %s after an error, want 13m", got)
		}
		step(retention.Result{Outcome: retention.Truncated, Partition: partition, Rows: 7}, nil)
		if got := d.backlog.age(time.Now()); got != 0 {
			t.Errorf("waits for %s, and it was emptied", got)
		}
		if !strings.Contains(log.String(), "emptied an expired partition") {
			t.Errorf("the log does not tell:\n%s", log.String())
		}
		body := httptest.NewRecorder()
		registry.Handler().ServeHTTP(body, httptest.NewRequest("GET", "/metrics", nil))
		for result, want := range map[string]int{"ok": 2, "behind": 10, "busy": 1, "error": 1} {
			if series := fmt.Sprintf("outboxd_retention_runs_total{pipeline=\"p\",result=%q} %d\n", result, want); !strings.Contains(body.Body.String(), series) {
				t.Errorf("not exposed: %s", series)
			}
		}
		step(retention.Result{Outcome: retention.Busy, Partition: partition}, nil)
		d.backlog.forget()
		if got := d.backlog.age(time.Now()); got != 0 {
			t.Errorf("waits for %s, and another relay leads", got)
		}
	})
}
