// Package cdc is the read side of outboxd: it follows one logical replication
// slot and hands over what committed transactions wrote, in WAL order. It knows
// nothing of events' meaning or of brokers.
//
// A [Reader] lives as long as the process. It opens one [Stream] after the
// other; each is one session: a replication connection that holds the slot and
// an SQL connection beside it. What the reader's user has acked outlives the
// sessions, so that what the server sends again after a reconnect is skipped
// and not published twice.
//
// The one rule that everything here serves: a position is confirmed to the
// server only when everything before it in the WAL has been acked and the
// witness, a row in the source database, says so durably.
package cdc
