//go:build !embedded

package e2e_test

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/outbox"
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

// handedBack retries what is parked and waits until nothing is any more. What was
// parked in the moment before the relay knew of the new limit has no mark yet.
func (s *site) handedBack() {
	s.t.Helper()
	eventually(s.t, 2*time.Minute, "everything is handed back", func() bool {
		if s.value("SELECT count(*)::text FROM outboxd.parked WHERE state = 'parked' AND NOT behind") != "0" {
			s.parked("retry", "--all")
		}
		return s.parkedEvents() == 0
	})
}

// parkedFor counts what is parked for a reason.
func (s *site) parkedFor(reason string) int {
	s.t.Helper()
	var n int
	if _, err := fmt.Sscan(s.value("SELECT count(*)::text FROM outboxd.parked WHERE reason = '"+reason+"'"), &n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// TestOnlyTheCulpritIsParked: some events of a busy topic are too large for it.
// They are parked, with the later ones of their keys; their neighbours, in the
// same batch or not, are published once. When the topic takes them, each of
// those is published once.
func TestOnlyTheCulpritIsParked(t *testing.T) {
	const culprits, keys, events = 3, 100, 3000
	for name, row := range map[string]struct {
		option   string // of the broker's URL
		sessions float64
	}{
		"the limit is known": {"", 0},
		// With one lane nothing else is on its way when a batch is refused.
		"the broker refuses whole batches": {"?max_message_bytes=1000000&lanes=1", culprits},
	} {
		t.Run(name, func(t *testing.T) {
			end := limitedKafka(t, someRefused, noneRefused)
			s := newSite(t, devtest.Database(t))
			var h workload.History
			waiting := writeLarge(t, s.app, end, &h, events, keys, culprits)
			args := end.args()
			args[1] += row.option
			end.watch(s, func() {
				r := s.run(args...)
				eventually(t, time.Minute, "everything is published or parked", func() bool {
					return int(r.metric("outboxd_events_published_total"))+s.parkedEvents() >= events
				})
				if large, behind := s.parkedFor("too_large"), s.parkedFor("behind"); large != culprits || behind != waiting {
					t.Errorf("parked %d too large and %d behind, want %d and %d", large, behind, culprits, waiting)
				}
				if n := r.metric(`outboxd_sessions_total{pipeline="` + s.pipeline + `",reason="poison_pending"}`); n > row.sessions || (n == 0) != (row.sessions == 0) {
					t.Errorf("%v sessions ended for %d events", n, culprits)
				}
				end.lift()
				s.handedBack()
			})
			judge(t, &h, end, 0)
		})
	}
}

// writeLarge writes one transaction of n events of so many keys, in which the
// first few keys have a large one in the middle. It returns how many events come
// after those of their keys.
func writeLarge(t *testing.T, database string, b broker, h *workload.History, n, keys, large int) (behind int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var written []checker.Written
	events := make([]outbox.Event, n)
	for i := range events {
		key := fmt.Sprintf("large-%d", i%keys)
		payload := fmt.Appendf(nil, `{"number": %d}`, i)
		switch middle := n/2 - n/2%keys; {
		case i%keys >= large:
		case i == middle+i%keys:
			fill := make([]byte, 10_000) // whatever the compression
			crand.Read(fill)
			payload = fmt.Appendf(nil, `{"number": %d, "fill": "%x"}`, i, fill)
		case i > middle+i%keys:
			behind++
		}
		events[i] = outbox.Event{ID: outbox.NewID(), AggregateType: "big", AggregateID: key, Type: "big.counted", Payload: payload}
		written = append(written, checker.Written{ID: events[i].ID.String(), Outcome: checker.Committed,
			Domain: b.domain("big", key), N: i, Sum: sha256.Sum256(payload)})
	}
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		_, err := outbox.Write(t.Context(), tx, events...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Add(written)
	return behind
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
			disturb := func() {
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
			}
			end.watch(s, func() {
				underLoad(t, load, &h, disturb)
				s.handedBack()
			})
			judgeKilled(t, &h, end, 100_000, 100)
		})
	}
}
