// Package replay publishes rows of the event table again.
//
// A replay is one attempt after the other, like the relay's sessions. An attempt
// reads the selected rows in one snapshot, in the order of seq, and gives them
// to a publisher of its own; it ends with the first thing that goes wrong. The
// next one goes on behind what was acked: memory is bounded whatever the number
// of rows, and no snapshot is kept while a broker is away.
//
// Where the next attempt goes on cannot be said by seq alone: a transaction that
// was open may since have committed rows with a lower one. A Resume says both:
// rows below Seq that the snapshot saw are done, all others are not.
package replay
