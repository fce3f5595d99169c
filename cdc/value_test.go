package cdc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// readableTypes are the types that BinarySafe allows.
var readableTypes = []uint32{16, 17, 19, 20, 21, 23, 25, 26, 114, 1042, 1043, 1082, 1114, 1184, 2950, 3802, 5069}

func TestBinarySafe(t *testing.T) {
	for typ := range uint32(20_000) {
		if got, want := BinarySafe([]uint32{25, typ, 2950}), slices.Contains(readableTypes, typ); got != want {
			t.Errorf("BinarySafe with type %d is %t", typ, got)
		}
	}
	if !BinarySafe(nil) {
		t.Error("BinarySafe of no types is false")
	}
}

// samples has, for each readable type, SQL expressions: the edges, and
// numbered ones that the server makes up from g.
var samples = []struct {
	name     string
	oid      uint32
	edges    []string
	madeUp   string
	castSame bool // a cast to text writes what the output function writes
}{
	{"bool", 16, []string{"true", "false"}, "g % 3 = 0", false},
	{"bytea", 17, []string{`''`, `'\x00'`, `'\x00ff5c27'`}, "decode(md5(g::text), 'hex')", true},
	{"name", 19, []string{`''`, `'a name'`, `'ümläut'`}, "md5(g::text)", true},
	{"int8", 20, []string{"0", "-1", "9223372036854775807", "-9223372036854775808"}, "(g * 7919 - 500000) * (g * 104729)::bigint", true},
	{"int2", 21, []string{"0", "-1", "32767", "-32768"}, "g * 31 - 3000", true},
	{"int4", 23, []string{"0", "-1", "2147483647", "-2147483648"}, "g * 104729 - 10000000", true},
	{"text", 25, []string{`''`, `'a'`, `E'\t\n\\''"'`, `'🙂'`}, "repeat('é', g)", true},
	{"oid", 26, []string{"0", "4294967295", "2147483648"}, "g * 7919", true},
	{"json", 114, []string{`'null'`, `' {"a" : 1, "a":"\u0000"} '`, `'1e1000'`}, "to_json(repeat('\"', g))", true},
	{"char(5)", 1042, []string{`''`, `'ab'`, `'abcde'`}, "left(md5(g::text), g % 6)", false},
	{"varchar(40)", 1043, []string{`''`, `'ab  '`, `'🙂'`}, "md5(g::text)", true},
	{"date", 1082, []string{
		"'2000-01-01'", "'1999-12-31'", "'0001-01-01'", "'0010-01-01'", "'0100-01-01'", "'1000-01-01'", "'0001-12-31 BC'", "'4714-11-24 BC'", "'5874897-12-31'", "'infinity'", "'-infinity'",
	}, "date '4700-01-01 BC' + g * 31337", true},
	{"timestamp", 1114, []string{
		"'2000-01-01'", "'1999-12-31 23:59:59.999999'", "'2026-10-05 14:03:02.1'", "'2026-10-05 14:03:02.000001'", "'2026-10-05 14:03:02.10203'",
		"'0044-03-15 12:00 BC'", "'4714-11-24 BC'", "'294276-12-31 23:59:59.999999'", "'10000-01-01'", "'infinity'", "'-infinity'",
	}, "timestamp '4700-01-01 BC' + g * interval '1000 days 1 hour 2 minutes 3.040506 seconds'", true},
	{"timestamptz", 1184, []string{
		"'2000-01-01 00:00+00'", "'1999-12-31 23:59:59.999999+00'", "'2026-10-05 14:03:02.12+05:45'", "'0001-12-31 23:00:00-01 BC'",
		"'4714-11-24 00:00+00 BC'", "'294276-12-31 23:59:59.999999+00'", "'infinity'", "'-infinity'",
	}, "timestamptz '4700-01-01 00:00+00 BC' + g * interval '1000 days 1 hour 2 minutes 3.040506 seconds'", true},
	{"uuid", 2950, []string{"'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"}, "md5(g::text)::uuid", true},
	{"jsonb", 3802, []string{`'null'`, `'{"b": 1.50, "a" :[ ]}'`, `'"\u00e9"'`}, "to_jsonb(repeat('\"', g))", true},
	{"xid8", 5069, []string{"'0'", "'4294967296'", "'18446744073709551615'"}, "(g::bigint * 7919000000)::text::xid8", true},
}

// A binary value is rendered as the server renders it: byte for byte what the
// stream carries in text format, and what a cast to text gives.
func TestValueLikeServer(t *testing.T) {
	for _, s := range samples {
		if !slices.Contains(readableTypes, s.oid) {
			t.Fatalf("%s is not readable", s.name)
		}
	}
	if len(samples) != len(readableTypes) {
		t.Fatalf("%d types are tried, %d are readable", len(samples), len(readableTypes))
	}
	url := devtest.Database(t)
	slot := devtest.Name(t)
	conn := connect(t, url)
	run(t, conn, `CREATE PUBLICATION samples FOR ALL TABLES`)
	run(t, conn, `SELECT pg_create_logical_replication_slot('`+slot+`', 'pgoutput')`)
	for i, s := range samples {
		table := fmt.Sprintf("sample_%d", i)
		run(t, conn, fmt.Sprintf(`CREATE TABLE %s (n int GENERATED ALWAYS AS IDENTITY, v %s)`, table, s.name))
		for _, edge := range s.edges {
			run(t, conn, fmt.Sprintf(`INSERT INTO %s (v) VALUES (%s)`, table, edge))
		}
		run(t, conn, fmt.Sprintf(`INSERT INTO %s (v) SELECT %s FROM generate_series(1, 200) g`, table, s.madeUp))
	}
	text := insertedValues(t, receive(t, url, slot, "samples", false))
	binary := insertedValues(t, receive(t, url, slot, "samples", true))
	run(t, conn, `SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET bytea_output = 'hex'`)
	for i, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			table := fmt.Sprintf("sample_%d", i)
			cast := column[string](t, conn, `SELECT v::text FROM `+table+` ORDER BY n`)
			raw := storedBytes(t, conn, table, s.oid)
			if want := len(s.edges) + 200; len(text[table]) != want || len(binary[table]) != want || len(cast) != want {
				t.Fatalf("%d text, %d binary, %d cast values, want %d", len(text[table]), len(binary[table]), len(cast), want)
			}
			for n, b := range binary[table] {
				txt := text[table][n]
				compareReadings(t, b, txt, s.oid)
				if got, err := b.AppendText(nil, s.oid); s.castSame && (err != nil || string(got) != cast[n]) {
					t.Errorf("binary %x is rendered as %q, %v; the server casts to %q", b.Bytes, got, err, cast[n])
				}
				if raw == nil {
					continue
				}
				if got, err := txt.AppendBytes(nil, s.oid); err != nil || !bytes.Equal(got, raw[n]) {
					t.Errorf("text %q has the bytes %q, %v; the server %q", txt.Bytes, got, err, raw[n])
				}
			}
		})
	}
}

// storedBytes returns what AppendBytes is to give where the server can say it,
// nil otherwise.
func storedBytes(t *testing.T, conn *pgx.Conn, table string, typ uint32) [][]byte {
	if typ != 17 {
		return nil
	}
	return column[[]byte](t, conn, `SELECT v FROM `+table+` ORDER BY n`)
}

// compareReadings checks that the binary and the text format of a value give
// the same, read in every way.
func compareReadings(t *testing.T, b, txt Value, typ uint32) {
	t.Helper()
	if b.Format != Binary || txt.Format != Text {
		t.Fatalf("formats are %q and %q", b.Format, txt.Format)
	}
	if got, err := b.AppendText([]byte("x"), typ); err != nil || string(got) != "x"+string(txt.Bytes) {
		t.Errorf("binary %x is rendered as %q, %v; the server sends %q", b.Bytes, got, err, txt.Bytes)
	}
	got, err := b.AppendBytes([]byte("x"), typ)
	want, wantErr := txt.AppendBytes([]byte("x"), typ)
	if err != nil || wantErr != nil || !bytes.Equal(got, want) {
		t.Errorf("bytes of binary %x are %q, %v; of text %q they are %q, %v", b.Bytes, got, err, txt.Bytes, want, wantErr)
	}
	if typ != 1114 && typ != 1184 {
		return
	}
	at, err := b.Time(typ)
	wantAt, wantErr := txt.Time(typ)
	switch infinite := bytes.Contains(txt.Bytes, []byte("infinity")); {
	case infinite && (!errors.Is(err, errInfinite) || !errors.Is(wantErr, errInfinite)):
		t.Errorf("times of %q: errors are %v and %v", txt.Bytes, err, wantErr)
	case !infinite && (err != nil || wantErr != nil || at != wantAt):
		t.Errorf("time of binary %x is %v, %v; of text %q it is %v, %v", b.Bytes, at, err, txt.Bytes, wantAt, wantErr)
	}
}

// insertedValues returns the second column of each table's inserts, in order.
func insertedValues(t *testing.T, messages [][]byte) map[string][]Value {
	t.Helper()
	values := make(map[string][]Value)
	d := newDecoder()
	var f frame
	for _, m := range messages {
		if err := d.decode(m, &f); err != nil {
			t.Fatal(err)
		}
		if f.kind == 'I' {
			values[f.relation.Name] = append(values[f.relation.Name], f.row[1])
		}
	}
	return values
}

// A payload of a megabyte passes unchanged in both formats.
func TestValueOfMegabyte(t *testing.T) {
	url := devtest.Database(t)
	slot := devtest.Name(t)
	conn := connect(t, url)
	run(t, conn, `CREATE TABLE big (n int, v bytea); CREATE PUBLICATION big FOR TABLE big`)
	run(t, conn, `SELECT pg_create_logical_replication_slot('`+slot+`', 'pgoutput')`)
	payload := make([]byte, 1<<20)
	for i := range payload {
		payload[i] = byte(i * i >> 8)
	}
	if _, err := conn.Exec(t.Context(), `INSERT INTO big VALUES (1, $1)`, payload); err != nil {
		t.Fatal(err)
	}
	for _, binary := range []bool{false, true} {
		values := insertedValues(t, receive(t, url, slot, "big", binary))["big"]
		if len(values) != 1 {
			t.Fatalf("%d inserts", len(values))
		}
		if got, err := values[0].AppendBytes(nil, 17); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("binary %t: %d bytes, %v; they differ from what was inserted", binary, len(got), err)
		}
	}
}

func TestValueErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		v    Value
		typ  uint32
		want error // nil: any
	}{
		"null":             {Value{Format: Null}, 25, errNoValue},
		"unchanged":        {Value{Format: Unchanged}, 25, errNoValue},
		"no format":        {Value{}, 25, errNoValue},
		"numeric":          {Value{Format: Binary, Bytes: []byte("12345678")}, 1700, nil},
		"domain":           {Value{Format: Binary, Bytes: []byte("1234")}, 16500, nil},
		"empty bool":       {Value{Format: Binary}, 16, errMalformed},
		"short int2":       {Value{Format: Binary, Bytes: []byte("1")}, 21, errMalformed},
		"long int4":        {Value{Format: Binary, Bytes: []byte("12345")}, 23, errMalformed},
		"int4 for int8":    {Value{Format: Binary, Bytes: []byte("1234")}, 20, errMalformed},
		"short oid":        {Value{Format: Binary, Bytes: []byte("123")}, 26, errMalformed},
		"short xid8":       {Value{Format: Binary, Bytes: []byte("1234")}, 5069, errMalformed},
		"short date":       {Value{Format: Binary, Bytes: []byte("12")}, 1082, errMalformed},
		"short timestamp":  {Value{Format: Binary, Bytes: []byte("1234567")}, 1114, errMalformed},
		"long timestamptz": {Value{Format: Binary, Bytes: []byte("123456789")}, 1184, errMalformed},
		"short uuid":       {Value{Format: Binary, Bytes: []byte("0123456789abcde")}, 2950, errMalformed},
		"empty jsonb":      {Value{Format: Binary}, 3802, errMalformed},
		"future jsonb":     {Value{Format: Binary, Bytes: []byte("\x02{}")}, 3802, errMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			for reading, appendTo := range map[string]func([]byte, uint32) ([]byte, error){"AppendText": tt.v.AppendText, "AppendBytes": tt.v.AppendBytes} {
				got, err := appendTo([]byte("x"), tt.typ)
				if err == nil || tt.want != nil && !errors.Is(err, tt.want) || string(got) != "x" {
					t.Errorf("%s gives %q, error %v", reading, got, err)
				}
			}
			if raw, ok := tt.v.Raw(tt.typ); ok {
				t.Errorf("Raw gives %q", raw)
			}
			if at, err := tt.v.Time(tt.typ); err == nil {
				t.Errorf("Time gives %v", at)
			}
		})
	}
}

func TestValueBytesOfBadText(t *testing.T) {
	for _, text := range []string{``, `\`, `x00`, `\X00`, `\x0`, `\x0g`, `\000`} {
		got, err := Value{Format: Text, Bytes: []byte(text)}.AppendBytes([]byte("x"), 17)
		if !errors.Is(err, errMalformed) || string(got) != "x" {
			t.Errorf("bytes of bytea %q are %q, error %v", text, got, err)
		}
	}
}

// Raw gives the value's own bytes where nothing need be changed, and only
// there: it is how most payloads get from the read buffer to the record.
func TestValueRaw(t *testing.T) {
	for _, tt := range []struct {
		format Format
		typ    uint32
		bytes  string
		want   string // "-": not raw
	}{
		{Text, 25, "a", "a"}, {Text, 114, "{}", "{}"}, {Text, 3802, "{}", "{}"}, {Text, 23, "7", "7"}, {Text, 16500, "x", "x"},
		{Text, 17, `\x00`, "-"},
		{Binary, 25, "a", "a"}, {Binary, 1043, "a", "a"}, {Binary, 1042, "a ", "a "}, {Binary, 19, "a", "a"}, {Binary, 114, "{}", "{}"},
		{Binary, 17, "\x00\xff", "\x00\xff"}, {Binary, 3802, "\x01{}", "{}"},
		{Binary, 23, "\x00\x00\x00\x07", "-"}, {Binary, 16, "\x01", "-"}, {Binary, 2950, "0123456789abcdef", "-"}, {Binary, 1700, "12345678", "-"},
		{Null, 25, "", "-"}, {Unchanged, 25, "", "-"},
	} {
		v := Value{Format: tt.format, Bytes: []byte(tt.bytes)}
		raw, ok := v.Raw(tt.typ)
		if ok != (tt.want != "-") || ok && string(raw) != tt.want {
			t.Errorf("Raw of %q in format %q, type %d, is %q, %t", tt.bytes, tt.format, tt.typ, raw, ok)
		}
		if ok && &raw[len(raw)-1] != &v.Bytes[len(v.Bytes)-1] {
			t.Errorf("Raw of %q in format %q, type %d, is a copy", tt.bytes, tt.format, tt.typ)
		}
	}
}

func TestValueAllocatesNothing(t *testing.T) {
	dst := make([]byte, 0, 256)
	values := []struct {
		v   Value
		typ uint32
	}{
		{Value{Binary, []byte("0123456789abcdef")}, 2950},
		{Value{Binary, []byte("\x00\x02\xe5\x1b\x94\x0c\x2a\x40")}, 1184},
		{Value{Text, []byte("2026-10-05 14:03:02.123456+00")}, 1184},
		{Value{Binary, []byte("\x00\x00\x00\x00\x00\x00\x00\x07")}, 20},
		{Value{Binary, []byte("\x01{}")}, 3802},
		{Value{Text, []byte(`\x00ff`)}, 17},
	}
	allocs := testing.AllocsPerRun(100, func() {
		for _, s := range values {
			if _, err := s.v.AppendText(dst, s.typ); err != nil {
				t.Fatal(err)
			}
			if _, err := s.v.AppendBytes(dst, s.typ); err != nil {
				t.Fatal(err)
			}
			if s.typ == 1184 {
				if _, err := s.v.Time(s.typ); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestValueTimeOfText(t *testing.T) {
	utc := func(year int, month time.Month, day, hour, minute, second, micros int) time.Time {
		return time.Date(year, month, day, hour, minute, second, micros*1000, time.UTC)
	}
	for text, want := range map[string]time.Time{
		"2026-10-05 14:03:02+00":            utc(2026, 10, 5, 14, 3, 2, 0),
		"2026-10-05 14:03:02.1+00":          utc(2026, 10, 5, 14, 3, 2, 100_000),
		"2026-10-05 14:03:02.000001+00":     utc(2026, 10, 5, 14, 3, 2, 1),
		"2026-10-05 14:03:02+05:45":         utc(2026, 10, 5, 8, 18, 2, 0),
		"2026-10-05 14:03:02-01":            utc(2026, 10, 5, 15, 3, 2, 0),
		"1850-01-01 00:00:00-00:44:30":      utc(1850, 1, 1, 0, 44, 30, 0),
		"0044-03-15 12:00:00+00 BC":         utc(-43, 3, 15, 12, 0, 0, 0),
		"294276-12-31 23:59:59.999999+00":   utc(294276, 12, 31, 23, 59, 59, 999_999),
		"2000-02-29 23:59:59+00":            utc(2000, 2, 29, 23, 59, 59, 0),
		"0001-01-01 00:00:00.5-12:00:00 BC": utc(0, 1, 1, 12, 0, 0, 500_000),
	} {
		if got, err := (Value{Text, []byte(text)}).Time(1184); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "now", "2026-10-05", "2026-10-05T14:03:02+00", "2026-10-05 14:03:02", "2026-10-05 14:03+00", "26-10-05 14:03:02+00",
		"2026-13-05 14:03:02+00", "2026-00-05 14:03:02+00", "2026-02-30 14:03:02+00", "2026-10-05 24:00:00+00", "2026-10-05 14:60:02+00",
		"2026-10-05 14:03:60+00", "2026-10-05 14:03:02.+00", "2026-10-05 14:03:02.1234567+00", "2026-10-05 14:03:02+00 AD",
		"2026-10-05 14:03:02+0", "2026-10-05 14:03:02+00:0", "2026-10-05 14:03:02+00x", "10/05/2026 14:03:02 UTC", "-2026-10-05 14:03:02+00",
	} {
		if got, err := (Value{Text, []byte(text)}).Time(1184); !errors.Is(err, errMalformed) {
			t.Errorf("%q is %v, error %v", text, got, err)
		}
	}
	if got, err := (Value{Text, []byte("2026-10-05 14:03:02.5")}).Time(1114); err != nil || got != utc(2026, 10, 5, 14, 3, 2, 500_000) {
		t.Errorf("timestamp is %v, %v", got, err)
	}
	if got, err := (Value{Text, []byte("2026-10-05 14:03:02+00")}).Time(1114); !errors.Is(err, errMalformed) {
		t.Errorf("timestamp with an offset is %v, error %v", got, err)
	}
	if got, err := (Value{Text, []byte("2026-10-05 14:03:02+00")}).Time(25); err == nil {
		t.Errorf("a text is the time %v", got)
	}
}
