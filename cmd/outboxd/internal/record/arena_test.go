package record_test

import (
	"bytes"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

// A record must not change when the buffer that the event lay in is used
// again, nor when other records are made in the same arena.
func TestRecordsAreCopies(t *testing.T) {
	formats := map[string]*record.Format{
		"cloudevents": mustFormat(t, record.Options{Pipeline: "shop"}),
		"debezium": mustFormat(t, record.Options{Style: record.DebeziumRouter, Debezium: record.Debezium{
			Placement: "type:header,headers:header,created_at:header,aggregateid:header",
		}}),
		"envelope": mustFormat(t, record.Options{Style: record.DebeziumRouter, Debezium: record.Debezium{
			Converter: record.JSONConverter, Placement: "type:envelope,created_at:envelope",
		}}),
		"route": mustFormat(t, record.Options{Style: record.DebeziumRouter, Debezium: record.Debezium{RouteRegex: "nothing"}}),
	}
	sizes := []int{0, 1, 300, 5_000, 16 << 10, 16<<10 + 1, 70_000}
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			var arena record.Arena
			var records []*publisher.Record
			var want []publisher.Record
			for i := range 500 {
				ev := order()
				ev.AggregateID = fmt.Appendf(nil, "key-%d", i)
				ev.Payload = bytes.Repeat([]byte{byte('a' + i%26)}, sizes[i%len(sizes)])
				ev.Headers = manyHeaders(i % 40)
				alone, err := f.Record(ev, new(record.Arena))
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, deepCopy(alone))
				r, err := f.Record(ev, &arena)
				if err != nil {
					t.Fatal(err)
				}
				records = append(records, r)
				for _, b := range [][]byte{ev.ID, ev.AggregateType, ev.AggregateID, ev.Type, ev.Payload, ev.Headers} {
					clear(b)
				}
			}
			for i, r := range records {
				if !reflect.DeepEqual(*r, want[i]) {
					t.Fatalf("record %d has changed", i)
				}
			}
		})
	}
}

// An append to a part of one record must not write into another.
func TestRecordsDoNotOverlap(t *testing.T) {
	f := mustFormat(t, record.Options{Pipeline: "shop"})
	var arena record.Arena
	first, err := f.Record(order(), &arena)
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Record(order(), &arena)
	if err != nil {
		t.Fatal(err)
	}
	want := []publisher.Record{deepCopy(first), deepCopy(second)}
	_ = append(first.Headers, header("x", "y"))
	_ = append(first.Key, "overflow"...)
	_ = append(first.Value, "overflow"...)
	for _, h := range first.Headers {
		_ = append(h.Value, "overflow"...)
	}
	if got := []publisher.Record{*first, *second}; !reflect.DeepEqual(got, want) {
		t.Errorf("an append to parts of the first record changed one of %+v", got)
	}
}

func manyHeaders(n int) []byte {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = fmt.Sprintf(`"h%d": "v\u00fc%d"`, i, i)
	}
	return []byte("{" + strings.Join(parts, ", ") + "}")
}

func deepCopy(r *publisher.Record) publisher.Record {
	c := *r
	c.Topic, c.ID, c.Type, c.ContentType = strings.Clone(r.Topic), strings.Clone(r.ID), strings.Clone(r.Type), strings.Clone(r.ContentType)
	c.Key, c.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	c.Headers = nil
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, publisher.Header{Name: strings.Clone(h.Name), Value: bytes.Clone(h.Value)})
	}
	return c
}

func TestAllocations(t *testing.T) {
	const perRun, limit = 1000, 0.2
	for name, o := range map[string]record.Options{
		"kafka":    {Pipeline: "shop"},
		"rabbitmq": {Pipeline: "shop", Broker: record.RabbitMQ},
		"debezium": {Style: record.DebeziumRouter, Debezium: record.Debezium{
			Converter: record.JSONConverter, Placement: "type:header:eventType,created_at:envelope",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustFormat(t, o)
			ev := order()
			ev.Payload = bytes.Repeat([]byte("x"), 300)
			var arena record.Arena
			n := testing.AllocsPerRun(10, func() {
				for range perRun {
					if _, err := f.Record(ev, &arena); err != nil {
						t.Fatal(err)
					}
				}
			})
			if per := n / perRun; per > limit {
				t.Errorf("%.3f allocations a record, want at most %.1f", per, limit)
			}
		})
	}
}

// One record that is held for hours must not keep the payloads of the others.
func TestHeldRecordKeepsLittle(t *testing.T) {
	const size, records = 30 << 10, 2000
	large := bytes.Repeat([]byte("x"), size)
	inPayload, inHeader := order(), order()
	inPayload.Payload = large
	inHeader.Headers = fmt.Appendf(nil, `{"h": %q}`, large)
	for name, ev := range map[string]*record.Event{"payload": inPayload, "header": inHeader} {
		t.Run(name, func(t *testing.T) { holdSome(t, ev, records, size) })
	}
}

func holdSome(t *testing.T, ev *record.Event, records, size int) {
	f := mustFormat(t, record.Options{Pipeline: "shop"})
	var arena record.Arena
	before := heapInUse()
	var held []*publisher.Record
	for i := range records {
		r, err := f.Record(ev, &arena)
		if err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			held = append(held, r)
		}
	}
	arena = record.Arena{}
	// 64 KiB and one value of neighbours, two chunks, two slabs.
	each := 64<<10 + size + 2*64<<10 + 32<<10
	if grown, limit := heapInUse()-before, int64(len(held)*each+1<<20); grown > limit {
		t.Errorf("%d held records keep %d bytes, want at most %d", len(held), grown, limit)
	}
	runtime.KeepAlive(held)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkRecord(b *testing.B) {
	for name, o := range map[string]record.Options{
		"kafka":    {Pipeline: "shop"},
		"rabbitmq": {Pipeline: "shop", Broker: record.RabbitMQ},
		"debezium": {Style: record.DebeziumRouter},
		"json":     {Style: record.DebeziumRouter, Debezium: record.Debezium{Converter: record.JSONConverter}},
	} {
		b.Run(name, func(b *testing.B) {
			f := mustFormat(b, o)
			ev := order()
			ev.Payload = bytes.Repeat([]byte("x"), 300)
			ev.Time = time.Date(2026, 3, 1, 13, 14, 15, 123456000, time.UTC)
			var arena record.Arena
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Record(ev, &arena); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A large value lives no longer than its record, also when no other is made.
func TestLargeValueIsLetGo(t *testing.T) {
	f := mustFormat(t, record.Options{Pipeline: "shop"})
	var arena record.Arena
	for _, field := range []func(ev *record.Event) *[]byte{
		func(ev *record.Event) *[]byte { return &ev.Payload },
		func(ev *record.Event) *[]byte { return &ev.Headers },
	} {
		ev := order()
		*field(ev) = []byte(`{"fill": "` + strings.Repeat("x", 1<<20) + `"}`)
		r, err := f.Record(ev, &arena)
		if err != nil {
			t.Fatal(err)
		}
		large := r.Value
		for _, h := range r.Headers {
			if len(h.Value) > len(large) {
				large = h.Value
			}
		}
		value := weak.Make(&large[0])
		r, large = nil, nil
		runtime.GC()
		if value.Value() != nil {
			t.Error("the arena keeps the value")
		}
	}
	runtime.KeepAlive(&arena)
}
