package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxd/outboxd/outbox"
)

// recorder is a transaction that only records what it is told to execute.
type recorder struct {
	pgx.Tx
	queries []string
	args    [][]any
}

func (r *recorder) Exec(_ context.Context, query string, args ...any) (pgconn.CommandTag, error) {
	r.queries = append(r.queries, query)
	r.args = append(r.args, args)
	return pgconn.CommandTag{}, nil
}

// problemsOf returns the problems that Write, or Emit, has with events, as
// "index field reason".
func problemsOf(t *testing.T, table outbox.Table, emit bool, events ...outbox.Event) []string {
	t.Helper()
	tx := &recorder{}
	f := table.Write
	if emit {
		f = table.Emit
	}
	ids, err := f(t.Context(), tx, events...)
	if err == nil {
		return nil
	}
	var invalid *outbox.ValidationError
	if !errors.As(err, &invalid) {
		t.Fatalf("error %v is no ValidationError", err)
	}
	if ids != nil || len(tx.queries) > 0 {
		t.Errorf("refused events got ids %v and queries %v", ids, tx.queries)
	}
	var all []string
	for _, p := range invalid.Problems {
		all = append(all, fmt.Sprintf("%d %s %s", p.Index, p.Field, p.Reason))
	}
	return all
}

func withHeader(name, value string) outbox.Event {
	e := order(1)
	e.Headers = map[string]string{name: value}
	return e
}

func TestValidationOfNames(t *testing.T) {
	long := strings.Repeat("x", outbox.MaxName)
	for field, set := range map[string]func(*outbox.Event, string){
		"AggregateType": func(e *outbox.Event, s string) { e.AggregateType = s },
		"AggregateID":   func(e *outbox.Event, s string) { e.AggregateID = s },
		"Type":          func(e *outbox.Event, s string) { e.Type = s },
	} {
		for value, want := range map[string]string{
			long:       "",
			"":         "is empty",
			long + "x": "has 256 bytes, the limit is 255",
			"a\x00b":   "holds a NUL byte",
			"a\xffb":   "is not valid UTF-8",
		} {
			e := order(1)
			set(&e, value)
			checkProblem(t, fmt.Sprintf("%s %q", field, value), problemsOf(t, outbox.Table{}, false, e), field, want)
			checkProblem(t, fmt.Sprintf("emit %s %q", field, value), problemsOf(t, outbox.Table{}, true, e), field, want)
		}
	}
}

// checkProblem checks that the one problem of event 0 is field and reason, or
// that there is none if reason is empty.
func checkProblem(t *testing.T, what string, got []string, field, reason string) {
	t.Helper()
	switch {
	case reason == "" && len(got) == 0:
	case reason != "" && len(got) == 1 && strings.HasPrefix(got[0], "0 "+field+" ") && strings.Contains(got[0], reason):
	default:
		t.Errorf("%s: problems %q, want %q of %s", what, got, reason, field)
	}
}

func TestValidationOfHeaders(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"tenant", "any\r\nvalue 😀", ""},
		{"content-type", "application/avro", ""},
		{"ce", "", ""},
		{"x-ce_id", "", ""},
		{"", "v", "empty name"},
		{"a\r\nb", "v", `name "a\r\nb" holds a control character`},
		{"a\x00", "v", "control character"},
		{"a\x7f", "v", "control character"},
		{"a\xff", "v", "not valid UTF-8"},
		{"ce_id", "v", `name "ce_id" has a prefix reserved`},
		{"CE_ID", "v", "reserved"},
		{"cloudEvents_id", "v", "reserved"},
		{"cloudEvents:id", "v", "reserved"},
		{"Outboxd-Replayed", "v", "reserved"},
		{"a", "x\x00", `value of "a" holds a NUL byte`},
		{"a", "x\xff", `value of "a" is not valid UTF-8`},
	} {
		for _, emit := range []bool{false, true} {
			got := problemsOf(t, outbox.Table{}, emit, withHeader(test.name, test.value))
			checkProblem(t, fmt.Sprintf("header %q=%q", test.name, test.value), got, "Headers", test.want)
		}
	}
}

func TestValidationOfHeadersWithoutColumn(t *testing.T) {
	table := outbox.Table{Columns: outbox.Columns{Headers: outbox.NoColumn}}
	checkProblem(t, "write", problemsOf(t, table, false, withHeader("a", "b")), "Headers", "have no column")
	checkProblem(t, "emit", problemsOf(t, table, true, withHeader("a", "b")), "", "")
}

type unmarshallable struct{}

func (unmarshallable) MarshalJSON() ([]byte, error) { return nil, errors.New("no such %d currency") }

func TestValidationOfPayloads(t *testing.T) {
	const (
		all  = "json jsonb text bytea emit"
		text = "json jsonb text"
	)
	for _, test := range []struct {
		payload any
		where   string // the columns that refuse it
		want    string
	}{
		{nil, "", ""},
		{(*int)(nil), "", ""},
		{[]byte(`{"a":[1,2.5e3,null]}`), "", ""},
		{math.Inf(1), all, "cannot be marshalled"},
		{unmarshallable{}, all, "no such %d currency"},
		{make(chan int), all, "cannot be marshalled"},
		{[]byte{}, "json jsonb", "not JSON"},
		{[]byte(`{"a":1,}`), "json jsonb", "at byte 8"},
		{[]byte("{}{}"), "json jsonb", "not JSON"},
		{[]byte("\"\xff\""), text, "not valid UTF-8"},
		{"\x00", "jsonb", `\u0000 at byte 1`},
		{[]byte(`["\\u0000", "\\\u0000"]`), "jsonb", `\u0000 at byte 15`},
		{[]byte(`"\\u0000\\\\u0000"`), "", ""},
		{[]byte(`"\ud83d\ude00\u0001\n"`), "", ""},
		{[]byte(`"\uD83D\uDE00\uD83Dx"`), "jsonb", `\uD83D (half of a surrogate pair) at byte 13`},
		{[]byte(`"\ude00\ud83d"`), "jsonb", "half of a surrogate pair"},
		{[]byte(`"\ud83d\ud83d"`), "jsonb", "half of a surrogate pair"},
		{[]byte(`"\ud83d"`), "jsonb", "half of a surrogate pair"},
		{[]byte(`"` + strings.Repeat("x", outbox.DefaultMaxPayload-2) + `"`), "", ""},
		{[]byte(`"` + strings.Repeat("x", outbox.DefaultMaxPayload-1) + `"`), all, "has 1048577 bytes, the limit is 1048576"},
	} {
		for _, where := range strings.Fields(all) {
			table := outbox.Table{Payload: outbox.PayloadType(where)}
			if where == "emit" {
				table.Payload = ""
			}
			want := ""
			if strings.Contains(" "+test.where+" ", " "+where+" ") {
				want = test.want
			}
			got := problemsOf(t, table, where == "emit", order(test.payload))
			checkProblem(t, fmt.Sprintf("%s: %.40q", where, test.payload), got, "Payload", want)
		}
	}
}

func TestValidationOfNULInText(t *testing.T) {
	got := problemsOf(t, outbox.Table{Payload: outbox.Text}, false, order([]byte("a\x00")))
	checkProblem(t, "text", got, "Payload", "holds a NUL byte")
}

func TestValidationAgreesWithTheServer(t *testing.T) {
	payloads := []string{
		`"\u0000"`, `"\\u0000"`, `"\\\u0000"`, `"\ud83d\ude00"`, `"\ude00\ud83d"`, `"\ud83d"`, `"\ud83dx"`, `"\ud83d\n"`, `"\ud83d\u0061"`,
		"\"\x01\"", "\"\x7f\"", "01", "-0", "1.", ".5", "1e5", "+1", "nul", "tru", "NaN", "'a'", `"a`, "[1,]", "{}", "[]", `{"a":1 "b":2}`, "// c\n1",
		"\ufeff1", "\u00a01", "\v1", " \t\r\n1", "", " ", `"\x41"`, `"\u12"`, "\"\t\"", strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	}
	for _, column := range []outbox.PayloadType{outbox.JSON, outbox.JSONB} {
		conn := connect(t)
		for _, payload := range payloads {
			_, err := conn.Exec(t.Context(), "SELECT $1::text::"+string(column), pgx.QueryExecModeExec, payload)
			problems := problemsOf(t, outbox.Table{Payload: column}, false, order([]byte(payload)))
			if (err == nil) != (len(problems) == 0) {
				t.Errorf("%s %.40q: the server says %v, we say %q", column, payload, err, problems)
			}
		}
	}
}

func TestValidationOfTheTable(t *testing.T) {
	for _, test := range []struct {
		table outbox.Table
		write string
		emit  string
	}{
		{outbox.Table{Name: "a.b"}, "", ""},
		{outbox.Table{Name: "a.b.c"}, "-1 Name", ""},
		{outbox.Table{Name: "a."}, "-1 Name", ""},
		{outbox.Table{Name: ".a"}, "-1 Name", ""},
		{outbox.Table{Payload: "xml"}, "-1 Payload", ""},
		{outbox.Table{MaxPayload: -1}, "-1 MaxPayload", "-1 MaxPayload"},
		{outbox.Table{Columns: outbox.Columns{Headers: "-"}, Propagate: func(context.Context, func(string, string)) {}}, "-1 Propagate", ""},
	} {
		for _, emit := range []bool{false, true} {
			want := test.write
			if emit {
				want = test.emit
			}
			got := problemsOf(t, test.table, emit, order(nil))
			if len(got) == 0 && want == "" || len(got) > 0 && want != "" && strings.HasPrefix(got[0], want+" ") {
				continue
			}
			t.Errorf("%+v (emit %v): problems %q, want %q", test.table, emit, got, want)
		}
	}
}

func TestValidationOfIDsGivenTwice(t *testing.T) {
	a, b := order(1), order(2)
	a.ID, b.ID = outbox.NewID(), outbox.NewID()
	got := problemsOf(t, outbox.Table{}, false, a, order(3), b, order(4), a)
	if len(got) != 1 || got[0] != "4 ID is also that of event 0" {
		t.Errorf("problems %q", got)
	}
}

func TestValidationErrorSaysAllAtOnce(t *testing.T) {
	bad := outbox.Event{Type: "order.placed", AggregateID: "\x00", Payload: math.NaN()}
	bad.ID, _ = outbox.ParseID("0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44")
	_, err := outbox.Table{MaxPayload: 10}.Write(t.Context(), &recorder{}, order(1), bad, outbox.Event{AggregateType: "a", AggregateID: "b"}, order("more than ten"))
	const which = `event 1 (type "order.placed", id 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44): `
	want := "outbox: nothing written: " + which + "AggregateType is empty; " + which + "AggregateID holds a NUL byte; " +
		which + "Payload cannot be marshalled: json: unsupported value: NaN; event 2: Type is empty; " +
		`event 3 (type "order.placed"): Payload has 15 bytes, the limit is 10 (Table.MaxPayload)`
	if err == nil || err.Error() != want {
		t.Errorf("error\n%v, want\n%s", err, want)
	}
}

func TestValidationErrorStaysShort(t *testing.T) {
	_, err := outbox.Write(t.Context(), &recorder{}, make([]outbox.Event, 100)...)
	if n := strings.Count(err.Error(), ";"); n != 10 || !strings.HasSuffix(err.Error(), "; and 290 more") {
		t.Errorf("error of 100 bad events has %d parts: %v", n+1, err)
	}
	_, err = outbox.Write(t.Context(), &recorder{}, outbox.Event{AggregateType: "a", AggregateID: "b", Type: strings.Repeat("x", 1000)})
	if len(err.Error()) > 250 {
		t.Errorf("error quotes a long name: %v", err)
	}
}

func TestRefusedEventsLeaveTheTransactionUsable(t *testing.T) {
	conn := connect(t, createOutbox)
	tx := begin(t, conn)
	if _, err := outbox.Write(t.Context(), tx, order(1), outbox.Event{}); err == nil {
		t.Fatal("an empty event was written")
	}
	if _, err := outbox.Write(t.Context(), tx, order(2)); err != nil {
		t.Fatal(err)
	}
	commit(t, tx)
	if rows := readAll(t, conn, selectOutbox); len(rows) != 1 || *rows[0].Payload != "2" {
		t.Errorf("rows %v, want event 2 alone", rows)
	}
}

func TestPropagatedHeaders(t *testing.T) {
	type traceKey struct{}
	calls := 0
	table := outbox.Table{Propagate: func(ctx context.Context, set func(name, value string)) {
		calls++
		if trace, ok := ctx.Value(traceKey{}).(string); ok {
			set("traceparent", trace)
			set("tracestate", "a=b")
		}
	}}
	conn := connect(t, createOutbox)
	tx := begin(t, conn)
	ctx := context.WithValue(t.Context(), traceKey{}, "00-aa-bb-01")
	own := withHeader("traceparent", "mine")
	if _, err := table.Write(ctx, tx, order(1), own); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Write(t.Context(), tx, withHeader("a", "b")); err != nil {
		t.Fatal(err)
	}
	commit(t, tx)
	want := []string{
		`{"tracestate": "a=b", "traceparent": "00-aa-bb-01"}`, `{"tracestate": "a=b", "traceparent": "mine"}`, `{"a": "b"}`,
	}
	for i, row := range readAll(t, conn, selectOutbox) {
		if text(row.Headers) != want[i] {
			t.Errorf("event %d: headers %s, want %s", i, text(row.Headers), want[i])
		}
	}
	if calls != 2 || len(own.Headers) != 1 {
		t.Errorf("propagator was called %d times for two calls, own headers are now %v", calls, own.Headers)
	}
}
