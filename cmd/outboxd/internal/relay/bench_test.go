package relay

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/metrics"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/parked"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

// instant acks at once, as no broker does: what is left is the relay's share.
type instant struct{ done publisher.Done }

func (p instant) Publish(_ context.Context, r *publisher.Record) error { p.done(r, nil); return nil }
func (p instant) Close(context.Context) error                          { return nil }

type nothing struct{}

func (nothing) Open(context.Context) (Stream, error) { return nil, nil }
func (nothing) Ack(uint64)                           {}
func (nothing) Stats() cdc.Stats                     { return cdc.Stats{} }

// BenchmarkEvent is one row of 500 bytes of payload: Message → Event → Record →
// publisher → ack. It allocates nothing, also while other keys are parked.
func BenchmarkEvent(b *testing.B) {
	b.Run("no parking", func(b *testing.B) { benchmarkEvent(b, nil) })
	b.Run("nothing parked", func(b *testing.B) { benchmarkEvent(b, &parked.Contents{}) })
	b.Run("others parked", func(b *testing.B) {
		benchmarkEvent(b, &parked.Contents{Events: 1, Domains: map[parked.Domain]cdc.Position{{1}: {}}})
	})
}

func benchmarkEvent(b *testing.B, contents *parked.Contents) {
	format, err := record.New(record.Options{Pipeline: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	r := &Relay{Source: nothing{}, Format: format, Table: "public.outbox", Metrics: metrics.NewRegistry(metrics.Build{}).Pipeline("test"), Logger: slog.New(slog.DiscardHandler)}
	r.init()
	s := r.newSession()
	s.pub = instant{s.done}
	if contents != nil {
		r.Parking = &Parking{Policy: ParkKey, Open: func(context.Context) (Lot, *parked.Contents, error) { return nil, contents, nil }}
		if s.parker, err = newParker(b.Context(), s); err != nil {
			b.Fatal(err)
		}
		s.parker.leave()
	}
	rel := table(pgtype.JSONOID, cdc.Column{Name: "headers", Type: pgtype.JSONBOID}, cdc.Column{Name: "created_at", Type: pgtype.TimestamptzOID})
	payload := make([]byte, 500)
	m := cdc.NewMessage(cdc.Message{
		Kind: cdc.Insert, Relation: rel, CommitTime: time.Now(),
		Row: []cdc.Value{
			{Format: cdc.Text, Bytes: payload}, null, binary("\x01\x90\xd5\xa5\x6c\x3a\x70\x00\x80\x00\x00\x00\x00\x00\x00\x01"),
			text("order"), text("order-4711"), text("placed"), null, binary("\x00\x02\xb3\x5c\x4d\xee\x10\x00"),
		},
	}, func() (cdc.Delivery, bool) { return cdc.Delivery{Position: cdc.Position{Epoch: 1}}, true })
	b.SetBytes(500)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.handle(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
}
