package jsonl_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/jsonl"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// line is the documented format, read with nothing but encoding/json.
type line struct {
	Topic     string
	Key       *string
	KeyBase64 *string `json:"key_base64"`
	Value     json.RawMessage
	Text      *string
	Base64    *string
	Headers   []struct {
		Name   string
		Value  *string
		Base64 *string
	}
	ID, Type    string
	ContentType string `json:"content_type"`
	Time        time.Time
}

func parse(t testing.TB, s []byte) publisher.Record {
	t.Helper()
	var l line
	d := json.NewDecoder(bytes.NewReader(s))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		t.Fatalf("line %.80q: %v", s, err)
	}
	r := publisher.Record{
		Topic: l.Topic, ID: l.ID, Type: l.Type, ContentType: l.ContentType, Time: l.Time,
		Key: pick(t, l.Key, l.KeyBase64),
	}
	if r.Value = pick(t, l.Text, l.Base64); r.Value == nil {
		r.Value = l.Value
	}
	for _, h := range l.Headers {
		r.Headers = append(r.Headers, publisher.Header{Name: h.Name, Value: pick(t, h.Value, h.Base64)})
	}
	return r
}

func pick(t testing.TB, text, encoded *string) []byte {
	t.Helper()
	switch {
	case text != nil:
		return []byte(*text)
	case encoded != nil:
		b, err := base64.StdEncoding.DecodeString(*encoded)
		if err != nil {
			t.Fatalf("base64: %v", err)
		}
		return b
	}
	return nil
}

// refuse names a header so that JSON cannot hold it.
func refuse(r *publisher.Record) {
	r.Headers = append(r.Headers, publisher.Header{Name: "\xff", Value: []byte("x")})
}

func open(t testing.TB, path string, done publisher.Done) *jsonl.Publisher {
	t.Helper()
	p, err := jsonl.Open(context.Background(), jsonl.Config{Path: path}, done, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// publishOne opens, publishes r, closes, and returns the outcome.
func publishOne(t testing.TB, path string, r *publisher.Record) error {
	t.Helper()
	outcome := make(chan error, 1)
	p := open(t, path, func(_ *publisher.Record, err error) { outcome <- err })
	if err := p.Publish(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	err := <-outcome
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return err
}

func readLines(t testing.TB, path string) []publisher.Record {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var records []publisher.Record
	for s := range bytes.Lines(b) {
		records = append(records, parse(t, s))
	}
	return records
}

func TestConformanceFile(t *testing.T) {
	publishertest.Run(t, func(t testing.TB) *publishertest.Target {
		cfg := jsonl.Config{Path: filepath.Join(t.TempDir(), "out.jsonl")}
		return &publishertest.Target{
			Topic: "events",
			Open: func(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
				return jsonl.Open(context.Background(), cfg, done, guard)
			},
			Read:   func() []publisher.Record { return readLines(t, cfg.Path) },
			Refuse: refuse,
			Doom:   refuse,
		}
	})
}

// pipe is a named pipe with a reader that can pause.
type pipe struct {
	t    testing.TB
	path string
	file *os.File

	flow    sync.Mutex // held while the reader pauses
	mu      sync.Mutex
	records []publisher.Record
	marked  chan struct{}
}

const mark = "-- mark --\n"

func newPipe(t testing.TB) *pipe {
	t.Helper()
	p := &pipe{t: t, path: filepath.Join(t.TempDir(), "pipe"), marked: make(chan struct{}, 1)}
	if err := syscall.Mkfifo(p.path, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.file, err = os.OpenFile(p.path, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.read()
	}()
	t.Cleanup(func() {
		_ = p.file.Close()
		<-ended
	})
	return p
}

func (p *pipe) read() {
	in := bufio.NewReader(p.file)
	for {
		s, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		p.flow.Lock()
		p.mu.Lock()
		switch {
		case string(s) == mark:
			p.marked <- struct{}{}
		case json.Valid(s): // an abandoned write may leave half a line
			p.records = append(p.records, parse(p.t, s))
		}
		p.mu.Unlock()
		p.flow.Unlock()
	}
}

func (p *pipe) stall() func() {
	p.flow.Lock()
	return sync.OnceFunc(p.flow.Unlock)
}

func (p *pipe) all() []publisher.Record {
	if _, err := p.file.WriteString("\n" + mark); err != nil {
		p.t.Fatal(err)
	}
	<-p.marked
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.records
}

func TestConformancePipe(t *testing.T) {
	publishertest.Run(t, func(t testing.TB) *publishertest.Target {
		p := newPipe(t)
		return &publishertest.Target{
			Topic: "events",
			Open: func(done publisher.Done, guard publisher.Guard) (publisher.Publisher, error) {
				return jsonl.Open(context.Background(), jsonl.Config{Path: p.path}, done, guard)
			},
			Read:   p.all,
			Refuse: refuse,
			Doom:   refuse,
			Stall:  p.stall,
		}
	})
}

func TestFormat(t *testing.T) {
	when := time.Date(2026, 5, 4, 3, 2, 1, 5000, time.FixedZone("", 3600))
	for _, tt := range []struct {
		name string
		r    publisher.Record
		want string
	}{
		{"nothing", publisher.Record{Topic: "t"}, `{"topic":"t"}`},
		{"all", publisher.Record{Topic: "t", Key: []byte("k"), Value: []byte(`{"a":1.50, "a":2}`),
			Headers: []publisher.Header{{Name: "h", Value: []byte("<1>")}, {Name: "h", Value: []byte{0xff}}},
			ID:      "i", Type: "order.placed", ContentType: "application/json", Time: when},
			`{"topic":"t","key":"k","value":{"a":1.50, "a":2},"headers":[{"name":"h","value":"<1>"},{"name":"h","base64":"/w=="}],` +
				`"id":"i","type":"order.placed","content_type":"application/json","time":"2026-05-04T02:02:01.000005Z"}`},
		{"text", publisher.Record{Topic: "t", Value: []byte("it's \"5\"")}, `{"topic":"t","text":"it's \"5\""}`},
		{"json string", publisher.Record{Topic: "t", Value: []byte(`"x"`)}, `{"topic":"t","value":"x"}`},
		{"json null", publisher.Record{Topic: "t", Value: []byte(`null`)}, `{"topic":"t","value":null}`},
		{"json with space around", publisher.Record{Topic: "t", Value: []byte(` 1`)}, `{"topic":"t","text":" 1"}`},
		{"json on two lines", publisher.Record{Topic: "t", Value: []byte("[1,\n2]")}, `{"topic":"t","text":"[1,\n2]"}`},
		{"empty", publisher.Record{Topic: "t", Key: []byte{}, Value: []byte{}}, `{"topic":"t","key":"","text":""}`},
		{"bytes", publisher.Record{Topic: "t", Key: []byte{0xfe}, Value: []byte{0xff, 0}}, `{"topic":"t","key_base64":"/g==","base64":"/wA="}`},
		{"invalid UTF-8 in JSON", publisher.Record{Topic: "t", Value: []byte("\"\xff\"")}, `{"topic":"t","base64":"Iv8i"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			if err := publishOne(t, path, &tt.r); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != tt.want+"\n" {
				t.Errorf("wrote %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func FuzzFormat(f *testing.F) {
	f.Add("topic", []byte("key"), []byte(`{"a":1}`), "name", []byte("value"))
	f.Add("t", []byte(nil), []byte(" 1 "), "n", []byte{0xff})
	path := filepath.Join(f.TempDir(), "out")
	f.Fuzz(func(t *testing.T, topic string, key, value []byte, name string, header []byte) {
		r := &publisher.Record{Topic: topic, Key: key, Value: value, Headers: []publisher.Header{{Name: name, Value: header}}}
		if err := os.Truncate(path, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		outcome := publishOne(t, path, r)
		if legal := utf8.ValidString(topic) && utf8.ValidString(name); legal != (outcome == nil) {
			t.Fatalf("topic %q, header %q: outcome %v", topic, name, outcome)
		}
		if outcome != nil {
			return
		}
		got := readLines(t, path)
		if len(got) != 1 || got[0].Topic != topic || !same(got[0].Key, key) || !same(got[0].Value, value) ||
			got[0].Headers[0].Name != name || !bytes.Equal(got[0].Headers[0].Value, header) {
			t.Fatalf("wrote %+v, read %+v", *r, got)
		}
	})
}

func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func TestFailures(t *testing.T) {
	outcome := make(chan error, 2)
	done := func(_ *publisher.Record, err error) { outcome <- err }
	t.Run("full disk", func(t *testing.T) {
		p := open(t, "/dev/full", done)
		r := &publisher.Record{Topic: "t"}
		if err := p.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := <-outcome; !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, publisher.ErrUnknown) {
			t.Errorf("outcome %v, want no space left, unknown", err)
		}
		if err := p.Publish(t.Context(), r); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("publish after a failure: %v, want the failure", err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Run("broken pipe", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "pipe")
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		writer, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = reader.Close()
		defer writer.Close()
		old, err := syscall.Dup(syscall.Stdout)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(old)
		if err := syscall.Dup3(int(writer.Fd()), syscall.Stdout, 0); err != nil {
			t.Fatal(err)
		}
		p := open(t, "-", done)
		if err := syscall.Dup3(old, syscall.Stdout, 0); err != nil {
			t.Fatal(err)
		}
		if err := p.Publish(t.Context(), &publisher.Record{Topic: "t"}); err != nil {
			t.Fatal(err)
		}
		if err := <-outcome; !errors.Is(err, syscall.EPIPE) {
			t.Errorf("outcome %v, want broken pipe", err)
		}
		_ = p.Close(t.Context())
	})
	t.Run("no directory", func(t *testing.T) {
		_, err := jsonl.Open(t.Context(), jsonl.Config{Path: filepath.Join(t.TempDir(), "no", "out")}, done, nil)
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "open jsonl:") {
			t.Errorf("open: %v", err)
		}
	})
}

// TestUnfinishedLine starts behind a line that a crash cut.
func TestUnfinishedLine(t *testing.T) {
	for _, before := range []string{"", "{}\n", `{"topic":"t","va`} {
		path := filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := publishOne(t, path, &publisher.Record{Topic: "t"}); err != nil {
			t.Fatal(err)
		}
		if before != "" {
			before = strings.TrimSuffix(before, "\n") + "\n"
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != before+`{"topic":"t"}`+"\n" {
			t.Errorf("after %q the file holds %q, %v", before, got, err)
		}
	}
}

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"jsonl:-": "-", "jsonl:/var/out": "/var/out", "jsonl:///var/out": "/var/out", "jsonl:out": "out",
	} {
		if c, err := jsonl.ParseURL(in); err != nil || c.Path != want {
			t.Errorf("ParseURL(%q) = %q, %v, want %q", in, c.Path, err, want)
		}
	}
	for _, in := range []string{"", "jsonl:", "json:-"} {
		var config *publisher.ConfigError
		if _, err := jsonl.ParseURL(in); !errors.As(err, &config) {
			t.Errorf("ParseURL(%q): %v, want a ConfigError", in, err)
		}
	}
	if got := fmt.Sprint(jsonl.Config{Path: "/out"}); got != "jsonl:/out" {
		t.Errorf("String() = %s", got)
	}
}
