// Package relay is outboxd's engine: it joins the read side (cdc), the records
// (record) and the broker side (publisher).
//
// One session follows another. A session takes the slot, opens a publisher,
// hands over event after event, and ends with the first thing that goes wrong;
// then everything that was taken is drained, and the next session begins with
// the first event that was not acked, because the slot sends it again. There is
// no retry queue and no second way to recover: what happens after an error is
// what happens after kill -9.
//
// The goroutine of Stream.Run does the work of a message: Message → Event →
// Record → Publish. The publisher's goroutines report outcomes: an ack goes to
// the source, a failure ends the session. Between the two lie the pages, which
// hold what must be known of a record until its outcome comes, and bound how
// much is in flight.
//
// What an error means is decided in one place: fault.go.
package relay
