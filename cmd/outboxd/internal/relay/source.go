package relay

import (
	"context"

	"github.com/outboxd/outboxd/cdc"
)

// FromReader returns reader as a Source.
func FromReader(reader *cdc.Reader) Source { return readerSource{reader} }

type readerSource struct{ *cdc.Reader }

// Open returns a nil interface with an error, not an interface around a nil
// *cdc.Stream.
func (s readerSource) Open(ctx context.Context) (Stream, error) {
	stream, err := s.Reader.Open(ctx)
	if err != nil {
		return nil, err
	}
	return stream, nil
}
