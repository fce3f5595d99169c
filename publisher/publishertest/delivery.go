package publishertest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/publisher"
)

// checkFidelity publishes what brokers and codecs like to bend.
func checkFidelity(t testing.TB, b Backend) {
	target := b(t)
	s := open(t, target, nil)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16-16) // just below 1 MiB, the usual limit
	bin := []byte{0, 1, 0x7f, 0x80, 0xc3, 0x28, 0xff, '"', '\\', '\n'}
	header := func(name string, value []byte) func(*publisher.Record) {
		return func(r *publisher.Record) {
			r.Headers = append(r.Headers, publisher.Header{Name: name, Value: value})
		}
	}
	value := func(v []byte) func(*publisher.Record) {
		return func(r *publisher.Record) { r.Value = v }
	}
	keyed := func(k []byte) func(*publisher.Record) {
		return func(r *publisher.Record) { r.Key = k }
	}
	changes := []func(*publisher.Record){
		func(*publisher.Record) {},
		value(nil), value([]byte{}), value(bin), value(big),
		value([]byte(`{"json": 1.50,  "a":"\u0000", "a":"é"}`)),
		value([]byte(`"a string"`)), value([]byte("null")), value([]byte("text ✓ 𝛼")),
		keyed(nil), keyed([]byte{}), keyed(bin), keyed([]byte("schlüssel")), keyed(bytes.Repeat([]byte("k"), 4000)),
		header("binary", bin), header("empty", []byte{}), header("ce_id", []byte("é")),
		func(r *publisher.Record) { r.ID, r.Type, r.ContentType = "", "", "" },
		// What would be more than one line, or end a string, in a protocol of text.
		header("injected", []byte("v\r\nx-other: w\x00\r\n\r\n")), header("x\r\ny: z", []byte("v")), header("nul\x00", []byte("v")),
		header(strings.Repeat("n", 255), []byte("v")), header("", []byte("v")), header("ü", bytes.Repeat([]byte("v"), 30_000)),
		func(r *publisher.Record) { r.ID, r.Type = "id\r\nx: y\x00", "type\r\nx: y\x00" },
	}
	if !target.HeaderTable {
		changes = append(changes, func(r *publisher.Record) {
			for _, v := range []string{"first", "second", "first"} {
				header("repeated", []byte(v))(r)
			}
		})
	}
	for _, change := range changes {
		r := s.record(key(len(s.offered)))
		change(r)
		s.mustPublish(r)
	}
	s.mustCloseAcked()
}

// checkOrder interleaves many domains of unequal weight.
func checkOrder(t testing.TB, b Backend) {
	s := open(t, b(t), nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s.mustPublish(s.record(key(min(rnd.IntN(50), rnd.IntN(50)))))
	}
	s.mustCloseAcked()
}

// checkNilKeys publishes records of no domain among others.
func checkNilKeys(t testing.TB, b Backend) {
	s := open(t, b(t), nil)
	for i := range 200 {
		if i%4 == 0 {
			s.mustPublish(s.record(key(i % 3)))
		} else {
			s.mustPublish(s.record(nil))
		}
	}
	s.mustCloseAcked()
}

// mustCloseAcked waits for every outcome and closes a session in which nothing
// may have failed.
func (s *session) mustCloseAcked() {
	s.t.Helper()
	s.awaitAll()
	if err := s.close(s.patience); err != nil {
		s.t.Errorf("close: %v", err)
	}
	for token, err := range s.failed() {
		s.t.Errorf("record %d failed: %v", token, err)
	}
	s.judge()
}
