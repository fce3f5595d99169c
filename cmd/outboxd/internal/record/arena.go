package record

import (
	"slices"
	"unsafe"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// chunkSize is the size of a chunk of bytes. About a hundred small records
	// share one.
	chunkSize = 64 << 10
	// largeSize is the length from which a value gets memory of its own: the
	// end of a chunk that is too short for the next value is wasted, at most
	// this much.
	largeSize = chunkSize / 4
	// slabRecords and slabHeaders are how many records and headers are
	// allocated at once.
	slabRecords = 64
	slabHeaders = 256
	// minHeaders is the room for headers that a record is given at least.
	minHeaders = 16
)

// Arena is where records and their bytes live. It hands out pieces of larger
// allocations and never takes one back: the garbage collector frees an
// allocation when the last record in it is dropped, so the memory of records
// is bounded by the records in flight.
//
// What one record keeps alive is bounded too, since records come and go in
// about the same order but one of them may be held for hours: its neighbours in
// the slabs hold together less than 64 KiB and one value, and it lies in the
// chunks of those.
//
// The zero value is ready. An Arena is for one goroutine; the records made in
// it may go anywhere.
type Arena struct {
	chunk   []byte             // used up to its length
	records []publisher.Record // not handed out yet
	headers []publisher.Header // empty; its capacity is not handed out yet
	handed  int                // bytes handed out since the slab of records was begun
}

// alloc returns an empty slice, never nil, with room for n bytes.
func (a *Arena) alloc(n int) []byte {
	if a.handed += n; a.handed >= chunkSize {
		// Now, and not when there is another record: until then the arena would
		// keep a value of any size.
		a.records = nil
	}
	if n > largeSize {
		return make([]byte, 0, n)
	}
	// The first chunk is made for no bytes too: a slice of a nil one is nil.
	if a.chunk == nil || cap(a.chunk)-len(a.chunk) < n {
		a.chunk = make([]byte, 0, chunkSize)
	}
	at := len(a.chunk)
	a.chunk = a.chunk[:at+n]
	return a.chunk[at : at : at+n]
}

// clone returns a copy of b that is nil only when b is: NULL stays NULL and the
// empty text stays the empty text.
func (a *Arena) clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append(a.alloc(len(b)), b...)
}

// record returns a new zero record.
func (a *Arena) record() *publisher.Record {
	if len(a.records) == 0 {
		a.records = make([]publisher.Record, slabRecords)
		a.headers = nil
		a.handed = 0
	}
	r := &a.records[0]
	a.records = a.records[1:]
	return r
}

// startHeaders returns an empty slice to append headers to. Nothing else may
// be taken from the arena's headers until keepHeaders has got the result.
func (a *Arena) startHeaders() []publisher.Header {
	if cap(a.headers) < minHeaders {
		a.headers = make([]publisher.Header, 0, slabHeaders)
	}
	return a.headers
}

// keepHeaders hands out h, which startHeaders began.
func (a *Arena) keepHeaders(h []publisher.Header) []publisher.Header {
	// An append that ran out of room has moved h: what append got beyond h is
	// then the slab.
	a.headers = h[len(h):]
	if a.records == nil { // of large values, headers may be some
		a.headers = nil
	}
	return slices.Clip(h)
}

// textOf returns the text of b without copying it. It is only for bytes that
// were handed out by an arena: those are written once, before anybody else
// sees them, and a record must not be changed.
func textOf(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}
