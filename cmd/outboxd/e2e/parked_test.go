//go:build !embedded

package e2e_test

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// limited is a broker that refuses large events until lift is called; args are
// the flags for a relay to it.
type limited struct {
	broker
	args func() []string
	lift func()
}

// Limits under which some events of the workload are too large, and none is.
const (
	someRefused = 2500
	noneRefused = 4_000_000
)

// limitedBrokers refuse what has more bytes than low, later than high.
var limitedBrokers = map[string]func(t *testing.T, low, high int) limited{"Kafka": limitedKafka, "RabbitMQ": limitedRabbitMQ}

func limitedKafka(t *testing.T, low, high int) limited {
	end := newKafkaEnd(t, devtest.Kafka(t))
	client, err := kgo.NewClient(kgo.SeedBrokers(end.brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	limit := func(n int) *string { return new(strconv.Itoa(n)) }
	for _, topic := range topics(end.prefix) {
		if _, err := admin.CreateTopic(t.Context(), 6, 1, map[string]*string{"max.message.bytes": limit(low)}, topic); err != nil {
			t.Fatal(err)
		}
	}
	return limited{end, end.flags, func() {
		if _, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: limit(high)}}, topics(end.prefix)...); err != nil {
			t.Fatal(err)
		}
	}}
}

func limitedRabbitMQ(t *testing.T, low, high int) limited {
	end := newRabbitEnd(t, devtest.RabbitMQ(t))
	limit := low
	return limited{end, func() []string {
		flags := end.flags()
		flags[1] += map[bool]string{true: "&", false: "?"}[strings.Contains(flags[1], "?")] + "max_message_size=" + strconv.Itoa(limit)
		return flags
	}, func() { limit = high }}
}

// parked runs outboxd parked as the relay's role.
func (s *site) parked(command string, args ...string) result {
	s.t.Helper()
	return outboxd(s.t, append([]string{"parked", command, "--database", s.relay, "--pipeline", s.pipeline}, args...)...)
}

// parkedEvents counts what is parked.
func (s *site) parkedEvents() (n int) {
	s.t.Helper()
	r := s.parked("list", "-o", "json")
	var groups []struct{ Events int }
	if err := json.Unmarshal([]byte(r.stdout), &groups); err != nil {
		s.t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
	}
	for _, g := range groups {
		n += g.Events
	}
	return n
}

// handedBack waits until nothing is parked any more.
func (s *site) handedBack() {
	s.t.Helper()
	s.parked("retry", "--all")
	eventually(s.t, 2*time.Minute, "everything is handed back", func() bool { return s.parkedEvents() == 0 })
}

// TestParkedUnderKills: relays are killed in the middle of parking, then of
// releasing, while the writers go on. When they end every key is handed back.
func TestParkedUnderKills(t *testing.T) {
	for name, b := range limitedBrokers {
		t.Run(name, func(t *testing.T) {
			end := b(t, someRefused, noneRefused)
			s := newSite(t, devtest.Database(t))
			run := func() *relay { return s.run(end.args()...) }
			rng := rand.New(rand.NewPCG(1, 1))
			somewhen := func() { <-time.After(time.Duration(rng.IntN(1500)) * time.Millisecond) }
			load := mixed(s, end)
			load.Writers = 4
			var h workload.History
			underLoad(t, load, &h, func() {
				for i := range 4 {
					r := run()
					eventually(t, time.Minute, "something is parked", func() bool { return r.metric("outboxd_events_parked_total") > 20 })
					if i < 3 {
						somewhen()
					}
					r.kill()
				}
				if s.parkedEvents() == 0 {
					t.Error("nothing is parked")
				}
				end.lift()
				for range 4 {
					r := run()
					r.ready()
					s.parked("retry", "--all")
					eventually(t, time.Minute, "something is released, or nothing parked", func() bool {
						return r.metric("outboxd_parked_released_total") > 0 || r.metric("outboxd_parked_events") == 0
					})
					somewhen()
					r.kill()
				}
				run().ready()
				s.parked("retry", "--all")
			})
			s.handedBack()
			judgeKilled(t, &h, end, 100_000, 100)
		})
	}
}
