package rabbitmq

import (
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// coalesceBurst is sent even while a lane says that more is coming.
	coalesceBurst = 32 << 10
	// coalesceRoom is how much may be buffered before writers of records wait.
	// As much again may be on its way.
	coalesceRoom = 256 << 10
	// coalesceChunk is the most that one write deadline covers, so that a large
	// record on a slow line is not taken for a dead connection.
	coalesceChunk = 256 << 10
	// coalesceKeep is the largest buffer that is kept for reuse.
	coalesceKeep = 1 << 20
	// closeGrace is how long Close waits for what is buffered, and a failed
	// write for what the other side has said.
	closeGrace = 200 * time.Millisecond
)

// coalescer is a connection whose Write only buffers. One goroutine sends the
// buffer: at once when no lane has more to come, else when coalesceBurst is
// reached. The client library flushes after each record, which would be one
// write(2) each. It stands above TLS.
//
// Write never blocks, on purpose: lanes wait in waitRoom before a record, so
// the buffer is bounded by coalesceRoom plus one record a lane, while the
// library's own small frames always get in. If a Write blocked while the broker
// does not read, the library's heartbeater would block in it and renew the read
// deadline no more, and the connection would die in the middle of an alarm; and
// Publish would keep a lock that the library's shutdown needs.
type coalescer struct {
	net.Conn
	timeout time.Duration // of one write

	records sync.Mutex // held while a record is being written

	mu      sync.Mutex
	work    sync.Cond // the sender waits here
	room    sync.Cond // lanes wait here
	buf     []byte    // not yet given to the sender
	whole   int       // bytes of buf that end with a record; the sender takes no half ones
	partial bool      // a record is being written
	given   int64     // bytes given to the sender so far
	wrote   int64     // bytes that the sender has written so far
	holds   int       // lanes that have more to come
	paused  bool      // the broker has blocked the connection
	closed  bool
	err     error // the first failure; writes return it from then on
	readErr error // the first failure of Read

	sent  chan struct{} // closed when the sender has ended
	heard chan struct{} // closed when Read has failed
}

func newCoalescer(conn net.Conn, timeout time.Duration) *coalescer {
	c := &coalescer{Conn: conn, timeout: timeout, sent: make(chan struct{}), heard: make(chan struct{})}
	c.work.L = &c.mu
	c.room.L = &c.mu
	go c.send()
	return c
}

// Write buffers p. It returns the first error of an earlier write.
func (c *coalescer) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	c.buf = append(c.buf, p...)
	if !c.partial {
		c.whole = len(c.buf)
	}
	if c.due() {
		c.work.Signal()
	}
	return len(p), nil
}

// due says whether the buffer is to be sent now. c.mu is held.
func (c *coalescer) due() bool {
	return c.whole > 0 && (c.holds == 0 || c.closed || c.whole >= coalesceBurst)
}

// writeRecord has write put one record of about size bytes into the buffer, and
// returns where the record ends among all bytes written. Records come one after
// the other, so that the sender can stop between two of them: the library would
// interleave the frames of several channels.
func (c *coalescer) writeRecord(size int, write func() error) (end int64, err error) {
	c.records.Lock()
	defer c.records.Unlock()
	c.setPartial(true)
	if size > coalesceKeep {
		c.grow(size + size/256 + 4096) // frames of 4 KiB, the smallest that there are, add less
	}
	err = write()
	return c.setPartial(false), err
}

// grow makes room for n bytes at once: a buffer that grew by and by with a large
// record would be copied over and over, and need twice the memory in the end.
func (c *coalescer) grow(n int) {
	c.mu.Lock()
	c.buf = slices.Grow(c.buf, n)
	c.mu.Unlock()
}

func (c *coalescer) setPartial(on bool) (end int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = on
	if !on {
		c.whole = len(c.buf)
		if c.due() {
			c.work.Signal()
		}
	}
	return c.given + int64(len(c.buf))
}

// drop forgets what was not given to the sender, and returns how many bytes
// were. No record may be written meanwhile.
func (c *coalescer) drop() (given int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf, c.whole = c.buf[:0], 0
	return c.given
}

// Read remembers why the connection ended: the client library forgets it.
func (c *coalescer) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.mu.Lock()
		if c.readErr == nil {
			c.readErr = err
			close(c.heard)
		}
		c.mu.Unlock()
	}
	return n, err
}

// hold says that a lane has more to come; release that it has not.
func (c *coalescer) hold() {
	c.mu.Lock()
	c.holds++
	c.mu.Unlock()
}

func (c *coalescer) release() {
	c.mu.Lock()
	c.holds--
	if c.due() {
		c.work.Signal()
	}
	c.mu.Unlock()
}

// waitRoom waits until a record may be written: while the buffer is full or the
// broker has blocked the connection. It returns early when the connection ends,
// or when stop returns true after a nudge.
func (c *coalescer) waitRoom(stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && !c.closed && (c.paused || len(c.buf) >= coalesceRoom) && !stop() {
		c.room.Wait()
	}
}

// nudge has every waitRoom ask its stop again.
func (c *coalescer) nudge() {
	c.mu.Lock()
	c.room.Broadcast()
	c.mu.Unlock()
}

// pause keeps records back while the broker has blocked the connection. A
// write that is under way then has no deadline: a blocked broker does not read.
func (c *coalescer) pause(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = on
	c.setWriteDeadline()
	c.room.Broadcast()
}

// setWriteDeadline is called with c.mu held, so that a deadline which the
// sender sets cannot replace the one of a pause that began in between. An error
// means that the connection is closed, which the next write says too.
func (c *coalescer) setWriteDeadline() {
	var deadline time.Time
	if !c.paused {
		deadline = time.Now().Add(c.timeout)
	}
	_ = c.Conn.SetWriteDeadline(deadline)
}

// send sends batches until the connection ends.
func (c *coalescer) send() {
	defer close(c.sent)
	var batch []byte
	for {
		if cap(batch) > coalesceKeep {
			batch = nil
		}
		c.mu.Lock()
		for c.err == nil && !c.closed && !c.due() {
			c.work.Wait()
		}
		if c.err != nil || c.whole == 0 {
			c.mu.Unlock()
			return
		}
		batch = append(batch[:0], c.buf[c.whole:]...)
		batch, c.buf = c.buf[:c.whole], batch
		c.given += int64(len(batch))
		c.whole = 0
		c.room.Broadcast()
		c.mu.Unlock()
		if err := c.sendBatch(batch); err != nil {
			c.refuse(err)
			c.hearOut()
			_ = c.Conn.Close()
			return
		}
	}
}

// hearOut gives Read time to come upon why a write failed: a peer that hung up
// may have said why before, as TLS 1.3 does when it refuses a certificate, and
// what is closed here cannot be read any more.
func (c *coalescer) hearOut() {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return
	}
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-c.heard:
	case <-grace.C:
	}
}

func (c *coalescer) sendBatch(batch []byte) error {
	for len(batch) > 0 {
		c.mu.Lock()
		c.setWriteDeadline()
		c.mu.Unlock()
		n := min(len(batch), coalesceChunk)
		if _, err := c.Conn.Write(batch[:n]); err != nil {
			return err
		}
		c.mu.Lock()
		c.wrote += int64(n)
		c.mu.Unlock()
		batch = batch[n:]
	}
	return nil
}

// written returns how many bytes have left so far.
func (c *coalescer) written() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrote
}

// fail ends the connection. The first cause is kept.
func (c *coalescer) fail(err error) {
	c.refuse(err)
	_ = c.Conn.Close()
}

// refuse has everything fail with err from now on, if nothing has before.
func (c *coalescer) refuse(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.work.Broadcast()
	c.room.Broadcast()
	c.mu.Unlock()
}

// cause returns the first failure of writing, or nil.
func (c *coalescer) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// readCause returns the first failure of reading, or nil.
func (c *coalescer) readCause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readErr
}

// Close sends what is buffered, for closeGrace at most, and closes the
// connection. The library answers the broker's connection.close right before
// it calls Close, and that answer should get out.
func (c *coalescer) Close() error {
	c.mu.Lock()
	c.closed = true
	c.work.Broadcast()
	c.room.Broadcast()
	c.mu.Unlock()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-c.sent:
	case <-grace.C:
	}
	err := c.Conn.Close()
	<-c.sent
	return err
}
