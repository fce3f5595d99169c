// Package parked keeps the events that cannot be published: one row each in
// outboxd.parked, in the database that they came from.
//
// Two sides use it. The relay that leads a pipeline opens a [Lot], in which it
// writes what it parks and takes out what it has released. Everybody else has a
// [Desk], which lists rows and marks them; a mark is a wish that the leader works
// off.
//
// # Invariants
//
//   - Only the leader inserts, deletes and settles rows of its pipeline. Each
//     write is one statement, which shares a lock on the leader's row of the
//     witness: a relay that has lost the slot finds another holder there and
//     writes nothing, and a successor's claim, which updates that row, waits for
//     a write that is under way, so that its Open sees the result
//     (TestOnlyTheHolderWrites, TestClaimWaitsForWrite). One statement and not a
//     transaction: a process that is stopped in the middle of a transaction
//     would hold the lock for as long.
//   - A row is discarded only once the witness is past it: before that the server
//     may send the event again, after a crash, and nothing but the row would say
//     that it was dealt with. It is released only once the witness or, if nothing
//     but its place is wrong with it, the session is past it: before that nobody
//     knows that what is before it in the WAL has been handed over
//     (TestMarksWaitForTheWitness).
//   - What was discarded is known when it comes again all the same, since the
//     configuration was changed in the middle of its transaction
//     (TestDiscardedComesAgain).
//   - Of a domain, a row is released only when no earlier one of it stays, or
//     must still wait for the witness (TestRetriesInOrder, TestMarksWaitForOneBefore).
//   - What is parked only behind a released event is released too, also what
//     comes while that goes on: the key of a busy writer is handed back
//     (TestInherit).
//   - After a failover, what the server may send again has the position with which
//     it comes then (TestRowsFollowFailover).
//   - What the world is in the way of does not keep others from being released:
//     the leader puts it aside, and what is behind it (TestRetriesForOthersFirst).
//   - Whoever changes several rows locks them in the order of their positions
//     first, so that no two wait for each other (TestOneLockOrder).
//   - What is text for people in a row, the database takes in every encoding: a
//     row that it refuses would stop the pipeline for ever (TestEncodings).
//   - Of what was discarded the last 100,000 rows stay (TestDiscardsAreForgotten).
package parked
