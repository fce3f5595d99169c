//go:build !embedded

package e2e_test

import (
	"net/http"
	"syscall"
	"testing"
	"time"
)

// TestMatrixRelay breaks the relay.
func TestMatrixRelay(t *testing.T) {
	runMatrix(t, "Relay", []fault{
		{id: "F1", name: "killed, to Kafka", how: "SIGKILL under load, then another process",
			expect: "the next process goes on where the slot stands", duplicates: mostRepeated, stragglers: mostInFlight, inject: killed},
		{id: "F1b", name: "killed, to RabbitMQ", how: "SIGKILL under load, then another process",
			expect: "as F1", duplicates: mostRepeated, stragglers: mostInFlight, arrange: toRabbitMQ, inject: killed},
		{id: "F1c", name: "killed twenty times at random", elsewhere: "TestKillLoop"},
		{id: "F2", name: "stopped and started, to Kafka", how: "SIGTERM under load, three times",
			expect: "exit 0; everything acked is confirmed, nothing comes twice", inject: stopped},
		{id: "F2b", name: "stopped and started, to RabbitMQ", how: "SIGTERM under load, three times",
			expect: "as F2", arrange: toRabbitMQ, inject: stopped},
		{id: "F3", name: "stopped while the broker hangs", how: "SIGSTOP of Kafka, then SIGTERM",
			expect: "exit 0 when `--drain-timeout` is over, nothing unacked confirmed", elsewhere: "TestStopWhileKafkaHangs"},
		{id: "F4", name: "frozen leader", how: "SIGSTOP for longer than `wal_sender_timeout`, a standby beside it, then SIGCONT",
			expect:     "the standby takes over; the old leader publishes no more than its kernel held, and stands by",
			duplicates: mostRepeated, stragglers: mostInFlight, inject: frozenLeader},
		{id: "F5", name: "memory limited by a control group", left: "control groups cannot be made without root. That memory has a bound is seen in the RSS of every row, with a backlog in F5 of the network"},
		{id: "F6", name: "leader killed beside a standby", how: "SIGKILL of the relay that has the slot",
			expect: "the standby publishes within seconds", duplicates: mostRepeated, stragglers: mostInFlight, inject: func(f *faultRun) {
				leader := f.relay
				f.start().says(http.StatusOK, "standby")
				leader.kill()
				f.healed()
				if f.relay.metric("outboxd_leader") != 1 {
					f.t.Error("events flow, and the metric does not say that the standby leads")
				}
			}},
		{id: "F7", name: "panic while decoding or routing", left: "the program has no way to be made to panic; decoders are fuzzed, and a stream that does not decode ends with exit 70"},
		{id: "F8", name: "clock wrong by an hour", left: "needs another clock for one process than for the machine; that latencies are clamped is tested with package metrics"},
		{id: "F9", name: "bad configuration on reload", left: "there is no reload"},
		{id: "F10", name: "upgrade and downgrade", left: "there is no older version"},
	})
}

func killed(f *faultRun) {
	f.relay.kill()
	f.start()
}

// stopped stops the relay in good order again and again.
func stopped(f *faultRun) {
	for range 3 {
		if code := f.relay.term(); code != 0 {
			f.t.Errorf("exit code %d\n%s", code, f.relay.logged())
		}
		if left := f.site.value("SELECT (w.acked_lsn - s.confirmed_flush_lsn)::text FROM outboxd.witness w, pg_replication_slots s WHERE slot_name = '" + f.site.slot() + "'"); left != "0" {
			f.t.Errorf("the slot is %s bytes behind what was acked", left)
		}
		f.start()
		f.healed()
	}
}

// frozenLeader stops the leader in the middle until its standby has the slot.
func frozenLeader(f *faultRun) {
	f.shortTimeout()
	leader := f.relay
	f.start().says(http.StatusOK, "standby")
	signal := func(s syscall.Signal) {
		if err := leader.cmd.Process.Signal(s); err != nil {
			f.t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	defer signal(syscall.SIGCONT)
	eventually(f.t, 30*time.Second, "the standby takes over", func() bool { return f.relay.metric("outboxd_leader") == 1 })
	f.healed()
	signal(syscall.SIGCONT)
	leader.says(http.StatusOK, "standby")
}
