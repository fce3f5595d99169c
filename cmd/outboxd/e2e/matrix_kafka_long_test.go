//go:build long && !embedded

package e2e_test

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

var byFreeze = outage{
	func(_ context.Context, n node) error { return n.Freeze() },
	func(_ context.Context, n node) error { return n.Thaw() },
}

// TestLongMatrixKafka holds rows of TestMatrixKafka that take long.
func TestLongMatrixKafka(t *testing.T) {
	runMatrix(t, "Kafka", []fault{
		{id: "F37b", name: "all brokers frozen for long", how: "SIGSTOP of three nodes of three until the relay says so", alone: true,
			expect: "after 30 s `/readyz` says that the broker has not acked; as F37", arrange: onKafkaCluster, inject: brokersSilent},
		{id: "F38e", name: "one of three frozen", how: "SIGSTOP of a node that leads partitions", alone: true,
			expect: "the client gives up on it after 20 s and events flow without it, the session stays", arrange: onKafkaCluster, inject: oneBroker(byFreeze)},
		{id: "F45b", name: "password changed while running", how: "the user's password, and later the file that `password_file` names", alone: true,
			expect: "`broker_authentication`; goes on with the new password, without a restart", arrange: withPasswordFile, inject: passwordChanged},
	})
}

func brokersSilent(f *faultRun) {
	nodes := devtest.KafkaCluster(f.t).Nodes()
	f.undisturbed(func() {
		f.without(byFreeze, func() {
			f.waits()
			eventually(f.t, time.Minute, "the relay is not ready", func() bool {
				status, body := f.relay.get("/readyz")
				return status == http.StatusServiceUnavailable && strings.Contains(body, "the broker has not acked")
			})
		}, nodes[0], nodes[1], nodes[2])
	})
}

// withPasswordFile is withLogin with the password in a file.
func withPasswordFile(f *faultRun) {
	f.t.Helper()
	withLogin(f)
	end := f.kafka()
	file := passwordFile(f)
	f.must(os.WriteFile(file, []byte("kafka-secret"), 0o600))
	f.end = kafkaBy{end, append([]string{"--broker", f.secureURL(end.prefix) + "&password_file=" + url.QueryEscape(file)}, end.flags()[2:]...)}
}

// passwordChanged waits for brokers to ask for the password again, which they
// do every ten seconds.
func passwordChanged(f *faultRun) {
	f.setPassword("new-secret")
	f.relay.says(http.StatusServiceUnavailable, "broker_authentication")
	f.must(os.WriteFile(passwordFile(f), []byte("new-secret"), 0o600))
}

// passwordFile is the row's.
func passwordFile(f *faultRun) string { return filepath.Join(scratch.Dir(), f.kafka().prefix) }
