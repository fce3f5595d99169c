// Package relay is outboxd's engine: it joins the read side (cdc), the records
// (record) and the broker side (publisher).
//
// One session follows another. A session takes the slot, opens a publisher,
// hands over event after event, and ends with the first thing that goes wrong;
// then what is on its way is awaited, and the next session begins with the
// first event that was not acked, because the slot sends it again. There is
// no retry queue and no second way to recover: what happens after an error is
// what happens after kill -9.
//
// The goroutine of Stream.Run does the work of a message: Message → Event →
// Record → Publish. The publisher's goroutines report outcomes: an ack goes to
// the source, a failure ends the session. Between the two lie the pages, which
// hold what must be known of a record until its outcome comes, and bound how
// much is in flight.
//
// What can never be published is parked (park.go) and, when somebody wants it,
// released (release.go). A parked event is acked once its row is durable, and
// every later event of its key is parked behind it.
//
// What an error means is decided in one place: fault.go.
//
// # Invariants
//
//   - An event is acked to the source only after the broker's nil outcome, or
//     the commit of its parked row, once, and before its stream is closed (outcome.go; TestAckWaitsForBroker,
//     TestDrainWaitsForAcks, TestRoguePublisher).
//   - Every event of a message is asked for its place exactly once and in order,
//     also one that is skipped or poison, and nothing else is (session.go; the
//     scripted source of the tests checks it in all of them, TestEmitted,
//     TestForeignTable).
//   - What failed is published again by the next session, what was acked is not
//     (TestRepublishesFromFailed).
//   - If it is to, the relay stops in front of a poison event, and only when everything before
//     it in the WAL is published (TestPoisonRefused, TestPoisonWaitsForTheWorld,
//     TestCause); not in front of another (TestPoisonPublishedByOther).
//   - What the world is to blame for is waited for, visibly, and never dropped
//     (TestHeld, TestClassifyPublisher); nor is it said to wait when it does not
//     any more (TestHeldIntoNextEpoch, TestHeldPublishedByOther).
//   - What is in flight is bounded in number and bytes (pages.go;
//     TestPagesAgainstOracle, TestPagesBoundBytes).
//   - After a stop everything that was taken is published
//     (TestDrainPublishesWhatWaits). This drain is bounded, by seconds when a
//     server waits for us (TestDrainIsBounded), and ends with the first failure
//     (TestFailureEndsDrain).
//   - When the replication is lost, what waits to be sent is not sent any more:
//     a successor may publish it already (TestWaitingIsNotSentAfterLoss).
//   - While an event is parked, no later one of its key is published before it is
//     released or discarded: not under load (TestReleaseUnderLoad), not after a
//     restart or a takeover (TestParkAcrossRestart), whatever happens
//     (TestParkingAgainstOracle).
//   - A parked event is acked after the commit of its row, and not before
//     (TestParkAckWaitsForRow, TestParkWriteFails).
//   - Only what the event itself determines parks it (TestWorldParksNothing).
//   - What is parked is bounded; at the limit everything waits, visibly
//     (TestParkedLimit).
//   - A released event keeps id and position and says that it comes again, and its
//     row goes only after the broker's ack (TestRelease, TestReleaseGetsLost).
//   - Nothing is published without the lease (TestGuard; the backends ask the
//     guard before each write).
package relay
