//go:build !embedded

package devenv_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv"
)

func TestKafkaLifecycle(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	k, err := devenv.StartKafka(ctx, devenv.KafkaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "hsperfdata_*", strconv.Itoa(k.PID()))); left != nil {
		t.Errorf("the JVM keeps a file outside its directory: %q", left)
	}
	testLifecycle(ctx, t, k,
		func() error { return k.Stop(ctx) },
		func(s string) error { return produce(ctx, k.Brokers(), s) },
		func() (string, error) { return lastRecord(ctx, k.Brokers()) })
}

func TestKafkaProperties(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, err := devenv.StartKafka(ctx, devenv.KafkaOptions{Properties: map[string]string{"node.id": "none"}})
	if err == nil || !strings.Contains(err.Error(), "Invalid value none") {
		t.Errorf("StartKafka = %v, want the reason that Kafka gives", err)
	}
}

func TestKafkaOrphan(t *testing.T) {
	t.Parallel()
	testOrphan(t, "kill", func(ctx context.Context) (service, error) {
		return devenv.StartKafka(ctx, devenv.KafkaOptions{})
	})
}
