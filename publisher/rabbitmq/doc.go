// Package rabbitmq publishes records to one RabbitMQ exchange (AMQP 0-9-1),
// each confirmed by the broker, in the order of Publish per key.
//
// # Order
//
// A key hashes to one lane, which is one channel: a channel, an exchange and a
// queue keep order between them. That alone does not survive a refusal: the
// broker takes what stands behind a record that it refused. So with ordering
// strict, the default, a key has at most one unconfirmed record; later ones
// wait in a chain, however many windows that takes. With enough keys this costs
// nothing. One hot key caps everything at 1 ÷ confirm latency ÷ its share of
// the records, which [Stats] shows.
//
// With ordering pipelined a lane stops at its first refusal, but what was on
// its way behind it is delivered, and reported with an error that wraps
// publisher.ErrAborted and publisher.ErrUnknown: published again with the
// refused one, it is in order again for consumers that take the last delivery.
// This is weaker than the contract of publisher.Publisher.
//
// # Outcomes
//
// Every record is published as mandatory. An acked record that was returned
// before its ack is in no queue: it is unroutable ([Unroutable] says what
// then). A refusal by the broker (basic.nack) is held. A record whose ack is
// missing when its channel ends is unknown, never refused. The relay declares
// no topology: a missing exchange is held until someone makes it.
//
// # Life of a record
//
// Publish puts it into the tracker of its lane, if there is room. The lane's
// writer takes what may be sent and has the client library encode it into the
// [coalescer], which sends many records with one write. The lane's collector
// waits for the confirms in the order of sending, reports outcomes and frees
// the next record of the key.
package rabbitmq
