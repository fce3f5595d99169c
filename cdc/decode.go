package cdc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// errMalformed is wrapped by every error of the decoder: the bytes are not
// what the protocol allows, so nothing after them can be trusted either.
var errMalformed = errors.New("malformed stream")

// frame is one decoded pgoutput message. Its slices, and those of row, alias
// the bytes that were decoded.
type frame struct {
	// kind is the message's type byte: 'B' Begin, 'C' Commit, 'O' Origin, 'R'
	// Relation, 'Y' Type, 'I' Insert, 'U' Update, 'D' Delete, 'T' Truncate, 'M'
	// Message, 'A' a stray Stream Abort that is to be ignored.
	kind byte
	// lsn is the commit record's LSN for B and C, the end of the message's
	// record for M, and the commit's LSN at its origin for O.
	lsn LSN
	// endLSN is the end of the commit record (C): what a confirmed position
	// must reach for the transaction not to be sent again.
	endLSN LSN
	// time is the commit time (B, C), in UTC.
	time time.Time
	xid  uint32 // B: the low half of the transaction's id

	transactional   bool   // M
	prefix, content []byte // M

	// relation is the table that the row belongs to (I, U, D). For R it is set
	// only when the message defines a relation anew or differently; nil says
	// that the stream repeated what was known.
	relation *Relation
	// row has one value for each column of relation (I). The decoder reuses it:
	// it is valid until the next call.
	row []Value

	// trailing counts the bytes behind the last known field. A later server
	// may append fields, so they are tolerated, but the caller should say so.
	trailing int
}

// decoder decodes the messages of one session, protocol version 1. It knows
// the relations that the stream has described. It is not safe for concurrent
// use.
//
// In protocol 2 the messages inside a streamed block carry a transaction id
// behind the type byte; nothing else about them differs.
type decoder struct {
	// table has the OID of the pipeline's table and its name today. The stream
	// calls it as it was called when a row was written.
	table     Relation
	relations map[uint32]*Relation
	row       []Value
}

// newDecoder returns a decoder that knows no relation. The server describes
// them again in each session, so each session needs its own.
func newDecoder() *decoder {
	return &decoder{relations: make(map[uint32]*Relation)}
}

// decode reads one message into f, overwriting all of it. It allocates only
// for Relation messages and errors, and never more than data's own length
// justifies, whatever the counts in it claim. An error wraps errMalformed and
// names the field and its offset; f is then meaningless.
func (d *decoder) decode(data []byte, f *frame) error {
	c := cursor{data: data}
	*f = frame{kind: c.byte("type")}
	switch f.kind {
	case 'B':
		f.lsn = c.lsn("final LSN")
		f.time = c.time("commit time")
		f.xid = c.uint32("transaction id")
	case 'C':
		c.byte("flags")
		f.lsn = c.lsn("commit LSN")
		f.endLSN = c.lsn("end LSN")
		f.time = c.time("commit time")
	case 'O':
		f.lsn = c.lsn("origin LSN")
		c.cstring("origin name")
	case 'R':
		f.relation = d.define(&c)
	case 'Y':
		c.uint32("type OID")
		c.cstring("type schema")
		c.cstring("type name")
	case 'I':
		f.relation, f.row = d.insert(&c)
	case 'U':
		f.relation = d.update(&c)
	case 'D':
		f.relation = d.delete(&c)
	case 'T':
		truncate(&c)
	case 'M':
		f.transactional = c.byte("flags")&1 != 0
		f.lsn = c.lsn("LSN")
		f.prefix = c.cstring("prefix")
		f.content = c.counted("content length")
	case 'A':
		// Some 18.x servers send Stream Abort although nothing is streamed:
		// the aborted transaction was never ours, whatever the body says.
		return nil
	case 'S', 'E', 'c':
		c.fail("streamed transaction, which was not asked for")
	default:
		c.fail("unknown message type")
	}
	f.trailing = len(c.data) - c.off
	return c.err()
}

// define reads a Relation message into the cache. It returns nil when the
// message repeats what is known: the server sends one after every invalidation,
// and whoever planned for the old pointer need not plan again. A Relation that
// was handed out is never written to.
func (d *decoder) define(c *cursor) *Relation {
	r := &Relation{
		OID:             c.uint32("relation OID"),
		Schema:          string(c.cstring("relation schema")),
		Name:            string(c.cstring("relation name")),
		ReplicaIdentity: c.byte("replica identity"),
	}
	if r.OID != 0 && r.OID == d.table.OID {
		r.Schema, r.Name = d.table.Schema, d.table.Name
	}
	// A column takes at least 10 bytes, which bounds what a wrong count can
	// make us allocate.
	const minColumn = 1 + 1 + 4 + 4
	n := int(c.uint16("column count"))
	if n > c.remaining()/minColumn {
		c.fail("column count")
		return nil
	}
	r.Columns = make([]Column, n)
	for i := range r.Columns {
		r.Columns[i] = Column{
			Key:     c.byte("column flags")&1 != 0,
			Name:    string(c.cstring("column name")),
			Type:    c.uint32("column type"),
			TypeMod: int32(c.uint32("column type modifier")),
		}
	}
	if c.bad != "" || sameRelation(d.relations[r.OID], r) {
		return nil
	}
	d.relations[r.OID] = r
	return r
}

// sameRelation says whether old, what is known of r's OID, describes the same
// as r.
func sameRelation(old, r *Relation) bool {
	return old != nil &&
		old.Schema == r.Schema && old.Name == r.Name && old.ReplicaIdentity == r.ReplicaIdentity &&
		slices.Equal(old.Columns, r.Columns)
}

// relation reads the OID of a relation that the stream must have described.
func (d *decoder) relation(c *cursor) *Relation {
	oid := c.uint32("relation OID")
	r := d.relations[oid]
	if r == nil {
		c.rewind(4)
		c.fail("OID of a relation that was not described")
	}
	return r
}

func (d *decoder) insert(c *cursor) (*Relation, []Value) {
	r := d.relation(c)
	c.oneOf("N", "row marker")
	return r, d.tuple(c, r)
}

// update checks the structure of an Update. Its rows are not kept: the rows
// of an outbox are facts, and only their inserts are published.
func (d *decoder) update(c *cursor) *Relation {
	r := d.relation(c)
	if c.oneOf("NKO", "row marker") != 'N' {
		d.tuple(c, r) // the old row, or its key
		c.oneOf("N", "new row's marker")
	}
	d.tuple(c, r)
	return r
}

// delete checks the structure of a Delete; see update.
func (d *decoder) delete(c *cursor) *Relation {
	r := d.relation(c)
	c.oneOf("KO", "row marker")
	d.tuple(c, r)
	return r
}

// truncate checks the structure of a Truncate.
func truncate(c *cursor) {
	n := c.uint32("relation count")
	c.byte("flags")
	if uint64(n) > uint64(c.remaining()/4) {
		c.fail("relation count")
		return
	}
	c.skip(int(n) * 4)
}

// tuple reads a row of r into d.row. A row that does not have exactly r's
// columns is malformed: values would be taken for those of other columns.
func (d *decoder) tuple(c *cursor, r *Relation) []Value {
	n := int(c.uint16("number of values"))
	if c.bad != "" {
		return nil
	}
	if n != len(r.Columns) {
		c.rewind(2)
		c.fail("number of values, which is not that of the relation's columns,")
		return nil
	}
	row := d.row[:0]
	for range n {
		v := Value{Format: Format(c.oneOf("tbnu", "value kind"))}
		if v.Format == Text || v.Format == Binary {
			v.Bytes = c.counted("value length")
		}
		row = append(row, v)
	}
	d.row = row // keeps what it has grown to
	return row
}

// cursor reads big-endian fields from data. The first field that is not there
// or not right is kept in bad; from then on every read yields zero, so that a
// message can be read to its end and checked once.
type cursor struct {
	data []byte
	off  int
	bad  string // what was wrong first; empty while nothing is
	at   int    // where
}

// fail records that what, at the current offset, is wrong, and exhausts the
// cursor.
func (c *cursor) fail(what string) {
	if c.bad == "" {
		c.bad, c.at = what, c.off
	}
	c.off = len(c.data)
}

// rewind takes back the last n bytes, so that fail names where they begin. It
// does nothing once the cursor has failed.
func (c *cursor) rewind(n int) {
	if c.bad == "" {
		c.off -= n
	}
}

func (c *cursor) remaining() int { return len(c.data) - c.off }

// err returns what went wrong, or nil.
func (c *cursor) err() error {
	if c.bad == "" {
		return nil
	}
	kind := "(empty)"
	if len(c.data) > 0 {
		kind = fmt.Sprintf("%q", c.data[0])
	}
	return fmt.Errorf("%w: bad or cut off %s at byte %d of a %d-byte message of type %s",
		errMalformed, c.bad, c.at, len(c.data), kind)
}

func (c *cursor) byte(what string) byte {
	if c.remaining() < 1 {
		c.fail(what)
		return 0
	}
	b := c.data[c.off]
	c.off++
	return b
}

// oneOf reads a byte that must be one of allowed.
func (c *cursor) oneOf(allowed, what string) byte {
	b := c.byte(what)
	if strings.IndexByte(allowed, b) < 0 {
		c.rewind(1)
		c.fail(what)
	}
	return b
}

func (c *cursor) uint16(what string) uint16 {
	if c.remaining() < 2 {
		c.fail(what)
		return 0
	}
	n := binary.BigEndian.Uint16(c.data[c.off:])
	c.off += 2
	return n
}

func (c *cursor) uint32(what string) uint32 {
	if c.remaining() < 4 {
		c.fail(what)
		return 0
	}
	n := binary.BigEndian.Uint32(c.data[c.off:])
	c.off += 4
	return n
}

func (c *cursor) uint64(what string) uint64 {
	if c.remaining() < 8 {
		c.fail(what)
		return 0
	}
	n := binary.BigEndian.Uint64(c.data[c.off:])
	c.off += 8
	return n
}

func (c *cursor) lsn(what string) LSN { return LSN(c.uint64(what)) }

func (c *cursor) time(what string) time.Time { return timeOf(int64(c.uint64(what))) }

// cstring reads up to a zero byte, which it drops.
func (c *cursor) cstring(what string) []byte {
	n := bytes.IndexByte(c.data[c.off:], 0)
	if n < 0 {
		c.fail(what)
		return nil
	}
	s := c.data[c.off : c.off+n : c.off+n]
	c.off += n + 1
	return s
}

// counted reads a 32-bit length and as many bytes. What it returns has no
// spare capacity: appending to a value must not write into the next one.
func (c *cursor) counted(what string) []byte {
	n := int32(c.uint32(what))
	if n < 0 || int(n) > c.remaining() {
		c.rewind(4)
		c.fail(what)
		return nil
	}
	end := c.off + int(n)
	s := c.data[c.off:end:end]
	c.off = end
	return s
}

// skip passes over n bytes, which the caller knows to be there.
func (c *cursor) skip(n int) { c.off += n }
