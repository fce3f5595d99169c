//go:build long && !embedded

package e2e_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// awayRate is how many events a second are written while a broker is away.
const awayRate = 5000

// TestLongMatrixBrokerAway: the memory of a relay does not depend on how long it
// waits, nor on how much is committed meanwhile.
func TestLongMatrixBrokerAway(t *testing.T) {
	length := awayTime(t)
	name := func(broker string) string {
		return fmt.Sprintf("%s away for %g min, %d events a second", broker, length.Minutes(), awayRate)
	}
	const how, expect = "SIGKILL of three nodes of three, started again after that time", "`/readyz` is 503, the age grows; memory as ever; everything follows in order, what was in flight perhaps twice"
	runMatrix(t, "Kafka", []fault{{id: "F37d", name: name("Kafka"), how: how, expect: expect, alone: true, duplicates: mostInFlight, stragglers: mostInFlight,
		arrange: onKafkaCluster, inject: func(f *faultRun) {
			nodes := devtest.KafkaCluster(f.t).Nodes()
			f.away(length, nodes[0], nodes[1], nodes[2])
		}}})
	const window = 4000
	runMatrix(t, "RabbitMQ", []fault{{id: "F56d", name: name("RabbitMQ"), how: how, expect: expect, alone: true, duplicates: window, stragglers: window,
		arrange: onRabbitMQCluster, inject: func(f *faultRun) {
			nodes := devtest.RabbitMQCluster(f.t).Nodes()
			f.away(length, nodes[0], nodes[1], nodes[2])
		}}})
}

// awayTime is how long the broker is away: OUTBOXD_AWAY, a minute without it.
func awayTime(t *testing.T) time.Duration {
	text := cmp.Or(os.Getenv("OUTBOXD_AWAY"), "1m")
	length, err := time.ParseDuration(text)
	if err != nil || length < 10*time.Second {
		t.Fatalf("OUTBOXD_AWAY=%s: want a duration of 10s or more, as 10m", text)
	}
	return length
}

// away writes events for that long while nodes are gone, and waits until all of
// them have arrived.
func (f *faultRun) away(length time.Duration, nodes ...node) {
	f.quiet()
	f.without(byKill, func() {
		f.steady(length)
		f.waits()
		if status, body := f.relay.get("/readyz"); status != http.StatusServiceUnavailable {
			f.t.Errorf("readyz: %d %s", status, body)
		}
		if age := f.relay.metric("outboxd_oldest_unpublished_age_seconds"); age < (length - 5*time.Second).Seconds() {
			f.t.Errorf("the oldest event is said to wait for %.0f s, after %s", age, length)
		}
	}, nodes...)
	back := time.Now()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute+3*length)
	defer cancel()
	want := f.history.Committed()
	f.end.read(ctx, func(distinct int) bool { return distinct >= want })
	f.recovery = time.Since(back)
}

// steady writes awayRate events each second for that long, if the machine can.
func (f *faultRun) steady(length time.Duration) {
	f.t.Helper()
	began, n := time.Now(), 0
	for ; time.Since(began) < length; n += awayRate {
		writeBig(f.t, f.site.app, f.end, &f.history, n, awayRate)
		<-time.After(time.Until(began.Add(time.Duration(n/awayRate+1) * time.Second)))
	}
	f.t.Logf("%d events in %s", n, time.Since(began).Round(time.Millisecond))
}
