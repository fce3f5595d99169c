package cdc

import (
	"bytes"
	"errors"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

// Every recorded message, decoded by an independent decoder, says the same.
func TestDecodeLikePglogrepl(t *testing.T) {
	for _, name := range recordingNames(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			d := newDecoder()
			var f frame
			for i, m := range readRecording(t, name) {
				want, err := pglogrepl.Parse(m)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.decode(m, &f); err != nil {
					t.Fatal(err)
				}
				if !agrees(t, d, &f, want) {
					t.Errorf("message %d, %x: decoded %+v, pglogrepl %+v", i, m, f, want)
				}
			}
		})
	}
}

// agrees compares a frame with what pglogrepl made of the same message.
func agrees(t *testing.T, d *decoder, f *frame, want pglogrepl.Message) bool {
	switch w := want.(type) {
	case *pglogrepl.BeginMessage:
		return f.kind == 'B' && f.lsn == w.FinalLSN && f.time.Equal(w.CommitTime) && f.xid == w.Xid
	case *pglogrepl.CommitMessage:
		return f.kind == 'C' && f.lsn == w.CommitLSN && f.endLSN == w.TransactionEndLSN && f.time.Equal(w.CommitTime)
	case *pglogrepl.OriginMessage:
		return f.kind == 'O' && f.lsn == w.CommitLSN
	case *pglogrepl.LogicalDecodingMessage:
		return f.kind == 'M' && f.lsn == w.LSN && f.transactional == w.Transactional &&
			string(f.prefix) == w.Prefix && bytes.Equal(f.content, w.Content)
	case *pglogrepl.RelationMessage:
		known := d.relations[w.RelationID]
		return f.kind == 'R' && (f.relation == nil || f.relation == known) && relationAgrees(known, w)
	case *pglogrepl.InsertMessage:
		return f.kind == 'I' && f.relation == d.relations[w.RelationID] && rowAgrees(f.row, w.Tuple)
	case *pglogrepl.UpdateMessage:
		return f.kind == 'U' && f.relation == d.relations[w.RelationID] && f.row == nil
	case *pglogrepl.DeleteMessage:
		return f.kind == 'D' && f.relation == d.relations[w.RelationID] && f.row == nil
	case *pglogrepl.TruncateMessage:
		return f.kind == 'T'
	case *pglogrepl.TypeMessage:
		return f.kind == 'Y'
	}
	t.Fatalf("recording holds a %T, which is not compared", want)
	return false
}

func relationAgrees(r *Relation, w *pglogrepl.RelationMessage) bool {
	if r == nil || r.OID != w.RelationID || r.Schema != w.Namespace || r.Name != w.RelationName ||
		r.ReplicaIdentity != w.ReplicaIdentity || len(r.Columns) != len(w.Columns) {
		return false
	}
	for i, c := range w.Columns {
		if r.Columns[i] != (Column{Name: c.Name, Type: c.DataType, TypeMod: c.TypeModifier, Key: c.Flags == 1}) {
			return false
		}
	}
	return true
}

func rowAgrees(row []Value, w *pglogrepl.TupleData) bool {
	if len(row) != len(w.Columns) {
		return false
	}
	for i, c := range w.Columns {
		if byte(row[i].Format) != c.DataType || !bytes.Equal(row[i].Bytes, c.Data) {
			return false
		}
	}
	return true
}

// The envelope, too, is read as pglogrepl reads it.
func TestDecodeEnvelopeLikePglogrepl(t *testing.T) {
	data := append(message('w').uint64(1<<40|5).uint64(2<<40|6).uint64(840_000_000_123_456), "Bdata"...)
	var e envelope
	if err := decodeEnvelope(data, &e); err != nil {
		t.Fatal(err)
	}
	x, err := pglogrepl.ParseXLogData(data[1:])
	if err != nil || e.start != x.WALStart || e.end != x.ServerWALEnd || !e.sendTime.Equal(x.ServerTime) || !bytes.Equal(e.data, x.WALData) {
		t.Errorf("decoded %+v, pglogrepl %+v, %v", e, x, err)
	}
	data = message('k').uint64(3<<40 | 7).uint64(840_000_000_123_456).byte(1)
	if err := decodeEnvelope(data, &e); err != nil {
		t.Fatal(err)
	}
	k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
	if err != nil || e.end != k.ServerWALEnd || !e.sendTime.Equal(k.ServerTime) || e.reply != k.ReplyRequested {
		t.Errorf("decoded %+v, pglogrepl %+v, %v", e, k, err)
	}
}

// Every recorded message, cut anywhere, is malformed; and with any 2 or 4
// bytes of it, where a count or length may be, replaced by extreme ones, it is
// decoded or malformed, but reads and allocates nothing that is not there.
func TestDecodeDamaged(t *testing.T) {
	extremes := [][]byte{
		{0xff, 0xff, 0xff, 0xff}, {0x7f, 0xff, 0xff, 0xff}, {0x80, 0, 0, 0}, {0, 0, 0, 0},
		{0xff, 0xff}, {0x7f, 0xff}, {0x80, 0}, {0, 0},
	}
	for _, name := range recordingNames(t) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			d := newDecoder()
			var f frame
			for _, m := range readRecording(t, name) {
				if len(m) > 2000 {
					continue // one toasted row: nothing new in it, and a byte at a time is slow
				}
				for n := range len(m) {
					if err := d.decode(m[:n:n], &f); !errors.Is(err, errMalformed) {
						t.Errorf("first %d bytes of %x: error is %v", n, m, err)
					}
				}
				for i := range m {
					for _, extreme := range extremes {
						decodeDamaged(t, d, m, i, extreme)
					}
				}
				if err := d.decode(m, &f); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// decodeDamaged decodes m with some bytes replaced, in a decoder that knows
// what d knows.
func decodeDamaged(t *testing.T, d *decoder, m []byte, at int, replacement []byte) {
	t.Helper()
	damaged := bytes.Clone(m)
	copy(damaged[at:], replacement)
	scratch := newDecoder()
	maps.Copy(scratch.relations, d.relations)
	var f frame
	if err := scratch.decode(damaged, &f); err != nil {
		if !errors.Is(err, errMalformed) {
			t.Errorf("decode %x: error is %v", damaged, err)
		}
		return
	}
	checkInside(t, damaged, &f)
}

// BenchmarkDecode decodes recorded transactions, and reports how many times as
// long pglogrepl takes for the same.
func BenchmarkDecode(b *testing.B) {
	for _, format := range []string{"text", "binary"} {
		b.Run(format, func(b *testing.B) {
			messages := outboxInserts(b, recordingName(17, format)+".hex")
			d := newDecoder()
			var f frame
			pass := func() {
				for _, m := range messages {
					if err := d.decode(m, &f); err != nil {
						b.Fatal(err)
					}
				}
			}
			pass() // the relations
			messages = messages[2:]
			b.ReportAllocs()
			for b.Loop() {
				pass()
			}
			ours := b.Elapsed() / time.Duration(b.N)

			const rounds = 2000
			start := time.Now()
			for range rounds {
				for _, m := range messages {
					if _, err := pglogrepl.Parse(m); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(time.Since(start)/rounds)/float64(ours), "pglogrepl/ours")
			b.ReportMetric(float64(ours.Nanoseconds())/float64(len(messages)), "ns/message")
		})
	}
}

// outboxInserts returns the two Relations of the recording's first transaction
// and then only inserts and logical messages into what they describe.
func outboxInserts(tb testing.TB, name string) (messages [][]byte) {
	tb.Helper()
	all := readRecording(tb, name)
	messages = append(messages, all[1], all[2])
	outbox := all[3][:5]
	for _, m := range all {
		if bytes.HasPrefix(m, outbox) || m[0] == 'M' {
			messages = append(messages, m)
		}
	}
	return messages
}
