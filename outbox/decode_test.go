package outbox_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/outbox"
)

const (
	anID   = `"id":"0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44"`
	names  = anID + `,"aggregatetype":"order","aggregateid":"42","type":"order.placed"`
	plainE = `{` + names + `}`
)

func TestDecodeMessageForms(t *testing.T) {
	for _, test := range []struct {
		what, content string
		want          string // time, then the events as summary gives them
	}{
		{"all members", `{"v":1,"time":"2026-11-24T20:15:00.123456Z","events":[{` + names + `,"payload":{"a": 1},"headers":{"b":"1","a":"2"}}]}`,
			`2026-11-24T20:15:00.123456Z 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44/order/42/order.placed {"a": 1} b=1 a=2`},
		{"several events", `{"events":[` + plainE + `,` + plainE + `]}`, `- ` + summaryOfPlain + ` NULL;` + summaryOfPlain + ` NULL`},
		{"no events", `{"events":[]}`, `- `},
		{"one event without wrapper", `{"v":1,"time":"2026-11-24T21:15:00+01:00",` + names + `,"payload":1}`, `2026-11-24T20:15:00Z ` + summaryOfPlain + ` 1`},
		{"as spaced as SQL makes it", "\n { \"events\" : [ {" + strings.ReplaceAll(names, ":", " : ") + " , \"payload\" : \t[ 1 , {} ]\n} ] } ", `- ` + summaryOfPlain + ` [ 1 , {} ]`},
		{"null stands for absent", `{"v":null,"time":null,"events":null,` + names + `,"payload":null,"payload_base64":null,"headers":null}`, `- ` + summaryOfPlain + ` NULL`},
		{"null event list member", `{"events":[{` + names + `,"payload":"null"}],"id":null}`, `- ` + summaryOfPlain + ` "null"`},
		{"base64", `{` + names + `,"payload_base64":"AP8="}`, `- ` + summaryOfPlain + " \x00\xff"},
		{"base64 in lines", `{` + names + `,"payload_base64":"A\nP8\r\n="}`, `- ` + summaryOfPlain + " \x00\xff"},
		{"empty base64", `{` + names + `,"payload_base64":""}`, `- ` + summaryOfPlain + ` `},
		{"unkeyed", `{` + anID + `,"aggregatetype":"a","type":"b"}`, `- 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44/a//b unkeyed NULL`},
		{"null key", `{` + anID + `,"aggregatetype":"a","aggregateid":null,"type":"b"}`, `- 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44/a//b unkeyed NULL`},
		{"empty key", `{` + anID + `,"aggregatetype":"a","aggregateid":"","type":"b"}`, `- 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44/a//b NULL`},
		{"numeric key", `{` + anID + `,"aggregatetype":"a","aggregateid":9007199254740993,"type":"b"}`, `- 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44/a/9007199254740993/b NULL`},
		{"escapes", `{"i\u0064":"0190B6F2-4D3A-7C51-8E07-5A1F0C2B9D44","aggregatetype":"\"\\","aggregateid":"\ud83d\ude00","type":"]}"}`,
			`- 0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44/"\/😀/]} NULL`},
		{"headers of all kinds", `{` + names + `,"headers":{"s":"x","n":1.50,"t":true,"f":false,"z":null,"s":"again"}}`,
			`- ` + summaryOfPlain + ` NULL s=x n=1.50 t=true f=false s=again`},
		{"brackets in strings", `{` + names + `,"payload":["]","\"]","\\"],"headers":{"}":"{"}}`, `- ` + summaryOfPlain + ` ["]","\"]","\\"] }={`},
	} {
		m, err := outbox.DecodeMessage([]byte(test.content))
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		if got := summary(m); got != test.want {
			t.Errorf("%s: decoded as\n%s, want\n%s", test.what, got, test.want)
		}
	}
}

const summaryOfPlain = `0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44/order/42/order.placed`

func summary(m outbox.Message) string {
	at := "-"
	if !m.Time.IsZero() {
		at = m.Time.Format(time.RFC3339Nano)
	}
	var events []string
	for _, e := range m.Events {
		s := fmt.Sprintf("%v/%s/%s/%s", e.ID, e.AggregateType, e.AggregateID, e.Type)
		if e.Unkeyed {
			s += " unkeyed"
		}
		if e.Payload == nil {
			s += " NULL"
		} else {
			s += " " + string(e.Payload)
		}
		for _, h := range e.Headers {
			s += " " + h.Name + "=" + h.Value
		}
		events = append(events, s)
	}
	return at + " " + strings.Join(events, ";")
}

func TestDecodeMessageNamesWhatIsWrong(t *testing.T) {
	for _, test := range []struct{ content, want string }{
		{``, "unexpected end of JSON input"},
		{` `, "unexpected end"},
		{`null`, `"" is not an object`},
		{`[]`, `"[]" is not an object`},
		{`"x"`, "is not an object"},
		{`{`, "unexpected end of JSON input at byte 1"},
		{`{"v":1}x`, "after top-level value at byte 8"},
		{"{\"v\":\"\xff\"}", "not valid UTF-8"},
		{`{}`, "id: missing"},
		{`{"v":2,` + names + `}`, `v: "2" is a version this program does not know`},
		{`{"v":"1",` + names + `}`, "v: "},
		{`{"time":1,` + names + `}`, `time: "1" is not a string`},
		{`{"time":"2026-11-24 20:15:00",` + names + `}`, `time: "2026-11-24 20:15:00" is not like`},
		{`{"events":{}}`, `events: "{}" is not an array`},
		{`{"events":1}`, "events: "},
		{`{"events":[` + plainE + `,1]}`, `event 1: "1" is not an object`},
		{`{"events":[` + plainE + `,null]}`, "event 1: "},
		{`{"events":[` + plainE + `,{"id":"42"}]}`, `event 1: id: parse id: "42" is not a UUID`},
		{`{"events":[` + plainE + `],` + anID + `}`, "id: stands beside events"},
		{`{"events":[{"v":1,` + names + `}]}`, `event 0: "v": unknown member`},
		{`{"ID":1,` + names + `}`, `"ID": unknown member`},
		{`{"aggregate_type":"x",` + names + `}`, `"aggregate_type": unknown member (known are ["v" "time"`},
		{`{` + anID + `,` + names + `}`, "id: given twice"},
		{`{"v":1,"v":1,` + names + `}`, "v: given twice"},
		{`{"payload":null,"payload":1,` + names + `}`, "payload: given twice"},
		{`{"id":7}`, `id: "7" is not a string`},
		{`{` + anID + `}`, "aggregatetype: missing"},
		{`{` + anID + `,"aggregatetype":""}`, "aggregatetype: empty"},
		{`{` + anID + `,"aggregatetype":7}`, `aggregatetype: "7" is not a string`},
		{`{` + anID + `,"aggregatetype":"a"}`, "type: missing"},
		{`{` + anID + `,"aggregatetype":"a","type":""}`, "type: empty"},
		{`{` + anID + `,"aggregatetype":"a","type":"b","aggregateid":{}}`, `aggregateid: "{}" is neither string nor number`},
		{`{` + anID + `,"aggregatetype":"a","type":"b","aggregateid":[]}`, "aggregateid: "},
		{`{` + names + `,"payload":1,"payload_base64":"AA=="}`, "payload_base64: stands beside payload"},
		{`{` + names + `,"payload_base64":1}`, `payload_base64: "1" is not a string`},
		{`{` + names + `,"payload_base64":"A"}`, "payload_base64: illegal base64"},
		{`{` + names + `,"payload_base64":"AB=="}`, "payload_base64: illegal base64"},
		{`{` + names + `,"headers":[]}`, `headers: "[]" is not an object`},
		{`{` + names + `,"headers":{"a":{}}}`, `headers: "a": "{}" is neither`},
		{`{` + names + `,"headers":{"a":"` + strings.Repeat("x", 100) + `","b":["` + strings.Repeat("y", 100) + `"]}}`, `yyy"… (104 bytes)`},
		{`{` + names + `,"payload":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + `}`, "exceeded max depth"},
	} {
		m, err := outbox.DecodeMessage([]byte(test.content))
		if err == nil || !errors.Is(err, outbox.ErrMalformed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.200s: error %v, want %q", test.content, err, test.want)
		}
		if m.Events != nil || !m.Time.IsZero() {
			t.Errorf("%.200s: a malformed message gave %+v", test.content, m)
		}
	}
}

func TestDecodeMessageAllocatesInProportion(t *testing.T) {
	content := []byte(`{"events":[` + strings.Repeat(plainE+",", 999) + plainE + `]}`)
	allocations := testing.AllocsPerRun(10, func() {
		if _, err := outbox.DecodeMessage(content); err != nil {
			t.Fatal(err)
		}
	})
	if allocations > 10*1000 {
		t.Errorf("%.0f allocations for 1000 events", allocations)
	}
}

func TestDecodeHeaders(t *testing.T) {
	for _, test := range []struct{ object, want string }{
		{"", "-"},
		{"null", ""},
		{" {} ", ""},
		{` {"b": "1", "a": 2.0, "c": null, "d": true}`, "b=1 a=2.0 d=true"},
		{"[]", `error "[]" is not an object`},
		{`"x"`, "error"},
		{"{", "error not JSON"},
		{`{"a":[]}`, `error "a"`},
		{"{\"\xff\":1}", "error not valid UTF-8"},
	} {
		object := []byte(test.object)
		if test.want == "-" {
			object, test.want = nil, ""
		}
		headers, err := outbox.DecodeHeaders(object)
		var got []string
		for _, h := range headers {
			got = append(got, h.Name+"="+h.Value)
		}
		if want, wrong := strings.CutPrefix(test.want, "error"); wrong {
			if !errors.Is(err, outbox.ErrMalformed) || !strings.Contains(err.Error(), "headers:"+want) {
				t.Errorf("%s: error %v, want %q", test.object, err, want)
			}
		} else if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%s: %q (%v), want %s", test.object, got, err, test.want)
		}
	}
}

func TestMessagesWrittenInSQL(t *testing.T) {
	conn := connect(t)
	w := newWAL(t, conn)
	for _, test := range []struct{ sql, want string }{
		{`json_build_object('id', '0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44'::uuid, 'aggregatetype', 'order', 'aggregateid', 42::bigint,
			'type', 'order.placed', 'payload', '{"b": 1.00, "a": "\u0000"}'::json, 'headers', json_build_object('n', 1, 'z', NULL))`,
			summaryOfPlain + ` {"b": 1.00, "a": "\u0000"} n=1`},
		{`jsonb_build_object('id', '0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44'::uuid, 'aggregatetype', 'order', 'aggregateid', '42',
			'type', 'order.placed', 'payload', NULL, 'time', now())`,
			summaryOfPlain + ` NULL`},
		{`json_build_object('id', '0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44', 'aggregatetype', 'order', 'aggregateid', '42',
			'type', 'order.placed', 'payload_base64', encode(convert_to(repeat('ü', 100), 'UTF8'), 'base64'))`,
			summaryOfPlain + " " + strings.Repeat("ü", 100)},
		{`json_build_object('v', 1, 'events', json_agg(json_build_object('id', '0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44',
			'aggregatetype', 'order', 'aggregateid', '42', 'type', 'order.placed', 'payload', n) ORDER BY n)) FROM generate_series(1, 2) n`,
			summaryOfPlain + " 1;" + summaryOfPlain + " 2"},
	} {
		expression, from, _ := strings.Cut(test.sql, " FROM ")
		query := fmt.Sprintf("SELECT pg_logical_emit_message(true, 'outboxd', (%s)::text)", expression)
		if from != "" {
			query += " FROM " + from
		}
		mustExec(t, conn, query)
		contents := w.contents(t)
		m, err := outbox.DecodeMessage(contents[0])
		if err != nil {
			t.Errorf("%s: %v", contents[0], err)
			continue
		}
		if strings.Contains(test.sql, "now()") != !m.Time.IsZero() {
			t.Errorf("time of %s is %v", contents[0], m.Time)
		}
		if _, got, _ := strings.Cut(summary(m), " "); got != test.want {
			t.Errorf("decoded as\n%s, want\n%s", got, test.want)
		}
	}
}
