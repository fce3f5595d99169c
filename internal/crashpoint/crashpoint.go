// Package crashpoint puts places into the program at which it kills itself:
// those where a crash hurts most. The code of the program knows nothing of it:
// an overlay of go build puts them in, and the working tree is never touched. A
// program that was built so has all of them; variables say which one kills.
package crashpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/outboxd/outboxd/internal/crashpoint/hook"
	"github.com/outboxd/outboxd/internal/overlay"
)

// Point is a place in the code.
type Point struct {
	Name string
	When string // what has been done there, and what has not

	file   string // slash-separated, from the repository's root
	before string // whole lines in front of which the process dies; they are there once
	only   string // a Go expression: only then the place counts. "": always
}

// Env arms p: who comes by for the hit-th time, from 1, stands still for as long
// as hold says, while the other goroutines go on. Then the process dies.
func (p Point) Env(hit int, hold time.Duration) []string {
	return []string{hook.NameVariable + "=" + p.Name, hook.HitVariable + "=" + strconv.Itoa(hit), hook.HoldVariable + "=" + hold.String()}
}

// Line is what a process says that dies there.
func (p Point) Line() string { return hook.Line(p.Name) }

const (
	sessionFile = "cmd/outboxd/internal/relay/session.go"
	outcomeFile = "cmd/outboxd/internal/relay/outcome.go"
	parkFile    = "cmd/outboxd/internal/relay/park.go"
	keeperFile  = "cdc/keeper.go"
)

// The points, in the order in which events come by.
var (
	Received = Point{Name: "received", When: "an event is received and not published",
		file: sessionFile, before: "	if err := s.pub.Publish(ctx, r); err != nil {\n"}
	Published = Point{Name: "published", When: "the broker has an event, and the queue does not know",
		file: outcomeFile, before: "		s.relay.Source.Ack(it.delivery.Token)\n"}
	Acked = Point{Name: "acked", When: "events are acked, and the witness is not written",
		file: keeperFile, before: "	if err := updateWitness(ctx, k.conn, &k.s.r.cfg, &w); err != nil {\n"}
	Witnessed = Point{Name: "witnessed", When: "the witness is committed, and its position not confirmed",
		file: keeperFile, before: "	if w.floor == k.floor.xmin {\n"}
	Refused = Point{Name: "refused", When: "the broker refused an event, and its parked row is not committed",
		file: parkFile, before: "	if err := p.lot.Park(p.ctx, events); err != nil {\n"}
	Parked = Point{Name: "parked", When: "the parked row is committed, and the event neither acked nor witnessed",
		file: parkFile, before: "	poke(p.room)\n"}
	Releasing = Point{Name: "releasing", When: "some of the parked events that are released are published, and their rows are there",
		file: outcomeFile, before: "		it.batch.published(it.delivery.Position)\n"}
	Draining = Point{Name: "draining", When: "a stop was asked for, and records are in flight",
		file: sessionFile, before: "	// The drain goes on after a stop was asked for: that is what it is for.\n",
		only: "ctx.Err() != nil && s.pages.events.Load() > 0"}
)

func all() []Point {
	return []Point{Received, Published, Acked, Witnessed, Refused, Parked, Releasing, Draining}
}

// glue is a file of every package that has a point.
const glue = `package %s

import "github.com/outboxd/outboxd/internal/crashpoint/hook"

func crashPoint(name string) { hook.Reached(name) }
`

// Overlay writes into dir what puts the points into the source at root, an
// absolute name, and returns what -overlay of go build is to be. Its error names
// a point whose place is not there any more, or is there twice.
func Overlay(root, dir string) (string, error) {
	texts := map[string]string{}
	for _, p := range all() {
		path := filepath.Join(root, filepath.FromSlash(p.file))
		text, seen := texts[path]
		if !seen {
			source, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(source)
			pkg := filepath.Dir(path)
			texts[filepath.Join(pkg, "crashpoint.go")] = fmt.Sprintf(glue, filepath.Base(pkg))
		}
		var err error
		if texts[path], err = p.insert(text); err != nil {
			return "", err
		}
	}
	return overlay.Write(dir, texts)
}

// insert puts the point into the text of its file.
func (p Point) insert(text string) (string, error) {
	at, places := overlay.Find(text, p.before)
	if places != 1 {
		return "", fmt.Errorf("crash point %s: %d places of %s have this text, want one:\n%s", p.Name, places, p.file, p.before)
	}
	call := fmt.Sprintf("crashPoint(%q)", p.Name)
	if p.only != "" {
		call = fmt.Sprintf("if %s {\n%s\n}", p.only, call)
	}
	return text[:at] + call + "\n" + text[at:], nil
}
