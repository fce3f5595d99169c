package cdc

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"
)

// checkInside fails unless every slice of the frame lies in data and has no
// capacity beyond its end: what lies in data changes with it. It destroys data.
func checkInside(t *testing.T, data []byte, f *frame) {
	t.Helper()
	parts := [][]byte{f.prefix, f.content}
	for _, v := range f.row {
		parts = append(parts, v.Bytes)
	}
	var before [][]byte
	for _, p := range parts {
		before = append(before, bytes.Clone(p))
	}
	for i := range data {
		data[i] ^= 0xff
	}
	for i, p := range parts {
		if len(p) != cap(p) {
			t.Errorf("%q has spare capacity", before[i])
		}
		for j := range p {
			if p[j] != before[i][j]^0xff {
				t.Errorf("%q is not from the input", before[i])
				break
			}
		}
	}
}

// FuzzDecode feeds two messages to one decoder: the first may define what the
// second refers to.
func FuzzDecode(f *testing.F) {
	for _, name := range recordingNames(f) {
		known := []byte(nil)
		for _, m := range readRecording(f, name) {
			if m[0] == 'R' {
				known = m
			}
			f.Add(known, m)
		}
	}
	f.Add([]byte("S"), []byte("A12345678"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		d := newDecoder()
		for _, data := range [][]byte{first, second, second} {
			// Decoding must neither write to the input nor depend on what is
			// behind it or on what was decoded into the frame before.
			guarded := append(bytes.Clone(data), 0, 'x', 0)
			fr := frame{kind: 'x', lsn: 1, endLSN: 2, xid: 3, transactional: true, content: data, row: make([]Value, 3), trailing: 9}
			if err := d.decode(guarded[:len(data):len(data)], &fr); err != nil {
				if !errors.Is(err, errMalformed) {
					t.Fatalf("decode %x: error %v does not wrap %v", data, err, errMalformed)
				}
				continue
			}
			if !bytes.Equal(guarded, append(bytes.Clone(data), 0, 'x', 0)) {
				t.Fatalf("decode %x wrote to its input", data)
			}
			checkFrame(t, data, &fr)
			checkInside(t, guarded[:len(data)], &fr)
		}
	})
}

// checkFrame checks what holds for every frame.
func checkFrame(t *testing.T, data []byte, f *frame) {
	t.Helper()
	switch {
	case f.kind != data[0]:
		t.Errorf("decode %x: kind is %q", data, f.kind)
	case f.trailing < 0 || f.trailing >= len(data):
		t.Errorf("decode %x: %d trailing bytes", data, f.trailing)
	case f.kind == 'I' && len(f.row) != len(f.relation.Columns):
		t.Errorf("decode %x: %d values for %d columns", data, len(f.row), len(f.relation.Columns))
	case f.kind != 'I' && f.row != nil:
		t.Errorf("decode %x: a row", data)
	}
	for _, v := range f.row {
		if v.Bytes != nil && v.Format != Text && v.Format != Binary {
			t.Errorf("decode %x: format %q has bytes", data, v.Format)
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(message('w').uint64(1).uint64(2).uint64(3).byte('B')))
	f.Add([]byte(message('k').uint64(1).uint64(2).byte(1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e envelope
		if err := decodeEnvelope(data, &e); err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatalf("error %v does not wrap %v", err, errMalformed)
			}
			return
		}
		switch {
		case e.kind == 'w' && len(data) >= 25 && bytes.Equal(e.data, data[25:]) && !e.reply:
		case e.kind == 'k' && len(data) >= 18 && e.data == nil && e.start == 0:
		default:
			t.Fatalf("decode %x: %+v", data, e)
		}
	})
}

// FuzzValue checks what ties the readings of a value to each other.
func FuzzValue(f *testing.F) {
	for _, typ := range readableTypes {
		for _, sample := range []string{"", "\x01", "\x01{}", "\x00\x07", "\x7f\xff\xff\xff", "\x00\x02\xe5\x1b\x94\x0c\x2a\x40", "0123456789abcdef"} {
			f.Add(byte(Binary), []byte(sample), typ)
		}
	}
	f.Add(byte(Text), []byte(`\x00ff`), uint32(17))
	f.Add(byte(Text), []byte("0044-03-15 01:02:03.5-00:30:15 BC"), uint32(1184))
	f.Add(byte(Text), []byte("infinity"), uint32(1114))
	f.Add(byte(Null), []byte(nil), uint32(25))
	f.Fuzz(func(t *testing.T, format byte, data []byte, typ uint32) {
		v := Value{Format: Format(format), Bytes: data}
		before := []byte("before")
		text, textErr := v.AppendText(slices.Clone(before), typ)
		raw, ok := v.Raw(typ)
		all, err := v.AppendBytes(slices.Clone(before), typ)
		if !bytes.HasPrefix(text, before) || textErr != nil && len(text) != len(before) {
			t.Errorf("AppendText gives %q, %v", text, textErr)
		}
		if !bytes.HasPrefix(all, before) || err != nil && len(all) != len(before) {
			t.Errorf("AppendBytes gives %q, %v", all, err)
		}
		if ok && (err != nil || !bytes.Equal(raw, all[len(before):])) {
			t.Errorf("Raw gives %q, AppendBytes %q, %v", raw, all, err)
		}
		if v.Format == Binary && textErr == nil && !slices.Contains(readableTypes, typ) {
			t.Errorf("a binary value of type %d became %q", typ, text)
		}
		at, err := v.Time(typ)
		if err != nil || v.Format != Binary {
			return
		}
		// What was rendered reads back as the same time.
		back, err := Value{Format: Text, Bytes: text[len(before):]}.Time(typ)
		if inRange := at.Year() > -4713 && at.Year() < 294277; inRange && (err != nil || !reflect.DeepEqual(back, at)) {
			t.Errorf("%v was rendered as %q, which reads as %v, %v", at, text, back, err)
		}
	})
}
