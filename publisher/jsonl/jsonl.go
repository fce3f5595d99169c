// Package jsonl publishes records as lines of JSON, to standard output or to a
// file: for trying things, and for pipes.
//
// # Format
//
// One object a line. Every byte of a record can be had back from it:
//
//	topic         string
//	key           string; key_base64 when the key is not UTF-8; neither: no key
//	value         the value itself, byte for byte, when it is JSON on one line
//	text          the value as a string when it is other UTF-8
//	base64        the value when it is not UTF-8; none of the three: no value
//	headers       array of {name, value}, or {name, base64}, in order
//	id, type, content_type, time    strings, left out when empty; time in UTC, RFC 3339
package jsonl

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/outboxd/outboxd/publisher"
)

const (
	// windowRecords and windowBytes bound what waits behind a write.
	windowRecords = 1024
	windowBytes   = 4 << 20
)

// Config says where the lines go.
type Config struct {
	// Path is a file, to which lines are appended, or "-" for standard output.
	// A record of a regular file is acked when the file is synced, any other
	// when it is written.
	Path string
}

// ParseURL reads jsonl:- and jsonl:PATH.
func ParseURL(s string) (Config, error) {
	path, ok := strings.CutPrefix(s, "jsonl:")
	if !ok || path == "" {
		return Config{}, &publisher.ConfigError{Code: "config",
			Detail: fmt.Sprintf("%q names no destination: want jsonl:- for standard output or jsonl:/path/to/file", s)}
	}
	if path != "-" {
		path = strings.TrimPrefix(path, "//")
	}
	return Config{Path: path}, nil
}

// String is the URL of c.
func (c Config) String() string { return "jsonl:" + c.Path }

// Publisher is a publisher.Publisher to one file. All domains share one order.
type Publisher struct {
	file  *os.File
	sync  bool
	done  publisher.Done
	guard publisher.Guard

	wake chan struct{} // the queue got a record, or was ended
	room chan struct{} // the queue was taken, or ended
	idle chan struct{} // closed when the writer has ended

	mu     sync.Mutex
	queue  []*publisher.Record
	bytes  int
	broken error
	closed bool

	// outcomes is held while outcomes are reported, so that a record that
	// Close gives up under a write that hangs is not reported again when the
	// write comes back.
	outcomes  sync.Mutex
	writing   []*publisher.Record
	abandoned bool
	givenUp   int // records, by Close
}

var (
	_ publisher.Publisher = (*Publisher)(nil)
	_ publisher.Inspector = (*Publisher)(nil)
)

// Open opens the file of cfg, creating it if need be. A last line that a crash
// left unfinished is ended, not removed.
func Open(_ context.Context, cfg Config, done publisher.Done, guard publisher.Guard) (*Publisher, error) {
	file, err := openFile(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg, err)
	}
	p := &Publisher{
		file: file, done: done, guard: guard,
		wake: make(chan struct{}, 1),
		room: make(chan struct{}, 1),
		idle: make(chan struct{}),
	}
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() && cfg.Path != "-" {
		p.sync = true
		err = endLastLine(file, info)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("open %s: %w", cfg, err)
	}
	go p.run()
	return p, nil
}

func openFile(path string) (*os.File, error) {
	if path != "-" {
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	}
	// A broken pipe on descriptor 1 would end the process by SIGPIPE; on a
	// duplicate it is an error like any other. Close leaves descriptor 1 open.
	fd, err := syscall.Dup(syscall.Stdout)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "standard output"), nil
}

func endLastLine(file *os.File, info fs.FileInfo) error {
	if info.Size() == 0 {
		return nil
	}
	var last [1]byte
	if _, err := file.ReadAt(last[:], info.Size()-1); err != nil {
		return err
	}
	if last[0] == '\n' {
		return nil
	}
	_, err := file.Write([]byte{'\n'})
	return err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Publish implements publisher.Publisher.
func (p *Publisher) Publish(ctx context.Context, r *publisher.Record) error {
	size := r.Size()
	for {
		p.mu.Lock()
		err := p.declined()
		room := len(p.queue) == 0 || len(p.queue) < windowRecords && p.bytes+size <= windowBytes
		if err == nil && room {
			p.queue = append(p.queue, r)
			p.bytes += size
		}
		p.mu.Unlock()
		if err != nil {
			return err
		}
		if room {
			signal(p.wake)
			return nil
		}
		select {
		case <-p.room:
		case <-ctx.Done():
			return fmt.Errorf("wait for room: %w", context.Cause(ctx))
		}
	}
}

// Inspect implements publisher.Inspector: it knows every record that fails.
func (p *Publisher) Inspect(_ context.Context, r *publisher.Record) error { return check(r) }

// declined returns why nothing is taken, if so. The caller holds mu.
func (p *Publisher) declined() error {
	if p.closed {
		return publisher.ErrClosed
	}
	if p.broken != nil {
		return fmt.Errorf("publisher is broken: %w", p.broken)
	}
	return nil
}

// Close implements publisher.Publisher. On its way is what is being written.
func (p *Publisher) Close(ctx context.Context) error {
	p.shut()
	select {
	case <-p.idle:
	case <-ctx.Done():
		p.abandon()
	}
	// This ends a write that hangs, where the system lets it.
	_ = p.file.Close()
	p.outcomes.Lock()
	defer p.outcomes.Unlock()
	if p.givenUp > 0 {
		return fmt.Errorf("%w: %d records given up", publisher.ErrClosed, p.givenUp)
	}
	return nil
}

// shut takes nothing more and gives up what is queued.
func (p *Publisher) shut() {
	p.outcomes.Lock()
	defer p.outcomes.Unlock()
	p.mu.Lock()
	p.closed = true
	queue, err := p.queue, publisher.ErrClosed
	p.queue = nil
	if p.broken != nil {
		err = abortedError(p.broken)
	}
	p.mu.Unlock()
	signal(p.wake)
	signal(p.room)
	p.giveUp(queue, err)
}

// abandon gives up what is being written.
func (p *Publisher) abandon() {
	p.outcomes.Lock()
	defer p.outcomes.Unlock()
	p.abandoned = true
	p.giveUp(p.writing, fmt.Errorf("%w: %w", publisher.ErrClosed, publisher.ErrUnknown))
	p.writing = nil
}

// giveUp reports records that Close gives up. The caller holds outcomes.
func (p *Publisher) giveUp(records []*publisher.Record, err error) {
	p.givenUp += len(records)
	for _, r := range records {
		p.done(r, err)
	}
}
