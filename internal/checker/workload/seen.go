package workload

// Seen reports whether an event was read. It is for the caller of Read, also
// from within done.
func (c *KafkaConsumer) Seen(id string) bool { return c.distinct[id] }

// Seen reports whether an event was read. It is for the caller of Read, also
// from within done.
func (c *RabbitMQConsumer) Seen(id string) bool { return c.distinct[id] }
