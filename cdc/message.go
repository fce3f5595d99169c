package cdc

import "time"

// Kind says what a Message is.
type Kind uint8

const (
	// Insert is a row inserted into a published table.
	Insert Kind = iota + 1
	// Logical is a transactional pg_logical_emit_message.
	Logical
)

// Message is one thing that a committed transaction wrote. It and everything
// it points to, except Relation, is valid only until the handler that got it
// returns: the bytes lie in the connection's read buffer.
type Message struct {
	Kind Kind
	// XID is the low half of the transaction's id.
	XID uint32
	// Commit and CommitTime are those of the transaction.
	Commit     LSN
	CommitTime time.Time

	// Relation and Row are set for Insert; Row has a value for each column.
	Relation *Relation
	Row      []Value

	// Prefix and Content are set for Logical.
	Prefix  []byte
	Content []byte

	next func() (Delivery, bool)
}

// Delivery is the place of one event: its name for the world, and the token
// that acks it.
type Delivery struct {
	Position Position
	// Token goes to Reader.Ack once the event is published durably.
	Token uint64
}

// Next must be called once for each event that the message holds, in order,
// whether it will be published or not: the ordinals depend on it. It returns
// false when the event was acked before and must be skipped; otherwise the
// event holds back the confirmed position until its token is acked.
func (m *Message) Next() (Delivery, bool) { return m.next() }

// NewMessage returns a copy of m whose Next is next, for tests of handlers.
func NewMessage(m Message, next func() (Delivery, bool)) *Message {
	m.next = next
	return &m
}

// Relation describes a published table as the stream last did, but for the name
// of Config.Table, which is the one given there.
// A Relation never changes: a changed table gets another one.
type Relation struct {
	OID             uint32
	Schema, Name    string
	ReplicaIdentity byte
	Columns         []Column
}

// types are those of the columns.
func (r *Relation) types() []uint32 {
	types := make([]uint32, len(r.Columns))
	for i := range r.Columns {
		types[i] = r.Columns[i].Type
	}
	return types
}

// Column is one published column.
type Column struct {
	Name string
	// Type is the OID of the column's type, TypeMod its modifier or -1.
	Type    uint32
	TypeMod int32
	// Key says that the column is part of the replica identity.
	Key bool
}

// Value is one column of a row as the server sent it.
type Value struct {
	// Format says how Bytes is to be read.
	Format Format
	Bytes  []byte
}

// Format is the kind byte of a value in a tuple (protocol section 55.9,
// TupleData).
type Format byte

const (
	Null      Format = 'n'
	Unchanged Format = 'u' // a TOASTed value that an UPDATE did not touch
	Text      Format = 't'
	Binary    Format = 'b'
)
