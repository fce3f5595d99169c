package cdc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestDecodeEnvelope(t *testing.T) {
	at := time.Date(2026, 10, 5, 14, 3, 2, 123456000, time.UTC)
	micros := uint64(at.UnixMicro() - time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	data := append(message('w').uint64(1).uint64(2).uint64(micros), "Bdata"...)
	for name, tt := range map[string]struct {
		data wire
		want envelope
	}{
		"data":            {data, envelope{kind: 'w', start: 1, end: 2, sendTime: at, data: []byte("Bdata")}},
		"no data":         {data[:25], envelope{kind: 'w', start: 1, end: 2, sendTime: at, data: []byte{}}},
		"keepalive":       {message('k').uint64(3).uint64(micros).byte(0), envelope{kind: 'k', end: 3, sendTime: at}},
		"keepalive, asks": {message('k').uint64(3).uint64(micros).byte(1), envelope{kind: 'k', end: 3, sendTime: at, reply: true}},
	} {
		t.Run(name, func(t *testing.T) {
			got := envelope{kind: 'x', start: 9, end: 9, reply: true, data: []byte("old")}
			if err := decodeEnvelope(tt.data, &got); err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("decoded %+v, %v; want %+v", got, err, tt.want)
			}
			header := tt.data[:min(len(tt.data), 25)]
			for n := range len(header) {
				if err := decodeEnvelope(header[:n], &got); !errors.Is(err, errMalformed) {
					t.Errorf("first %d of %d bytes: error is %v", n, len(header), err)
				}
			}
		})
	}
	var e envelope
	if err := decodeEnvelope(wire("x"), &e); !errors.Is(err, errMalformed) {
		t.Errorf("unknown type: error is %v", err)
	}
	if err := decodeEnvelope(data, &e); err != nil || cap(e.data) != len(e.data) {
		t.Error("data has spare capacity in the input")
	}
}

func TestAppendStatus(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 1, 5000, time.FixedZone("", 0))
	for _, reply := range []bool{false, true} {
		got := appendStatus([]byte("d...."), 1<<40|1, 2, 3, now, reply)
		want := append([]byte("d...."), message('r').uint64(1<<40|1).uint64(2).uint64(3).uint64(1_000_005)...)
		if reply {
			want = append(want, 1)
		} else {
			want = append(want, 0)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("status is %x, want %x", got, want)
		}
	}
	// A zero flush must reach the server as zero: taken for the written
	// position, it would confirm what was only received.
	b := appendStatus(nil, 77, 0, 0, now, false)
	if len(b) != statusLen || binary.BigEndian.Uint64(b[9:]) != 0 || binary.BigEndian.Uint64(b[17:]) != 0 {
		t.Errorf("status with zero flush is %x", b)
	}
	if n := testing.AllocsPerRun(10, func() { b = appendStatus(b[:0], 1, 2, 3, now, true) }); n != 0 {
		t.Errorf("%v allocations for a status", n)
	}
}
