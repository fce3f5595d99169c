package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// cluster is a Kafka, real or not, and a topic there that no other test uses.
type cluster struct {
	t      *testing.T
	url    string
	topic  string
	client *kgo.Client
	got    []*kgo.Record
}

func newCluster(t *testing.T, url string, options ...kgo.Opt) *cluster {
	t.Helper()
	topic := devtest.Name(t) + ".order"
	client, err := kgo.NewClient(append(options, kgo.ConsumeTopics(topic), kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(500*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &cluster{t: t, url: url, topic: topic, client: client}
}

// newFake is a fake cluster that wants a password.
func newFake(t *testing.T) (*cluster, *devenv.Kfake) {
	t.Helper()
	fake := devtest.Kfake(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "kafka-secret"))
	c := newCluster(t, "kafka://relay:kafka-secret@"+strings.Join(fake.Brokers(), ",")+"?sasl=plain",
		kgo.SeedBrokers(fake.Brokers()...), kgo.SASL(plain.Auth{User: "relay", Pass: "kafka-secret"}.AsMechanism()))
	return c, fake
}

func (c *cluster) broker() []string {
	return []string{"--broker", c.url, "--topic", strings.TrimSuffix(c.topic, "order") + "{aggregatetype}"}
}

func (c *cluster) create(configs map[string]*string) {
	c.t.Helper()
	if _, err := kadm.NewClient(c.client).CreateTopic(c.t.Context(), 1, 1, configs, c.topic); err != nil {
		c.t.Fatal(err)
	}
}

// poll takes what comes within the time.
func (c *cluster) poll(d time.Duration) {
	ctx, cancel := context.WithTimeout(c.t.Context(), d)
	defer cancel()
	c.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { c.got = append(c.got, r) })
}

func (c *cluster) numbers() (all []int) {
	c.t.Helper()
	for _, r := range c.got {
		var value struct{ N int }
		if err := json.Unmarshal(r.Value, &value); err != nil {
			c.t.Fatal(err)
		}
		all = append(all, value.N)
	}
	return all
}

// expect waits for events first to last, in order and once.
func (c *cluster) expect(first, last int) {
	c.t.Helper()
	want := upTo(first, last)
	for deadline := time.Now().Add(30 * time.Second); len(c.got) < len(want) && time.Now().Before(deadline); {
		c.poll(time.Second)
	}
	c.poll(300 * time.Millisecond)
	if got := c.numbers(); !slices.Equal(got, want) {
		c.t.Errorf("events %v arrived, want %v", got, want)
	}
}

// confirmedBefore says that neither slot nor witness is past the commit of the
// event at that position.
func (s *site) confirmedBefore(position string) {
	s.t.Helper()
	p, err := cdc.ParsePosition(position)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sql := range []string{
		"SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::text FROM pg_replication_slots WHERE slot_name = '" + s.slot() + "'",
		"SELECT (acked_lsn - '0/0'::pg_lsn)::text FROM outboxd.witness",
	} {
		at, err := strconv.ParseUint(s.value(sql), 10, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		if at > uint64(p.Commit) {
			s.t.Errorf("confirmed up to %s, past the event at %s: %s", cdc.LSN(at), position, sql)
		}
	}
}

// TestBrokerUnreachable: run waits for ever and says what for; --fail-fast
// gives up.
func TestBrokerUnreachable(t *testing.T) {
	t.Parallel()
	s, fake := owned(t), devtest.Kfake(t)
	s.write(1, 1)
	kafka, rabbit := closedPort(t), closedPort(t)
	for addr, url := range map[string]string{kafka: "kafka://" + kafka, rabbit: "amqp://relay:rabbit-secret@" + rabbit} {
		r := discreet(s.run("--broker", url))
		r.says(http.StatusServiceUnavailable, "retrying", "broker_unreachable", addr)
		if code := r.term(); code != 0 {
			t.Errorf("exit code %d after SIGTERM", code)
		}
		s.gives("--broker", url, "--fail-fast").expect(t, 69, "broker_unreachable", addr, "check the address in --broker and whether the broker runs")
	}
	r := discreet(s.run("--broker", "kafka://"+kafka, "--create-topics"))
	r.says(http.StatusServiceUnavailable, "broker_unreachable")
	forward(t, kafka, fake.Brokers()[0])
	r.says(http.StatusOK, "streaming")
	eventually(t, 30*time.Second, "the event is published", func() bool { return r.metric("outboxd_events_published_total") == 1 })
}

func TestBrokerRefusesPassword(t *testing.T) {
	t.Parallel()
	s := owned(t)
	c, fake := newFake(t)
	// A real broker answers; the fake one only hangs up.
	fake.Cluster().ControlKey(int16(kmsg.SASLAuthenticate), func(request kmsg.Request) (kmsg.Response, error, bool) {
		fake.Cluster().KeepControl()
		refusal := request.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		refusal.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return refusal, nil, true
	})
	s.gives("--broker", strings.Replace(c.url, "kafka-secret", "wrong-secret", 1)).
		expect(t, 77, "broker_authentication", "kafka refuses the login", "correct the login of --broker: user and password, or token")
}

func TestMissingTopic(t *testing.T) {
	t.Parallel()
	c, _ := newFake(t)
	missingTopic(t, c)
}

// missingTopic: the relay waits for the topic, says so, and loses nothing.
func missingTopic(t *testing.T, c *cluster) {
	s := owned(t)
	s.write(1, 3)
	s.gives(append(c.broker(), "--fail-fast")...).expect(t, 69, "missing_topic", c.topic, "--create-topics", "kafka-topics.sh")
	r := discreet(s.run(c.broker()...))
	r.says(http.StatusServiceUnavailable, "held", `missing_topic "`+c.topic+`"`, "--create-topics")
	_, body := r.get("/metrics")
	contains(t, body, `outboxd_events_held{pipeline="`+s.pipeline+`",reason="missing_topic",target="`+c.topic+`"} 1`)
	if r.metric("outboxd_oldest_unpublished_age_seconds") <= 0 {
		t.Error("the metric of the oldest event says that none waits")
	}
	c.create(nil)
	r.says(http.StatusOK, "streaming")
	c.expect(1, 3)
	if r.metric("outboxd_events_held") != 0 {
		t.Error("the metric says that an event is held still")
	}
}

func TestOversizedEvent(t *testing.T) {
	t.Parallel()
	c, _ := newFake(t)
	oversizedEvent(t, c)
}

var poisonLine = regexp.MustCompile(`poison: publish event ([0-9a-f-]{36}) at ([0-9a-fA-F.]+),`)

// oversizedEvent: the relay publishes what is before the event and stops in
// front of it; with a higher limit it goes on.
func oversizedEvent(t *testing.T, c *cluster) {
	s := owned(t)
	limit, higher := "10000", "1000000"
	c.create(map[string]*string{"max.message.bytes": &limit})
	s.write(1, 2)
	s.exec(`INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
		VALUES ('0190d5a5-6c3a-7000-8000-000000000003', 'order', 'one', 'placed', json_build_object('n', 3, 'fill', repeat('x', 20000)))`)
	s.write(4, 4)
	for range 2 { // the restarted relay stops at the same place and repeats nothing
		r := s.gives(append(c.broker(), "--poison", "stop")...)
		r.expect(t, 1, "poison", "0190d5a5-6c3a-7000-8000-000000000003", `"one"`, "placed", c.topic, "too_large", "max.message.bytes", limit,
			"raise the limit that the reason names", "it stays in the slot until then")
		found := poisonLine.FindStringSubmatch(r.stderr)
		if found == nil {
			t.Fatalf("no id and position in:\n%s", r.stderr)
		}
		s.confirmedBefore(found[2])
	}
	c.expect(1, 2)
	_, err := kadm.NewClient(c.client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &higher}}, c.topic)
	if err != nil {
		t.Fatal(err)
	}
	discreet(s.run(c.broker()...))
	c.expect(1, 4)
}

// TestNullAggregateID: an event without a key has no place in any order, which
// somebody must have wanted.
func TestNullAggregateID(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	s.write(1, 1)
	s.exec("ALTER TABLE outbox ALTER aggregateid DROP NOT NULL")
	s.exec(`INSERT INTO outbox (id, aggregatetype, type, payload) VALUES ('0190d5a5-6c3a-7000-8000-000000000002', 'order', 'placed', '{"n": 2}')`)
	s.write(3, 3)
	r := s.gives(append(out.broker(), "--poison", "stop")...)
	r.expect(t, 1, "poison", "0190d5a5-6c3a-7000-8000-000000000002", "missing_key", "--allow-unkeyed", "it stays in the slot until then")
	if found := poisonLine.FindStringSubmatch(r.stderr); found != nil {
		s.confirmedBefore(found[2])
	} else {
		t.Errorf("no id and position in:\n%s", r.stderr)
	}
	out.expect(1, 1)
	discreet(s.run(append(out.broker(), "--allow-unkeyed")...))
	out.expect(1, 3)
}

// hang makes the fake cluster take records and answer nothing until it is told
// to resume.
func hang(fake *devenv.Kfake) (resume func()) {
	var hung atomic.Bool
	hung.Store(true)
	fake.Cluster().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.Cluster().KeepControl()
		return nil, nil, hung.Load()
	})
	return func() { hung.Store(false) }
}

// hangs waits until n events are in flight. With more than one the first is
// with the broker for sure, and not on the way to it.
func (r *relay) hangs(n float64) {
	r.t.Helper()
	eventually(r.t, 10*time.Second, "events are in flight", func() bool { return r.metric("outboxd_inflight_events") == n })
}

func TestStopWhileBrokerHangs(t *testing.T) {
	t.Parallel()
	c, fake := newFake(t)
	var resume func()
	stopWhileBrokerHangs(t, c, func() { resume = hang(fake) }, func() { resume() })
}

// stopWhileBrokerHangs: SIGTERM ends the relay in order when --drain-timeout is
// over; what the broker has not acked is not confirmed, and comes again.
func stopWhileBrokerHangs(t *testing.T, c *cluster, stop, resume func()) {
	s := owned(t)
	c.create(nil)
	r := discreet(s.run(append(c.broker(), "--drain-timeout", "2s")...))
	r.ready()
	s.write(1, 3)
	c.expect(1, 3)
	stop()
	s.write(4, 5)
	r.hangs(2)
	began := time.Now()
	if code := r.term(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
	if took := time.Since(began); took < 2*time.Second || took > 7*time.Second {
		t.Errorf("the relay ended %s after SIGTERM, want about the 2 s of --drain-timeout", took)
	}
	contains(t, r.logged(), "level=WARN", "not everything was acked", "published again by the next relay")
	slot := s.value("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '" + s.slot() + "'")
	witness := s.value("SELECT acked_lsn::text FROM outboxd.witness")
	resume()
	discreet(s.run(c.broker()...))
	missing := func() bool { n := c.numbers(); return !slices.Contains(n, 4) || !slices.Contains(n, 5) }
	for deadline := time.Now().Add(30 * time.Second); missing() && time.Now().Before(deadline); {
		c.poll(time.Second)
	}
	if missing() {
		t.Fatalf("events %v arrived, want 1 to 5", c.numbers())
	}
	p, err := cdc.ParsePosition(header(c.got[3].Headers, "ce_sequence"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{slot, witness} {
		if at, err := parseLSN(text); err != nil || at > p.Commit {
			t.Errorf("confirmed up to %s, past the event at %s that was not acked (%v)", text, p, err)
		}
	}
}

func parseLSN(s string) (cdc.LSN, error) {
	var high, low uint32
	if _, err := fmt.Sscanf(s, "%X/%X", &high, &low); err != nil {
		return 0, err
	}
	return cdc.LSN(uint64(high)<<32 | uint64(low)), nil
}

func header(headers []kgo.RecordHeader, name string) string {
	for _, h := range headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// TestSecondSignal ends the relay at once, in the middle of its drain.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	c, fake := newFake(t)
	s := owned(t)
	c.create(nil)
	r := discreet(s.run(append(c.broker(), "--drain-timeout", "30s")...))
	r.ready()
	s.write(1, 1)
	c.expect(1, 1)
	defer hang(fake)()
	s.write(2, 3)
	r.hangs(2)
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.says(http.StatusServiceUnavailable, "stopping")
	<-time.After(time.Second) // two signals at once are one request
	began := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-r.exited
	if took := time.Since(began); took > time.Second {
		t.Errorf("the relay ended %s after the second signal", took)
	}
	if r.cmd.ProcessState.Success() {
		t.Error("the relay says that it has drained")
	}
}
