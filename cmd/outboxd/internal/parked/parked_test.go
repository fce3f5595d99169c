package parked_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
	"github.com/outboxd/outboxd/migrations"
)

func TestMain(m *testing.M) { devtest.Main(m) }

// yard is a database with a pipeline p whose witness is held by "us".
type yard struct {
	*pgx.Conn
	t     *testing.T
	url   string
	store parked.Store
}

func newYard(t *testing.T) *yard {
	t.Helper()
	return newYardAt(t, devtest.Database(t))
}

// newYardIn is a yard in a database of an encoding.
func newYardIn(t *testing.T, encoding string) *yard {
	t.Helper()
	base, err := url.Parse(devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	server, err := pgx.Connect(t.Context(), base.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close(context.Background()) })
	name := devtest.Name(t)
	if _, err := server.Exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE template0 LOCALE 'C' ENCODING '"+encoding+"'"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)") })
	base.Path = "/" + name
	return newYardAt(t, base.String())
}

func newYardAt(t *testing.T, url string) *yard {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	y := &yard{t: t, url: url, store: parked.Store{Database: url, Pipeline: "p", Holder: "us"}}
	y.Conn = y.dial()
	y.exec("INSERT INTO outboxd.witness (pipeline, system_id, timeline, epoch, slot, publication, acked_lsn, holder) VALUES ('p', '1', 1, 2, 's', 'p', '0/1000', 'us')")
	return y
}

func (y *yard) dial() *pgx.Conn {
	y.t.Helper()
	conn, err := pgx.Connect(y.t.Context(), y.url)
	if err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (y *yard) exec(sql string, args ...any) {
	y.t.Helper()
	if _, err := y.Exec(y.t.Context(), sql, args...); err != nil {
		y.t.Fatalf("%s: %v", sql, err)
	}
}

// publishedTo moves the witness.
func (y *yard) publishedTo(lsn cdc.LSN) {
	y.t.Helper()
	y.exec("UPDATE outboxd.witness SET acked_lsn = $1::pg_lsn", lsn.String())
}

func (y *yard) open() (*parked.Lot, *parked.Contents) {
	y.t.Helper()
	lot, contents, err := y.store.Open(y.t.Context())
	if err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(lot.Close)
	return lot, contents
}

func (y *yard) desk() *parked.Desk {
	y.t.Helper()
	desk, err := parked.OpenDesk(y.t.Context(), y.url, "p")
	if err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(desk.Close)
	return desk
}

// states is the states of all rows, in order.
func (y *yard) states() string {
	y.t.Helper()
	var s string
	if err := y.QueryRow(y.t.Context(), "SELECT coalesce(string_agg(state, ' ' ORDER BY position), '') FROM outboxd.parked").Scan(&s); err != nil {
		y.t.Fatal(err)
	}
	return s
}

func at(commit cdc.LSN, ordinal uint32) cdc.Position {
	return cdc.Position{Epoch: 2, Commit: commit, Ordinal: ordinal}
}

// event is one of a key, with its position for its id.
func event(p cdc.Position, key, reason string) parked.Event {
	domain, _ := parked.DomainOf("topic", []byte(key), nil)
	return parked.Event{
		Event: record.Event{
			ID: []byte(p.String()), AggregateType: []byte("order"), AggregateID: []byte(key), Type: []byte("placed"), Payload: []byte("{}"),
			Position: p, CommitTime: time.Date(2026, 11, 25, 1, 2, 3, 456789000, time.UTC),
		},
		Domain: domain, Destination: "topic", Reason: reason, Detail: "found this",
	}
}

func park(t *testing.T, lot *parked.Lot, events ...parked.Event) {
	t.Helper()
	if err := lot.Park(t.Context(), events); err != nil {
		t.Fatal(err)
	}
}

func marked(t *testing.T, lot *parked.Lot) parked.Marks {
	t.Helper()
	m, err := lot.Marked(t.Context(), cdc.Position{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func positions(events []parked.Event) []cdc.Position {
	var all []cdc.Position
	for i := range events {
		all = append(all, events[i].Position)
	}
	return all
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v\nwant %v", what, got, want)
	}
}

func expectCode(t *testing.T, err error, code cdc.Code, words ...string) {
	t.Helper()
	var named *cdc.Error
	if !errors.As(err, &named) || named.Code != code {
		t.Fatalf("%v, want %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(named.Error()+named.Fix, w) {
			t.Errorf("%v, fix %s: does not say %q", named, named.Fix, w)
		}
	}
}

// TestRoundTrip: what is parked comes back byte for byte, whatever the bytes;
// NULL stays NULL and the empty text stays that.
func TestRoundTrip(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	strange := event(at(0x10, 0), "key\x00\xff", "too_large")
	strange.Payload, strange.Headers, strange.Type = []byte("\x00\xff\x01"), nil, []byte{}
	strange.PayloadKind = record.Binary
	strange.Time = time.Date(2026, 11, 24, 1, 2, 3, 4000, time.UTC)
	strange.Destination, strange.Detail = "a\x00b", "bad \xff "+strings.Repeat("x", 2000)
	unkeyed := event(at(0x10, 1), "", "missing_key")
	unkeyed.AggregateID, unkeyed.Domain, unkeyed.Payload = nil, parked.Domain{}, nil
	raw := parked.Event{Raw: true, Reason: "bad_record", Event: record.Event{PayloadKind: record.Binary}}
	raw.Position, raw.CommitTime, raw.Payload = at(0x20, 0), strange.CommitTime, []byte(`{"events":[`)
	park(t, lot, strange, unkeyed, raw)
	y.exec("UPDATE outboxd.parked SET state = 'retry'")

	got := marked(t, lot).Retries
	if len(got) != 3 {
		t.Fatalf("%d events", len(got))
	}
	strange.Destination = "a\uFFFDb" // a text for people
	for i, want := range []parked.Event{strange, unkeyed, raw} {
		want.Detail = "" // not needed to publish
		got[i].CommitTime, got[i].Time = got[i].CommitTime.UTC(), got[i].Time.UTC()
		expect(t, "event", got[i], want)
	}
}

// TestEncodings: what is known of an event for people is text, and its characters
// need not be those of the database.
func TestEncodings(t *testing.T) {
	const text = "type \u65e5\u672c \U0001f600 \xff"
	for _, encoding := range []string{"UTF8", "EUC_JP"} {
		t.Run(encoding, func(t *testing.T) {
			y := newYardIn(t, encoding)
			lot, _ := y.open()
			e := event(at(0x10, 0), "\u65e5", "too_large")
			e.Destination, e.Detail = text, strings.Repeat(text, 100)
			park(t, lot, e)
			y.exec("UPDATE outboxd.parked SET state = 'retry'")
			got := marked(t, lot).Retries[0]
			want := `type \u65e5\u672c \U0001f600 \ufffd`
			if encoding == "UTF8" {
				want = "type \u65e5\u672c \U0001f600 \uFFFD"
			}
			expect(t, "destination", got.Destination, want)
			expect(t, "aggregate id", string(got.AggregateID), "\u65e5")
			if _, err := lot.Settle(t.Context(), nil, []parked.Refusal{{Position: e.Position, Reason: "too_large", Detail: text}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOpen tells what is there, and which of it may come again.
func TestOpen(t *testing.T) {
	y := newYard(t)
	lot, contents := y.open()
	expect(t, "empty", [2]int{contents.Events, len(contents.Domains)}, [2]int{})
	old := event(at(0xff0, 0), "a", "too_large")
	earlier := event(cdc.Position{Epoch: 1, Commit: 0x9000}, "a", parked.Behind)
	inside, outside := event(at(0x2000, 1), "b", "too_large"), event(at(0x2000, 2), "b", parked.Behind)
	unkeyed := event(at(0x3000, 0), "", "missing_key")
	unkeyed.Domain = parked.Domain{}
	park(t, lot, old, earlier, inside, outside, unkeyed)
	y.exec("UPDATE outboxd.parked SET system_id = 'another' WHERE position LIKE '0001.%'")
	y.exec("UPDATE outboxd.witness SET acked_commit = '0/2000', acked_events = 2")
	y.exec("UPDATE outboxd.parked SET state = 'retry', marked_at = '2026-11-25T10:00:01Z' WHERE aggregateid = 'a'")
	y.exec("UPDATE outboxd.parked SET marked_at = '2026-11-25T10:00:02Z' WHERE aggregateid = 'b'")
	y.exec("INSERT INTO outboxd.parked SELECT 'other', position, domain, destination, id, aggregatetype, aggregateid, type, payload, headers, payload_kind, created_at, commit_time, size, reason FROM outboxd.parked")
	_, contents = y.open()
	contents.MarkedAt = contents.MarkedAt.UTC()
	bytes := int64(old.Size() + earlier.Size() + inside.Size() + outside.Size() + unkeyed.Size())
	expect(t, "contents", *contents, parked.Contents{
		Events: 5, Bytes: bytes,
		Domains:  map[parked.Domain]cdc.Position{old.Domain: earlier.Position, inside.Domain: inside.Position},
		Repeated: map[cdc.Position]string{outside.Position: string(outside.ID), unkeyed.Position: string(unkeyed.ID)},
		MarkedAt: time.Date(2026, 11, 25, 10, 0, 1, 0, time.UTC),
	})
}

// TestRowsFollowFailover: what the server may send again in the next epoch has
// its position there. What is published before that keeps its own, and so does
// what is of another cluster.
func TestRowsFollowFailover(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	published, open, behind := event(at(0xff0, 0), "a", "too_large"), event(at(0x1000, 1), "b", "too_large"), event(at(0x2000, 0), "b", parked.Behind)
	foreign, twice, gone := event(at(0x3000, 0), "c", "too_large"), event(at(0x4000, 0), "d", "too_large"), event(at(0x5000, 0), "e", "too_large")
	park(t, lot, published, open, behind, foreign, twice, gone)
	y.exec("UPDATE outboxd.parked SET system_id = 'another' WHERE aggregateid = 'c'")
	y.exec("UPDATE outboxd.parked SET state = 'discarded' WHERE aggregateid = 'e'")
	y.exec("UPDATE outboxd.witness SET epoch = 3, timeline = 2")
	again := twice
	again.Position.Epoch = 3
	park(t, lot, again)

	_, contents := y.open()
	open.Position.Epoch, behind.Position.Epoch = 3, 3
	expect(t, "domains", contents.Domains, map[parked.Domain]cdc.Position{
		published.Domain: published.Position, open.Domain: open.Position, foreign.Domain: foreign.Position, twice.Domain: twice.Position})
	expect(t, "repeated", contents.Repeated, map[cdc.Position]string{
		open.Position: string(open.ID), behind.Position: string(behind.ID), again.Position: string(again.ID)})
	_, contents = y.open()
	expect(t, "known the second time", len(contents.Repeated), 3)
}

// TestOnlyTheHolderWrites: a relay that lost the slot changes nothing.
func TestOnlyTheHolderWrites(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	park(t, lot, event(at(0x10, 0), "a", "too_large"), event(at(0x20, 0), "b", "too_large"), event(at(0x30, 0), "c", "too_large"))
	y.exec("UPDATE outboxd.parked SET state = CASE WHEN aggregateid = 'a' THEN 'discard' ELSE 'retry' END")
	y.exec("UPDATE outboxd.witness SET holder = 'another'")
	expectCode(t, lot.Park(t.Context(), []parked.Event{event(at(0x40, 0), "d", "too_large")}), cdc.CodeLostLead)
	_, err := lot.Marked(t.Context(), cdc.Position{}, nil)
	expectCode(t, err, cdc.CodeLostLead)
	_, err = lot.Settle(t.Context(), []cdc.Position{at(0x20, 0)}, nil)
	expectCode(t, err, cdc.CodeLostLead)
	_, err = lot.Settle(t.Context(), nil, []parked.Refusal{{Position: at(0x30, 0), Reason: "too_large"}})
	expectCode(t, err, cdc.CodeLostLead)
	_, _, err = y.store.Open(t.Context())
	expectCode(t, err, cdc.CodeLostLead)
	expect(t, "rows", y.states(), "discard retry retry")
}

// TestClaimWaitsForWrite: who takes over cannot sign the witness while a write
// is under way, so that it then sees the row.
func TestClaimWaitsForWrite(t *testing.T) {
	y := newYard(t)
	for range 20 { // the write gives up after a second in which we were slow
		if y.claimMeetsWrite() {
			return
		}
	}
	t.Fatal("the write never lasted long enough")
}

func (y *yard) claimMeetsWrite() bool {
	ctx := y.t.Context()
	lot, _ := y.open()
	// Somebody holds the position, so that the write cannot end.
	blocker, err := y.dial().Begin(ctx)
	if err == nil {
		_, err = blocker.Exec(ctx, "INSERT INTO outboxd.parked (pipeline, position, payload_kind, commit_time, size, reason) VALUES ('p', $1, 'json', now(), 1, 'x')", at(0x10, 0).String())
	}
	if err != nil {
		y.t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- lot.Park(ctx, []parked.Event{event(at(0x10, 0), "a", "too_large")}) }()
	waits := false
	for !waits && len(written) == 0 {
		err := y.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')").Scan(&waits)
		if err != nil {
			y.t.Fatal(err)
		}
	}
	y.exec("SET lock_timeout = '50ms'")
	_, claim := y.Exec(ctx, "UPDATE outboxd.witness SET holder = 'successor'")
	blocker.Rollback(ctx)
	if err := <-written; err != nil {
		y.exec("UPDATE outboxd.witness SET holder = 'us'")
		return false
	}
	if claim == nil {
		y.t.Error("the witness was signed while a write was under way: its row is missing in what the successor reads")
	}
	y.exec("SET lock_timeout = 0")
	y.exec("UPDATE outboxd.witness SET holder = 'successor'")
	expect(y.t, "rows", y.states(), "parked")
	return true
}

// TestMarksWaitForTheWitness: what the server may send again is not taken out.
func TestMarksWaitForTheWitness(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	unkeyed := event(at(0x1000, 2), "", "missing_key")
	unkeyed.Domain = parked.Domain{}
	park(t, lot, event(at(0x1000, 0), "a", "too_large"), event(at(0x1000, 1), "b", parked.Behind), unkeyed)
	y.exec("UPDATE outboxd.parked SET state = CASE WHEN aggregateid = 'a' THEN 'discard' ELSE 'retry' END")
	m := marked(t, lot)
	expect(t, "marks before", [2]int{m.Discarded.Events, len(m.Retries)}, [2]int{})
	expect(t, "rows", y.states(), "discard retry retry")
	y.exec("UPDATE outboxd.witness SET acked_commit = '0/1000', acked_events = 1")
	m = marked(t, lot)
	expect(t, "marks with the first event", [2]int{m.Discarded.Events, len(m.Retries)}, [2]int{1, 0})
	m, err := lot.Marked(t.Context(), at(0x1000, 2), nil)
	expect(t, "marks that the session is past", [2]any{len(m.Retries), err}, [2]any{1, nil})
	y.publishedTo(0x1001)
	m = marked(t, lot)
	expect(t, "marks after", [2]int{m.Discarded.Events, len(m.Retries)}, [2]int{0, 2})
}

// TestMarksWaitForOneBefore: what is only behind may go before the witness is
// past it, but not before an event of its domain that must wait for that.
func TestMarksWaitForOneBefore(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	park(t, lot, event(at(0x1000, 0), "a", "too_large"), event(at(0x1000, 1), "a", parked.Behind), event(at(0x1000, 2), "b", parked.Behind))
	y.exec("UPDATE outboxd.parked SET state = 'retry'")
	m, err := lot.Marked(t.Context(), at(0x1000, 2), nil)
	expect(t, "marks before", [2]any{positions(m.Retries), err}, [2]any{[]cdc.Position{at(0x1000, 2)}, nil})
	y.publishedTo(0x1001)
	m, err = lot.Marked(t.Context(), at(0x1000, 2), nil)
	expect(t, "marks after", [2]any{len(m.Retries), err}, [2]any{3, nil})
}

// TestRetriesInOrder: nothing overtakes an earlier event of its domain that
// stays; the unkeyed wait for nobody.
func TestRetriesInOrder(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	unkeyed := event(at(0x50, 0), "", "missing_key")
	unkeyed.Domain = parked.Domain{}
	also := unkeyed
	also.Position = at(0x40, 0)
	park(t, lot, event(at(0x10, 0), "a", "too_large"), event(at(0x20, 0), "b", "too_large"), event(at(0x30, 0), "a", parked.Behind), also, unkeyed,
		event(at(0x60, 0), "b", parked.Behind))
	y.exec("UPDATE outboxd.parked SET state = 'retry' WHERE position <> ALL ($1::text[])", []string{at(0x10, 0).String(), at(0x40, 0).String()})
	expect(t, "retries", positions(marked(t, lot).Retries), []cdc.Position{at(0x20, 0), at(0x50, 0), at(0x60, 0)})
	y.exec("UPDATE outboxd.parked SET state = 'retry'")
	expect(t, "retries", len(marked(t, lot).Retries), 6)

	change, err := lot.Settle(t.Context(), []cdc.Position{at(0x10, 0), at(0x20, 0), at(0x60, 0)}, []parked.Refusal{{Position: at(0x30, 0), Reason: "bad_topic", Detail: "again"}})
	if err != nil {
		t.Fatal(err)
	}
	b := event(at(0x20, 0), "b", "").Domain
	expect(t, "change", [2]any{change.Events, change.Freed}, [2]any{3, []parked.Domain{b}})
	// The other event of key a has a reason of its own by now.
	expect(t, "rows", y.states(), "parked retry retry")
	row, err := y.desk().Show(t.Context(), at(0x30, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "refused", fmt.Sprint(row.State, " ", row.Attempts, " ", row.Reason, " ", row.Detail), "parked 1 bad_topic again")
}

// TestRetriesForOthersFirst: what is put aside leaves the places to others, and
// what is behind it waits with it.
func TestRetriesForOthersFirst(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	elsewhere := func(e parked.Event, destination string) parked.Event {
		e.Destination = destination
		return e
	}
	for i := range 600 {
		park(t, lot, event(at(0x10, uint32(i)), fmt.Sprint("held ", i), "too_large"))
	}
	park(t, lot, elsewhere(event(at(0x20, 0), "held 0", parked.Behind), "routed elsewhere"),
		elsewhere(event(at(0x30, 0), "a", "too_large"), ""), elsewhere(event(at(0x40, 0), "b", "too_large"), ""),
		elsewhere(event(at(0x50, 0), "c", "too_large"), "other"))
	y.exec("UPDATE outboxd.parked SET state = 'retry'")
	m, err := lot.Marked(t.Context(), cdc.Position{}, []string{"topic", at(0x30, 0).String()})
	expect(t, "retries", [2]any{positions(m.Retries), err}, [2]any{[]cdc.Position{at(0x40, 0), at(0x50, 0)}, nil})
	expect(t, "held", [2]int{len(marked(t, lot).Retries), 0}, [2]int{500, 0})
}

// TestRetriesAreBounded in number and bytes; a large one passes alone.
func TestRetriesAreBounded(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	var events []parked.Event
	for i := range 600 {
		events = append(events, event(at(0x10, uint32(i)), "a", parked.Behind))
	}
	for i, size := range []int{5 << 20, 3 << 20, 3 << 20} {
		e := event(at(0x9, uint32(i)), "big", "too_large")
		e.Payload = bytes.Repeat([]byte("x"), size)
		events = append(events, e)
	}
	park(t, lot, events...)
	y.exec("UPDATE outboxd.parked SET state = 'retry'")
	for _, want := range []int{1, 2, 500, 100, 0} {
		m := marked(t, lot)
		if len(m.Retries) != want && want < 400 || len(m.Retries) > 500 {
			t.Errorf("%d at once, want %d", len(m.Retries), want)
		}
		expect(t, "more", m.More, len(m.Retries) > 0)
		if len(m.Retries) == 0 {
			break
		}
		if _, err := lot.Settle(t.Context(), positions(m.Retries), nil); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "rows", y.states(), "")
}

// TestDiscard leaves the row without what the event held.
func TestDiscard(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	first, second := event(at(0x10, 0), "a", "too_large"), event(at(0x20, 0), "a", parked.Behind)
	park(t, lot, first, second)
	desk := y.desk()
	for i, id := range []string{string(first.ID), string(second.ID)} {
		if _, err := desk.Mark(t.Context(), parked.Selection{IDs: []string{id}}, parked.Discard, "a test order"); err != nil {
			t.Fatal(err)
		}
		c := marked(t, lot).Discarded
		expect(t, "discarded", [3]any{c.Events, c.Bytes, len(c.Freed)}, [3]any{1, int64(first.Size() + i*(second.Size()-first.Size())), i})
	}
	row, err := desk.Show(t.Context(), string(first.ID))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "audit", [3]any{row.State, row.Note, len(row.Payload)}, [3]any{parked.Discarded, "a test order", 0})
	if !strings.HasPrefix(row.MarkedBy, "postgres") || time.Since(row.MarkedAt) > time.Hour {
		t.Errorf("marked by %q at %s", row.MarkedBy, row.MarkedAt)
	}
	_, contents := y.open()
	expect(t, "contents", [3]int{contents.Events, len(contents.Domains), len(contents.Repeated)}, [3]int{})
}

// TestDiscardedComesAgain: under another configuration a transaction that was
// acked in part is published whole. What was discarded of it is known still.
func TestDiscardedComesAgain(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	e := event(at(0x1000, 0), "a", "too_large")
	park(t, lot, e)
	y.exec("UPDATE outboxd.witness SET acked_commit = '0/1000', acked_events = 1")
	if _, err := y.desk().Mark(t.Context(), parked.Selection{All: true}, parked.Discard, "a test order"); err != nil {
		t.Fatal(err)
	}
	expect(t, "discarded", marked(t, lot).Discarded.Events, 1)
	y.exec("UPDATE outboxd.witness SET acked_commit = '0/0', acked_events = 0")
	_, contents := y.open()
	expect(t, "contents", *contents, parked.Contents{Domains: map[parked.Domain]cdc.Position{}, Repeated: map[cdc.Position]string{e.Position: string(e.ID)}})
}

// TestDiscardsAreForgotten: the record of what was discarded is bounded, and
// keeps what was marked last.
func TestDiscardsAreForgotten(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	y.exec(`INSERT INTO outboxd.parked (pipeline, position, payload_kind, commit_time, size, reason, state, marked_at)
		SELECT p, 'old ' || n, 'json', now(), 1, 'too_large', 'discarded', now() - n * interval '1 s' FROM generate_series(1, 100000) n, unnest('{p,other}'::text[]) p`)
	park(t, lot, event(at(0x10, 0), "a", "too_large"), event(at(0x10, 1), "b", "too_large"))
	if _, err := y.desk().Mark(t.Context(), parked.Selection{All: true}, parked.Discard, "enough"); err != nil {
		t.Fatal(err)
	}
	expect(t, "discarded", marked(t, lot).Discarded.Events, 2)
	var rows, other, oldest int
	err := y.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE pipeline = 'p'), count(*) FILTER (WHERE pipeline = 'other'),
		max(substr(position, 5)::int) FILTER (WHERE pipeline = 'p' AND position LIKE 'old %') FROM outboxd.parked`).Scan(&rows, &other, &oldest)
	expect(t, "kept", []any{rows, other, oldest, err}, []any{100_000, 100_000, 99_998, nil})
}

// TestPositionTaken: a row that is not the event is no reason to ack it.
func TestPositionTaken(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	park(t, lot, event(at(0x10, 0), "a", "too_large"))
	expectCode(t, lot.Park(t.Context(), []parked.Event{event(at(0x10, 0), "b", "too_large")}), cdc.CodeUnreachable, "1 of 1 positions are taken")
}

// TestNotMigrated names what is missing.
func TestNotMigrated(t *testing.T) {
	y := newYard(t)
	for _, sql := range []string{"ALTER TABLE outboxd.parked DROP COLUMN system_id", "DROP TABLE outboxd.parked"} {
		y.exec(sql)
		_, _, err := y.store.Open(t.Context())
		expectCode(t, err, cdc.CodeNotSetUp, "older than this program", "outboxd setup")
	}
}

// TestInherit: what is only behind a released event follows it, up to the next
// that has a reason of its own.
func TestInherit(t *testing.T) {
	y := newYard(t)
	lot, _ := y.open()
	park(t, lot, event(at(0x10, 0), "a", "too_large"), event(at(0x20, 0), "a", parked.Behind), event(at(0x30, 0), "b", "too_large"))
	if _, err := y.desk().Mark(t.Context(), parked.Selection{IDs: []string{at(0x10, 0).String()}}, parked.Retry, ""); err != nil {
		t.Fatal(err)
	}
	// Behind e20, which has no mark.
	park(t, lot, event(at(0x40, 0), "a", parked.Behind), event(at(0x50, 0), "a", "bad_topic"), event(at(0x60, 0), "a", parked.Behind), event(at(0x70, 0), "b", parked.Behind))
	expect(t, "rows", y.states(), "retry parked parked parked parked parked parked")
	if _, err := lot.Settle(t.Context(), []cdc.Position{at(0x10, 0)}, nil); err != nil {
		t.Fatal(err)
	}
	expect(t, "rows", y.states(), "retry parked retry parked parked parked")
	y.exec("UPDATE outboxd.parked SET state = 'retry'")
	park(t, lot, event(at(0x80, 0), "a", parked.Behind), event(at(0x90, 0), "a", "too_large"))
	expect(t, "rows", y.states(), "retry retry retry retry retry retry retry parked")
	y.exec("UPDATE outboxd.parked SET state = 'discard'")
	park(t, lot, event(at(0xa0, 0), "a", parked.Behind))
	expect(t, "rows", y.states(), "discard discard discard discard discard discard discard discard parked")
}

// TestManyOfOneKey: the key of a busy writer is released, however much of it is
// parked: settling does not look through all of it for each event.
func TestManyOfOneKey(t *testing.T) {
	const n = 50_000
	y := newYard(t)
	lot, _ := y.open()
	park(t, lot, event(at(0x10, 0), "a", "too_large"))
	y.exec(`INSERT INTO outboxd.parked (pipeline, position, domain, payload, payload_kind, commit_time, size, reason, behind)
		SELECT 'p', '0002.' || lpad(to_hex(16 + i), 16, '0') || '.00000000', domain, 'x', 'json', now(), 100, 'behind', true
		FROM outboxd.parked, generate_series(1, $1) i`, n)
	y.publishedTo(1 << 40)
	desk := y.desk()
	if _, err := desk.Mark(t.Context(), parked.Selection{IDs: []string{at(0x10, 0).String()}}, parked.Retry, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := lot.Settle(t.Context(), positions(marked(t, lot).Retries), nil); err != nil {
		t.Fatal(err)
	}
	next := marked(t, lot).Retries
	expect(t, "retries", [2]any{len(next), next[0].Position}, [2]any{500, at(0x11, 0)})
}

// TestManyKeys: what is known of 100,000 parked keys takes less than 64 MB, also
// if all of them may come again.
func TestManyKeys(t *testing.T) {
	y := newYard(t)
	y.exec(`INSERT INTO outboxd.parked (pipeline, position, domain, id, payload_kind, commit_time, size, reason)
		SELECT 'p', '0002.' || lpad(to_hex(65536 + i), 16, '0') || '.00000000', sha256(int4send(i)), convert_to(gen_random_uuid()::text, 'UTF8'), 'json', now(), 100, 'too_large'
		FROM generate_series(1, 100000) i`)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what was pooled goes with the second
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	_, contents := y.open()
	took := heap() - before
	expect(t, "contents", [3]int{contents.Events, len(contents.Domains), len(contents.Repeated)}, [3]int{100000, 100000, 100000})
	runtime.KeepAlive(contents)
	t.Logf("%d KB", took>>10)
	if took < 100_000 || took > 64<<20 {
		t.Errorf("%d KB", took>>10)
	}
}

// TestOneLockOrder: whoever changes many rows locks them in the order of their
// positions, and not as it finds them. Else a statement that marks everything
// and one of the leader's may each have a row that the other waits for.
func TestOneLockOrder(t *testing.T) {
	first, second := at(0x10, 0), at(0x20, 0)
	for name, tt := range map[string]struct {
		state  parked.State
		change func(*parked.Lot, *parked.Desk) error
	}{
		"mark": {parked.Waiting, func(_ *parked.Lot, desk *parked.Desk) error {
			_, err := desk.Mark(t.Context(), parked.Selection{All: true}, parked.Retry, "")
			return err
		}},
		"discard": {parked.Discard, func(lot *parked.Lot, _ *parked.Desk) error {
			_, err := lot.Marked(t.Context(), cdc.Position{}, nil)
			return err
		}},
		"publish": {parked.Retry, func(lot *parked.Lot, _ *parked.Desk) error {
			_, err := lot.Settle(t.Context(), []cdc.Position{second, first}, nil)
			return err
		}},
		"publish and inherit": {parked.Waiting, func(lot *parked.Lot, _ *parked.Desk) error {
			_, err := lot.Settle(t.Context(), []cdc.Position{second}, nil)
			return err
		}},
		"refuse": {parked.Retry, func(lot *parked.Lot, _ *parked.Desk) error {
			_, err := lot.Settle(t.Context(), nil, []parked.Refusal{{Position: second}, {Position: first}})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t)
			// Without an index rows are found as they lie.
			y.exec("ALTER TABLE outboxd.parked DROP CONSTRAINT parked_pkey")
			y.exec("DROP INDEX outboxd.parked_domain, outboxd.parked_marked")
			lot, _ := y.open()
			park(t, lot, event(second, "a", parked.Behind))
			park(t, lot, event(first, "a", parked.Behind))
			y.exec("UPDATE outboxd.parked SET state = $1 WHERE position = $2", string(tt.state), second.String())
			y.exec("UPDATE outboxd.parked SET state = $1 WHERE position = $2", string(tt.state), first.String())
			desk := y.desk()
			y.whileLocked(first, func() error { return tt.change(lot, desk) }, func() {
				var free int
				err := y.QueryRow(t.Context(), "SELECT count(*) FROM (SELECT FROM outboxd.parked WHERE position = $1 FOR UPDATE SKIP LOCKED) second", second.String()).Scan(&free)
				expect(t, "second row free", [2]any{free, err}, [2]any{1, nil})
			})
		})
	}
}

// TestWitnessMovesMeanwhile: the row of the witness, which each write shares a
// lock on, is written once a second. That is no reason to fail, also where the
// database's transactions are repeatable reads by default.
func TestWitnessMovesMeanwhile(t *testing.T) {
	y := newYard(t)
	y.exec("ALTER DATABASE " + pgx.Identifier{y.Config().Database}.Sanitize() + " SET default_transaction_isolation = 'repeatable read'")
	lot, _ := y.open()
	keeper, err := y.dial().Begin(t.Context())
	if err == nil {
		_, err = keeper.Exec(t.Context(), "UPDATE outboxd.witness SET acked_lsn = '0/2000'")
	}
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- lot.Park(t.Context(), []parked.Event{event(at(0x10, 0), "a", "too_large")}) }()
	y.awaitLock(written)
	if err := errors.Join(keeper.Commit(t.Context()), <-written); err != nil {
		t.Error(err)
	}
	expect(t, "rows", y.states(), "parked")
}

// TestLeaderIsPatient: marking all of a full lot takes seconds, and so may a
// commit of the witness that waits for a standby. The leader waits for the row,
// longer than the connection's lock_timeout: what it has published it would
// otherwise publish again.
func TestLeaderIsPatient(t *testing.T) {
	y := newYard(t)
	published, refused, discarded, another := event(at(0x10, 0), "a", "too_large"), event(at(0x20, 0), "b", "too_large"), event(at(0x30, 0), "c", "too_large"), event(at(0x40, 0), "d", "too_large")
	first, _ := y.open()
	park(t, first, published, refused, discarded)
	y.exec("UPDATE outboxd.parked SET state = CASE WHEN aggregateid = 'c' THEN 'discard' ELSE 'retry' END")
	var writes []func() error
	for _, write := range []func(*parked.Lot) error{
		func(lot *parked.Lot) error { return lot.Park(t.Context(), []parked.Event{another}) },
		func(lot *parked.Lot) error {
			_, err := lot.Marked(t.Context(), cdc.Position{}, nil)
			return err
		},
		func(lot *parked.Lot) error {
			_, err := lot.Settle(t.Context(), []cdc.Position{published.Position}, nil)
			return err
		},
		func(lot *parked.Lot) error {
			_, err := lot.Settle(t.Context(), nil, []parked.Refusal{{Position: refused.Position, Reason: "too_large"}})
			return err
		},
	} {
		lot, _ := y.open()
		writes = append(writes, func() error { return write(lot) })
	}
	writes = append(writes, func() error {
		lot, _, err := y.store.Open(t.Context())
		if err == nil {
			lot.Close()
		}
		return err
	})
	holder, err := y.dial().Begin(t.Context())
	if err == nil {
		_, err = holder.Exec(t.Context(), "SELECT FROM outboxd.witness FOR UPDATE")
	}
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, len(writes))
	for _, write := range writes {
		go func() { written <- write() }()
	}
	select {
	case err := <-written:
		t.Fatalf("the row was not waited for: %v", err)
	case <-time.After(1500 * time.Millisecond):
	}
	_ = holder.Rollback(t.Context())
	for range writes {
		if err := <-written; err != nil {
			t.Error(err)
		}
	}
	expect(t, "rows", y.states(), "parked discarded parked")
}

// whileLocked holds the row at p, and looks when change waits for it.
func (y *yard) whileLocked(p cdc.Position, change func() error, look func()) {
	y.t.Helper()
	ctx := y.t.Context()
	holder, err := y.dial().Begin(ctx)
	if err == nil {
		_, err = holder.Exec(ctx, "SELECT FROM outboxd.parked WHERE position = $1 FOR UPDATE", p.String())
	}
	if err != nil {
		y.t.Fatal(err)
	}
	changed := make(chan error, 1)
	go func() { changed <- change() }()
	y.awaitLock(changed)
	look()
	_ = holder.Rollback(ctx)
	if err := <-changed; err != nil {
		y.t.Error(err)
	}
}

// awaitLock returns when somebody waits for a lock. It is an error if what should
// wait ends before.
func (y *yard) awaitLock(ended <-chan error) {
	y.t.Helper()
	for waits := false; !waits; {
		if len(ended) > 0 {
			y.t.Fatalf("no lock was waited for: %v", <-ended)
		}
		err := y.QueryRow(y.t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')").Scan(&waits)
		if err != nil {
			y.t.Fatal(err)
		}
	}
}
