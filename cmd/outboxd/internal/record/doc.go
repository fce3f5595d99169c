// Package record turns domain events into broker records: Event →
// publisher.Record. It decides the topic, the key, the value and the headers,
// and which events no record can be made of. It does no I/O.
//
// A Format is made once from Options, which checks everything that does not
// depend on an event. Format.Record is then called for each event with the
// Arena of the calling goroutine; on the usual path it makes no allocation of
// its own.
//
// Two styles exist. CloudEvents, the default, is CloudEvents 1.0 in binary
// mode. Debezium gives the records that Debezium's outbox event router gives;
// docs/debezium.md lists what is the same and what is not.
package record
