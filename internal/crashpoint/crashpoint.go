// Package crashpoint builds a program that kills itself where a crash would
// hurt most. The code of the program knows nothing of it: an overlay of go build
// puts the points in, and the working tree is never touched.
package crashpoint

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Point is a place in the code.
type Point struct {
	Name string
	// When says what has been done there and what has not.
	When string
	// Often: a relay under load comes by hundreds of times a second. Others are
	// passed once a second or less.
	Often bool

	file   string // slash-separated, from the repository's root
	before string // the lines in front of which the process dies; they are there once
}

const (
	relayDir = "cmd/outboxd/internal/relay/"
	keeper   = "cdc/keeper.go"
)

// All returns the points, in the order in which an event passes them.
func All() []Point {
	return []Point{
		{Name: "received", When: "an event was read, and is not published", Often: true,
			file: relayDir + "session.go", before: "	r, err := s.record(bad)\n"},
		{Name: "published", When: "the publisher has an event, no ack has come", Often: true,
			file: relayDir + "session.go", before: "	return nil\n}\n\n// waits notes an event that no publisher took"},
		{Name: "acked", When: "the broker has an event, the queue does not know", Often: true,
			file: relayDir + "outcome.go", before: "		s.relay.Source.Ack(it.delivery.Token)\n"},
		{Name: "unwitnessed", When: "events are acked, the witness is not written",
			file: keeper, before: "	if err := updateWitness(ctx, k.conn, &k.s.r.cfg, &w); err != nil {\n"},
		{Name: "witnessed", When: "the witness is written, its position is not confirmed",
			file: keeper, before: "	if w.floor == k.floor.xmin {\n"},
		{Name: "refused", When: "the broker refused an event, and it is not parked",
			file: relayDir + "park.go", before: "	if err := p.lot.Park(p.ctx, events); err != nil {\n"},
		{Name: "parked", When: "an event is parked, and not acked",
			file: relayDir + "park.go", before: "	poke(p.room)\n"},
		{Name: "released", When: "parked events are published, their rows are there",
			file: relayDir + "release.go", before: "	change, err := p.lot.Settle(p.ctx, published, refused)\n"},
		{Name: "settled", When: "the rows of published events are gone, their keys still count as parked",
			file: relayDir + "release.go", before: "	p.remove(change)\n"},
		{Name: "draining", When: "a stop was asked for, events are on their way",
			file: relayDir + "session.go", before: "	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.relay.DrainTimeout, DefaultDrainTimeout))\n"},
		{Name: "drained", When: "everything is acked after a stop, the last witness is not written",
			file: relayDir + "session.go", before: "	s.ended.Store(true)\n"},
	}
}

// The variables that arm a program built with Overlay.
const (
	nameVariable = "CRASH_AT"
	hitVariable  = "CRASH_HIT"
)

// Env arms the point: the process dies when it comes by for the hit-th time.
func (p Point) Env(hit int) []string {
	return []string{nameVariable + "=" + p.Name, hitVariable + "=" + strconv.Itoa(hit)}
}

// source is a file of every package that has a point.
const source = `package %s

import (
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
)

var crashHits atomic.Int64

func crashPoint(name string) {
	if os.Getenv("` + nameVariable + `") != name {
		return
	}
	if hit, _ := strconv.ParseInt(os.Getenv("` + hitVariable + `"), 10, 64); crashHits.Add(1) >= hit {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // nothing more is done while the signal is on its way
	}
}
`

// Overlay writes into dir what `go build -overlay` wants to put the points into
// the source at root, and returns the name of the file to give it.
func Overlay(root, dir string) (string, error) {
	changed := map[string]string{}
	for _, p := range All() {
		path := filepath.Join(root, filepath.FromSlash(p.file))
		if changed[path] == "" {
			text, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			changed[path] = string(text)
			pkg := filepath.Base(filepath.Dir(path))
			changed[filepath.Join(filepath.Dir(path), "crashpoint.go")] = fmt.Sprintf(source, pkg)
		}
		if n := strings.Count(changed[path], "\n"+p.before); n != 1 {
			return "", fmt.Errorf("crash point %s: %s has %d places of that text, want one:\n%s", p.Name, p.file, n, p.before)
		}
		changed[path] = strings.Replace(changed[path], "\n"+p.before, fmt.Sprintf("\n\tcrashPoint(%q)\n%s", p.Name, p.before), 1)
	}
	replace := map[string]string{}
	for path, text := range changed {
		file := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[path] = file
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, overlay, 0o600)
}
