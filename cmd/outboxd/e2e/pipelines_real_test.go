//go:build !embedded

package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// twoBrokers is a site with a second pipeline on the same table, and the file
// that makes one process of the two: the first publishes to Kafka, the second
// to RabbitMQ. The passwords are in files of their own.
type twoBrokers struct {
	*site
	second string
	file   string
}

func newTwoBrokers(t *testing.T, kafka *cluster, rabbit, exchange string) twoBrokers {
	t.Helper()
	b := twoBrokers{site: owned(t), second: devtest.Name(t)}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	b.file = write("outboxd.yaml", fmt.Sprintf(`
database-file: %s
metrics: 127.0.0.1:0
pipelines:
  %s:
    broker: %s
    topic: "%s{aggregatetype}"
  %s:
    broker-file: %s
    exchange: %s
`, write("database", b.relay+"\n"), b.pipeline, kafka.url, strings.TrimSuffix(kafka.topic, "order"), b.second, write("rabbitmq", rabbit+"\n"), exchange))
	outboxd(t, "setup", "--config", b.file, "--database", b.admin, "--relay-role", "relay_"+b.pipeline, "--app-role", "app_"+b.pipeline).
		expect(t, 0, "already there  replication slot "+b.slot(), "created        replication slot outboxd_"+b.second)
	return b
}

// TestMissingTopicHoldsOnlyKafka: RabbitMQ gets everything meanwhile, and
// Kafka everything afterwards.
func TestMissingTopicHoldsOnlyKafka(t *testing.T) {
	t.Parallel()
	kafka, rabbit := newReal(t, devtest.Kafka(t)), newRabbit(t)
	rabbit.declareExchange()
	rabbit.bindQueue("#")
	s := newTwoBrokers(t, kafka, rabbit.url, rabbit.name)
	r := discreet(startRelay(t, "--config", s.file))
	s.write(1, 100)
	rabbit.expect(1, 100)
	r.says(http.StatusServiceUnavailable, s.pipeline+": held: ", `missing_topic "`+kafka.topic+`"`, s.second+": streaming\n")
	_, metrics := r.get("/metrics")
	contains(t, metrics, fmt.Sprintf("outboxd_events_held{pipeline=%q,reason=%q,target=%q} 1", s.pipeline, "missing_topic", kafka.topic),
		fmt.Sprintf("outboxd_oldest_unpublished_age_seconds{pipeline=%q} 0\n", s.second))
	kafka.create(nil)
	r.says(http.StatusOK, s.pipeline+": streaming\n", s.second+": streaming\n")
	kafka.expect(1, 100)
	if code := r.term(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

// TestRabbitMQDownHoldsOnlyItself: Kafka gets everything, and a stop does not
// wait for the broker that is away.
func TestRabbitMQDownHoldsOnlyItself(t *testing.T) {
	t.Parallel()
	kafka := newReal(t, devtest.Kafka(t))
	kafka.create(nil)
	addr := closedPort(t)
	s := newTwoBrokers(t, kafka, "amqp://u:rabbit-secret@"+addr, "outbox")
	r := discreet(startRelay(t, "--config", s.file))
	s.write(1, 100)
	kafka.expect(1, 100)
	r.says(http.StatusServiceUnavailable, s.pipeline+": streaming\n", s.second+": retrying: ", addr)
	if code := r.term(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}
