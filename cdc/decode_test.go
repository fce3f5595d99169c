package cdc

import (
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// wire builds protocol messages by hand.
type wire []byte

func message(kind byte) wire           { return wire{kind} }
func (w wire) byte(b byte) wire        { return append(w, b) }
func (w wire) uint16(n uint16) wire    { return binary.BigEndian.AppendUint16(w, n) }
func (w wire) uint32(n uint32) wire    { return binary.BigEndian.AppendUint32(w, n) }
func (w wire) uint64(n uint64) wire    { return binary.BigEndian.AppendUint64(w, n) }
func (w wire) cstring(s string) wire   { return append(append(w, s...), 0) }
func (w wire) counted(s string) wire   { return append(w.uint32(uint32(len(s))), s...) }
func (w wire) null() wire              { return w.byte('n') }
func (w wire) text(s string) wire      { return w.byte('t').counted(s) }
func (w wire) binary(s string) wire    { return w.byte('b').counted(s) }
func (w wire) row(columns uint16) wire { return w.byte('N').uint16(columns) }

func relationMessage(oid uint32, columns ...Column) wire {
	w := message('R').uint32(oid).cstring("public").cstring("outbox").byte('d').uint16(uint16(len(columns)))
	for _, c := range columns {
		var flags byte
		if c.Key {
			flags = 1
		}
		w = w.byte(flags).cstring(c.Name).uint32(c.Type).uint32(uint32(c.TypeMod))
	}
	return w
}

func twoColumns() []Column {
	return []Column{
		{Name: "id", Type: 2950, TypeMod: -1, Key: true},
		{Name: "payload", Type: 114, TypeMod: 7},
	}
}

// decoded returns the frame of the last of messages.
func decoded(t *testing.T, d *decoder, messages ...wire) frame {
	t.Helper()
	var f frame
	for _, m := range messages {
		if err := d.decode(m, &f); err != nil {
			t.Fatalf("decode %q: %v", m, err)
		}
	}
	return f
}

func TestDecodeFields(t *testing.T) {
	at := time.Date(2026, 10, 5, 14, 3, 2, 123456000, time.UTC)
	micros := uint64(at.UnixMicro() - time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	relation := &Relation{OID: 16385, Schema: "public", Name: "outbox", ReplicaIdentity: 'd', Columns: twoColumns()}
	without := &Relation{OID: 7, Schema: "public", Name: "outbox", ReplicaIdentity: 'd', Columns: []Column{}}
	short := &Relation{OID: 7, Schema: "public", Name: "outbox", ReplicaIdentity: 'd', Columns: make([]Column, 2)}
	known, bare := relationMessage(16385, twoColumns()...), relationMessage(7)
	of := func(kind byte) wire { return message(kind).uint32(16385) }

	pair := func(w wire) wire { return w.uint16(2).binary("0123456789abcdef").text("{}") }
	pairRow := []Value{{Format: Binary, Bytes: []byte("0123456789abcdef")}, {Format: Text, Bytes: []byte("{}")}}
	nulls := func(w wire) wire { return w.uint16(2).byte('u').null() }
	nullRow := []Value{{Format: Unchanged}, {Format: Null}}
	key := func(w wire) wire { return w.byte('K').uint16(2).text("1").null() }

	tests := []struct {
		name     string
		messages []wire // the last one is decoded, those before it are known
		want     frame
	}{
		{"begin", []wire{message('B').uint64(0x1_0000_0002).uint64(micros).uint32(0xfffffffe)}, frame{kind: 'B', lsn: 0x1_0000_0002, time: at, xid: 0xfffffffe}},
		{"commit", []wire{message('C').byte(0).uint64(0x10).uint64(0x40).uint64(micros)}, frame{kind: 'C', lsn: 0x10, endLSN: 0x40, time: at}},
		{"origin", []wire{message('O').uint64(0x10).cstring("elsewhere")}, frame{kind: 'O', lsn: 0x10}},
		{"relation", []wire{known}, frame{kind: 'R', relation: relation}},
		{"relation without columns", []wire{bare}, frame{kind: 'R', relation: without}},
		{"relation with the shortest columns", []wire{relationMessage(7, Column{}, Column{})}, frame{kind: 'R', relation: short}},
		{"type", []wire{message('Y').uint32(16400).cstring("public").cstring("mood")}, frame{kind: 'Y'}},
		{"insert", []wire{known, pair(of('I').byte('N'))}, frame{kind: 'I', relation: relation, row: pairRow}},
		{"insert of nothing", []wire{bare, message('I').uint32(7).row(0)}, frame{kind: 'I', relation: without}},
		{"null, unchanged and empty", []wire{known, of('I').row(2).null().text(""), known, nulls(of('I').byte('N'))}, frame{kind: 'I', relation: relation, row: nullRow}},
		{"update", []wire{known, pair(of('U').byte('N'))}, frame{kind: 'U', relation: relation}},
		{"update with old key", []wire{known, pair(key(of('U')).byte('N'))}, frame{kind: 'U', relation: relation}},
		{"update with old row", []wire{known, pair(pair(of('U').byte('O')).byte('N'))}, frame{kind: 'U', relation: relation}},
		{"delete by key", []wire{known, key(of('D'))}, frame{kind: 'D', relation: relation}},
		{"delete with old row", []wire{known, pair(of('D').byte('O'))}, frame{kind: 'D', relation: relation}},
		{"truncate", []wire{message('T').uint32(2).byte(3).uint32(16385).uint32(99)}, frame{kind: 'T'}},
		{"transactional message", []wire{message('M').byte(1).uint64(0x30).cstring("outboxd").counted("a\x00b")}, frame{kind: 'M', transactional: true, lsn: 0x30, prefix: []byte("outboxd"), content: []byte("a\x00b")}},
		{"message outside transactions", []wire{message('M').byte(2).uint64(0x30).cstring("").counted("")}, frame{kind: 'M', lsn: 0x30, prefix: []byte{}, content: []byte{}}},
		{"stray abort", []wire{message('A').uint32(1).uint32(2)}, frame{kind: 'A'}},
		{"unknown bytes behind the fields", []wire{append(message('B').uint64(1).uint64(micros).uint32(2), "new"...)}, frame{kind: 'B', lsn: 1, time: at, xid: 2, trailing: 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decoded(t, newDecoder(), tt.messages...)
			if len(got.row) == 0 {
				got.row = nil
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("decoded\n%+v, want\n%+v", got, tt.want)
			}
		})
	}
}

func TestTimeOf(t *testing.T) {
	for micros, want := range map[int64]string{
		0:          "2000-01-01T00:00:00Z",
		1:          "2000-01-01T00:00:00.000001Z",
		-1:         "1999-12-31T23:59:59.999999Z",
		-1_000_001: "1999-12-31T23:59:58.999999Z",
	} {
		if got := timeOf(micros).Format(time.RFC3339Nano); got != want {
			t.Errorf("timeOf(%d) = %s, want %s", micros, got, want)
		}
	}
	// Nothing in the stream may carry ±infinity, but it must not wrap around.
	for _, micros := range []int64{math.MaxInt64, math.MinInt64} {
		got := timeOf(micros)
		if back := (got.Unix()-epoch2000)*1_000_000 + int64(got.Nanosecond()/1000); back != micros {
			t.Errorf("timeOf(%d) = %v, which is %d", micros, got, back)
		}
	}
}

func TestDecodeMalformed(t *testing.T) {
	insert := func() wire { return message('I').uint32(16385).row(2) }
	for name, tt := range map[string]struct {
		message wire
		want    string // what the error must name
	}{
		"nothing":                    {wire{}, "type at byte 0 of a 0-byte message of type (empty)"},
		"unknown type":               {wire("X123"), "unknown message type at byte 1 of a 4-byte message of type 'X'"},
		"stream start":               {message('S').uint32(1).byte(1), "streamed transaction"},
		"stream stop":                {message('E'), "which was not asked for at byte 1 of a 1-byte message of type 'E'"},
		"stream commit":              {message('c').uint32(1), "streamed transaction"},
		"prepare":                    {message('P').byte(0), "unknown message type"},
		"unknown relation":           {message('I').uint32(5).row(0), "relation that was not described at byte 1 "},
		"update of unknown relation": {message('U').uint32(5).row(0), "relation that was not described at byte 1 "},
		"delete in unknown relation": {message('D').uint32(5).byte('K').uint16(0), "relation that was not described at byte 1 "},
		"insert with an old row":     {message('I').uint32(16385).byte('O').uint16(2).null().null(), "row marker at byte 5 "},
		"update without marker":      {message('U').uint32(16385).byte('n').uint16(2).null().null(), "row marker at byte 5 "},
		"update with two old rows":   {message('U').uint32(16385).byte('K').uint16(2).null().null().byte('K').uint16(2).null().null(), "new row's marker at byte 10 "},
		"delete with a new row":      {message('D').uint32(16385).byte('N').uint16(2).null().null(), "row marker at byte 5 "},
		"too few values":             {message('I').uint32(16385).row(1).null(), "number of values, which is not that of the relation's columns, at byte 6 "},
		"too many values":            {message('I').uint32(16385).row(3).null().null().null(), "number of values"},
		"negative number of values":  {message('I').uint32(16385).row(0xffff).null(), "number of values"},
		"unknown value kind":         {insert().null().byte('x').counted("1"), "value kind at byte 9 "},
		"negative length":            {append(insert().null().byte('t').uint32(0xffffffff), "abc"...), "value length at byte 10 "},
		"smallest negative length":   {append(insert().null().byte('t').uint32(0x80000000), "abc"...), "value length"},
		"length of 2 GB":             {append(insert().null().byte('b').uint32(0x7fffffff), "abc"...), "value length"},
		"length one too long":        {append(insert().null().byte('t').uint32(4), "abc"...), "value length"},
		"endless name":               {append(message('Y').uint32(1), "pub"...), "type schema at byte 5 "},
		"column count":               {message('R').uint32(1).cstring("s").cstring("n").byte('d').uint16(0xffff), "column count at byte 12 "},
		"truncate count":             {message('T').uint32(0xffffffff).byte(0).uint32(1), "relation count at byte 6 "},
		"negative content length":    {message('M').byte(1).uint64(1).cstring("p").uint32(0xffffffff), "content length at byte 12 "},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecoder()
			decoded(t, d, relationMessage(16385, twoColumns()...))
			var f frame
			err := d.decode(tt.message, &f)
			if !errors.Is(err, errMalformed) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want one that wraps %v and says %q", err, errMalformed, tt.want)
			}
		})
	}
}

// Every message needs each of its bytes: cut anywhere, it is malformed.
func TestDecodeCutOff(t *testing.T) {
	known := relationMessage(16385, twoColumns()...)
	for _, whole := range []wire{
		message('B').uint64(1).uint64(2).uint32(3),
		message('C').byte(0).uint64(1).uint64(2).uint64(3),
		message('O').uint64(1).cstring("origin"),
		known,
		message('Y').uint32(1).cstring("s").cstring("n"),
		message('I').uint32(16385).row(2).text("1").binary("2"),
		message('U').uint32(16385).byte('K').uint16(2).text("1").null().byte('N').uint16(2).text("1").byte('u'),
		message('D').uint32(16385).byte('K').uint16(2).text("1").null(),
		message('T').uint32(2).byte(0).uint32(1).uint32(2),
		message('M').byte(0).uint64(1).cstring("p").counted("c"),
	} {
		for n := range len(whole) {
			d := newDecoder()
			var f frame
			if whole[0] != 'R' {
				decoded(t, d, known)
			}
			if err := d.decode(whole[:n:n], &f); !errors.Is(err, errMalformed) {
				t.Errorf("first %d of %d bytes of %q: error is %v", n, len(whole), whole[0], err)
			}
			if whole[0] == 'R' && len(d.relations) > 0 {
				t.Errorf("first %d bytes of a relation define it", n)
			}
		}
	}
}

// A relation keeps its identity while the stream repeats it, and a change in
// anything the message says gives another one; the old one stays as it was,
// because events decoded before the change still point to it.
func TestDecodeRelationIdentity(t *testing.T) {
	base := relationMessage(16385, twoColumns()...)
	d := newDecoder()
	first := decoded(t, d, base).relation
	before := *first
	before.Columns = twoColumns()

	if again := decoded(t, d, base).relation; again != nil {
		t.Errorf("a repeated relation is reported as new: %+v", again)
	}
	current := func() *Relation {
		return decoded(t, d, message('I').uint32(16385).row(2).null().null()).relation
	}
	if current() != first {
		t.Error("a repeated relation replaced the pointer")
	}

	renamed, retyped, keyed, modified := twoColumns(), twoColumns(), twoColumns(), twoColumns()
	renamed[1].Name, retyped[1].Type, keyed[1].Key, modified[1].TypeMod = "body", 25, true, -1
	for name, change := range map[string]wire{
		"column name":       relationMessage(16385, renamed...),
		"column type":       relationMessage(16385, retyped...),
		"key":               relationMessage(16385, keyed...),
		"type modifier":     relationMessage(16385, modified...),
		"schema":            wire(strings.Replace(string(base), "public", "sales1", 1)),
		"table":             wire(strings.Replace(string(base), "outbox", "inbox1", 1)),
		"replica identity":  wire(strings.Replace(string(base), "outbox\x00d", "outbox\x00f", 1)),
		"swapped columns":   relationMessage(16385, twoColumns()[1], twoColumns()[0]),
		"additional column": relationMessage(16385, append(twoColumns(), Column{Name: "x", Type: 25})...),
	} {
		decoded(t, d, base)
		old := d.relations[16385]
		changed := decoded(t, d, change).relation
		if changed == nil || changed == old || d.relations[16385] != changed {
			t.Errorf("%s: relation is %+v after the change", name, changed)
		}
	}
	if !reflect.DeepEqual(*first, before) {
		t.Errorf("the first relation was written to: %+v", *first)
	}
}

// A relation outlives the bytes that it was read from.
func TestDecodeRelationCopies(t *testing.T) {
	w := relationMessage(16385, twoColumns()...)
	r := decoded(t, newDecoder(), w).relation
	clear(w)
	if r.Schema != "public" || r.Name != "outbox" || r.Columns[1].Name != "payload" {
		t.Errorf("relation changed with its input: %+v", r)
	}
}

// Values lie in the input, and appending to one leaves its neighbours alone.
func TestDecodeValuesAlias(t *testing.T) {
	d := newDecoder()
	w := message('I').uint32(16385).row(2).text("first").text("second")
	f := decoded(t, d, relationMessage(16385, twoColumns()...), w)
	_ = append(f.row[0].Bytes, "xxxxxxxxxx"...)
	if got := string(f.row[1].Bytes); got != "second" {
		t.Errorf("second value is %q after appending to the first", got)
	}
	w[len(w)-1] = 'D'
	if got := string(f.row[1].Bytes); got != "seconD" {
		t.Errorf("second value is %q: it was copied", got)
	}
	m := decoded(t, d, message('M').byte(1).uint64(1).cstring("prefix").counted("content"))
	if cap(m.prefix) != len("prefix") || cap(m.content) != len("content") {
		t.Error("prefix or content has spare capacity in the input")
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	d := newDecoder()
	begin := message('B').uint64(1).uint64(2).uint32(3)
	insert := message('I').uint32(16385).row(2).text("1").text("{}")
	update := message('U').uint32(16385).byte('K').uint16(2).text("1").null().byte('N').uint16(2).text("1").byte('u')
	logical := message('M').byte(1).uint64(1).cstring("p").counted("c")
	commit := message('C').byte(0).uint64(1).uint64(2).uint64(3)
	var f frame
	decoded(t, d, relationMessage(16385, twoColumns()...), insert)
	allocs := testing.AllocsPerRun(100, func() {
		for _, m := range []wire{begin, insert, update, logical, commit} {
			if err := d.decode(m, &f); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a transaction", allocs)
	}
}

// What a count claims must not be allocated before it is believed.
func TestDecodeBoundsAllocation(t *testing.T) {
	claim := message('R').uint32(1).cstring("s").cstring("n").byte('d').uint16(0xffff)
	d := newDecoder()
	var f frame
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const runs = 100
	for range runs {
		if d.decode(claim, &f) == nil {
			t.Fatal("decoded")
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 4096 {
		t.Errorf("a %d-byte message made the decoder allocate %d bytes", len(claim), n)
	}
}
