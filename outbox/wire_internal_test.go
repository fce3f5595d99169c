package outbox

import (
	"testing"
	"time"
)

// Relays of other versions and programs in SQL rely on this text.
func TestMessageFormat(t *testing.T) {
	id, err := ParseID("0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44")
	if err != nil {
		t.Fatal(err)
	}
	rows := []row{
		{id: id, aggregateType: "order", aggregateID: "4\"2", typ: "order.placed", payload: []byte(`{"b": <>}`), headers: []Header{{"b", "1"}, {"a", ""}}},
		{id: id, aggregateType: "order", aggregateID: "43", typ: "order.placed", payload: []byte(`{"a": "<>"}`)},
		{id: id, aggregateType: "order", aggregateID: "44", typ: "order.gone", null: true},
	}
	at := time.Date(2026, 11, 24, 21, 15, 0, 123456789, time.FixedZone("CET", 3600))
	const event = `{"id":"0190b6f2-4d3a-7c51-8e07-5a1f0c2b9d44","aggregatetype":"order","aggregateid":`
	want := `{"v":1,"time":"2026-11-24T20:15:00.123456Z","events":[` +
		event + `"4\"2","type":"order.placed","payload_base64":"eyJiIjogPD59","headers":{"b":"1","a":""}},` +
		event + `"43","type":"order.placed","payload":{"a": "<>"}},` +
		event + `"44","type":"order.gone"}]}`
	if got := messages(rows, at); len(got) != 1 || got[0] != want {
		t.Errorf("messages\n%s, want\n%s", got, want)
	}
}
