package e2e_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// replay runs outboxd replay as the relay's role.
func (s *site) replay(out lines, flags ...string) result {
	s.t.Helper()
	args := append([]string{"replay", "--database", s.relay, "--pipeline", s.pipeline, "--log-format", "text"}, flags...)
	return outboxd(s.t, append(args, out.broker()...)...)
}

func (s *site) command(name string, flags ...string) result {
	s.t.Helper()
	return outboxd(s.t, append([]string{name, "--database", s.relay, "--pipeline", s.pipeline}, flags...)...)
}

// audit returns what was noted of the last deed.
func (s *site) audit() string {
	s.t.Helper()
	return s.value("SELECT concat_ws(' ', action, who, reason) FROM outboxd.audit ORDER BY at DESC LIMIT 1")
}

// TestReplayChosenRows: by id, by time, by transaction, beside a relay that goes
// on, and without publishing anything.
func TestReplayChosenRows(t *testing.T) {
	t.Parallel()
	s, out, again := owned(t), newLines(t), newLines(t)
	discreet(s.run(out.broker()...)).ready()
	s.write(1, 5)
	out.expect(1, 5)
	id := func(n string) string { return s.value("SELECT id::text FROM outbox WHERE payload->>'n' = '" + n + "'") }
	s.replay(again, "--since", "1h", "--dry-run").expect(t, 0, "rows       5", "first      event "+id("1")+", seq 1", "last       event "+id("5")+", seq 5")
	if got := again.numbers(); len(got) != 0 {
		t.Errorf("a dry run published %v", got)
	}
	s.replay(again, "--id", id("4"), "--id", "{"+strings.ToUpper(strings.ReplaceAll(id("2"), "-", ""))+"}").expect(t, 0, "published  2 records")
	s.replay(again, "--from", s.value("SELECT xid::text FROM outbox WHERE seq = 4")).expect(t, 0, "published  2 records", "first      event "+id("4"), "last       event "+id("5"))
	s.replay(again, "--since", "1h", "--until", s.value("SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM outbox WHERE seq = 2")).expect(t, 0, "published  1 records")
	if got := again.numbers(); !slices.Equal(got, []int{2, 4, 4, 5, 1}) {
		t.Errorf("replayed %v", got)
	}
	const nobody = "00000000-0000-0000-0000-000000000000"
	s.replay(again, "--id", nobody).expect(t, 1, "no row has the id "+nobody)
	for flags, want := range map[string]string{
		"":                        "give one of --gap, --since, --from and --id",
		"--gap --since 1h":        "give one of --gap, --since, --from and --id",
		"--since yesterday":       `--since: "yesterday"`,
		"--from x":                `--from "x"`,
		"--from 1 --resume 7":     "--resume: parse \"7\"",
		"--from 1 --until 1h":     "--until needs --since",
		"--id 1 --exchange there": "--exchange is not for a jsonl broker",
	} {
		s.replay(again, strings.Fields(flags)...).expect(t, 78, "configuration", want)
	}
	s.replay(again, "--gap").expect(t, 0, "no gap is pending")
	s.write(6, 6)
	out.expect(1, 6)
}

// TestReplayLeavesPoisonOut: what cannot be published is named, the rest is
// published, and a gap stays pending until somebody gives it up.
func TestReplayLeavesPoisonOut(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	s.write(1, 1)
	s.exec("INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'no topic', 'x', 'y')")
	s.write(3, 3)
	words := []string{"a row cannot be published and is left out", "bad_topic", "1 rows cannot be published as they are", "replay these rows by --id", "published  2 records"}
	s.replay(out, "--since", "1h").expect(t, 1, words...)
	s.exec("SELECT pg_drop_replication_slot('" + s.slot() + "')")
	s.command("adopt", "--yes").expect(t, 0, "accepted")
	s.replay(out, "--gap").expect(t, 1, append(words, "given up with outboxd skip --gap")...)
	if got := out.numbers(); !slices.Equal(got, []int{1, 3, 1, 3}) {
		t.Errorf("events %v arrived", got)
	}
	s.command("adopt", "--yes").expect(t, 0, "pending")
}

// TestSkipEvent: the relay stops in front of an event that can never be
// published and names the command that leaves out exactly that one.
func TestSkipEvent(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	flags := append(out.broker(), "--poison", "stop")
	s.exec(`INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) SELECT gen_random_uuid(),
		CASE n WHEN 2 THEN 'no topic' ELSE 'order' END, 'one', 'placed', json_build_object('n', n) FROM generate_series(1, 3) n`)
	stopped := s.gives(flags...)
	stopped.expect(t, 1, "poison", "bad_topic", "outboxd skip --pipeline "+s.pipeline)
	out.expect(1, 1)
	_, position, _ := strings.Cut(stopped.stderr, "--event ")
	position, _, _ = strings.Cut(position, " ")

	s.command("skip", "--event", position).expect(t, 78, "--reason is missing")
	s.command("skip", "--reason", "x").expect(t, 78, "give one of --event, --to and --gap")
	s.command("skip", "--event", "7", "--reason", "x").expect(t, 78, `parse position "7"`)
	s.command("skip", "--event", position, "--reason", "x").expect(t, 1, "unconfirmed", "skips      the event at "+position+", and no other", "nothing was changed")
	s.gives(flags...).expect(t, 1, "poison", position)
	s.command("skip", "--event", position, "--reason", "it's 'too' large", "--yes").expect(t, 0, "skipped")
	if got := s.audit(); !strings.HasPrefix(got, "skip relay_"+s.pipeline) || !strings.HasSuffix(got, " it's 'too' large") {
		t.Errorf("audited: %s", got)
	}
	r := discreet(s.run(flags...))
	eventually(t, 30e9, "the event behind it arrives", func() bool { return slices.Equal(out.numbers(), []int{1, 3}) })
	r.says(http.StatusOK, "streaming")
	s.command("skip", "--event", position, "--reason", "x", "--yes").expect(t, 75, "slot_active", "stop the relay first")
	if code := r.term(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	s.command("skip", "--event", position, "--reason", "x", "--yes").expect(t, 78, "skip_position", "published or skipped before")
}

// TestSkipTo: everything of the transactions before an LSN is left out, those
// beyond it are whole.
func TestSkipTo(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	s.write(1, 2)
	to := s.value("SELECT pg_current_wal_flush_lsn()::text")
	s.write(3, 4)
	s.command("skip", "--to", to, "--reason", "tried out", "--yes").expect(t, 0, "skips      every event", "before "+to+": at most 4 rows")
	s.command("skip", "--to", to, "--reason", "again", "--yes").expect(t, 78, "skip_position", "not ahead of the pipeline")
	s.command("skip", "--to", "FFFF/0", "--reason", "again", "--yes").expect(t, 78, "skip_position", "the server's WAL ends at")
	discreet(s.run(out.broker()...))
	out.expect(3, 4)
}

// TestGapOfDroppedSlot: the whole way, for a slot that was dropped while the
// relay was stopped: what is missing comes from the table, also when the gap is
// given up half-way, and relays are kept away meanwhile.
func TestGapOfDroppedSlot(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	first := discreet(s.run(out.broker()...))
	first.ready()
	s.write(1, 3)
	out.expect(1, 3)
	if code := first.term(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	s.write(4, 5)
	s.exec("SELECT pg_drop_replication_slot('" + s.slot() + "')")
	s.write(6, 7)
	s.gives(out.broker()...).expect(t, 78, "slot_missing", "outboxd adopt --pipeline "+s.pipeline, "outboxd replay --pipeline "+s.pipeline)
	s.replay(out, "--gap").expect(t, 0, "no gap is pending") // adopt comes first
	s.command("adopt", "--published", "7").expect(t, 78, `--published: parse position "7"`)
	s.command("adopt", "--yes").expect(t, 0, "slot \""+s.slot()+"\" is gone", "goes on    with a new slot", "created", "accepted")
	if got := s.value("SELECT failover::text FROM (SELECT to_jsonb(s)->>'failover' AS failover FROM pg_replication_slots s WHERE slot_name = '" + s.slot() + "') x WHERE failover IS NOT NULL UNION ALL SELECT 'true' LIMIT 1"); got != "true" {
		t.Error("the new slot does not survive a failover")
	}
	s.command("adopt", "--yes").expect(t, 0, "no gap", "pending", "outboxd replay --pipeline "+s.pipeline)
	s.write(8, 8) // between the new slot and the replay: comes twice

	warned := discreet(s.run("--broker", "jsonl:/dev/null", "--fail-fast"))
	warned.ready()
	contains(t, warned.logged(), "has not been replayed", "with its flags outboxd replay --pipeline "+s.pipeline+" --gap", "with its --config or --database")
	s.replay(out, "--gap").expect(t, 75, "slot_active", "stop the relay first")
	if got := out.numbers(); len(got) != 3 {
		t.Errorf("events %v arrived while a relay ran", got)
	}
	warned.kill()
	replayed := s.replay(out, "--gap")
	replayed.expect(t, 0, "published  8 records")
	if got := s.audit(); !strings.HasPrefix(got, "replay relay_"+s.pipeline) {
		t.Errorf("audited: %s", got)
	}
	s.replay(out, "--gap").expect(t, 0, "no gap is pending")
	if got := out.numbers(); !slices.Equal(got, append(upTo(1, 3), upTo(1, 8)...)) {
		t.Errorf("events %v arrived", got)
	}
	discreet(s.run(out.broker()...)).ready()
	s.write(9, 9)
	eventually(t, 30e9, "the event after the gap arrives", func() bool { all := out.numbers(); return all[len(all)-1] == 9 })
}

// TestGapIsGivenUp: who does not want the replay says why.
func TestGapIsGivenUp(t *testing.T) {
	t.Parallel()
	s, out := owned(t), newLines(t)
	s.write(1, 2)
	s.command("skip", "--gap", "--reason", "x").expect(t, 0, "no gap is pending")
	s.exec("SELECT pg_drop_replication_slot('" + s.slot() + "')")
	s.command("adopt", "--yes").expect(t, 0, "accepted")
	s.command("skip", "--gap", "--reason", "x").expect(t, 1, "at most 2 rows", "unconfirmed")
	s.command("skip", "--gap", "--reason", "nobody reads them", "--yes").expect(t, 0, "closed")
	if got := s.audit(); !strings.HasSuffix(got, "nobody reads them") {
		t.Errorf("audited: %s", got)
	}
	s.replay(out, "--gap").expect(t, 0, "no gap is pending")
	r := discreet(s.run(out.broker()...))
	s.write(3, 3)
	out.expect(3, 3)
	if strings.Contains(r.logged(), "has not been replayed") {
		t.Errorf("the relay warns of a gap that was given up:\n%s", r.logged())
	}
}
