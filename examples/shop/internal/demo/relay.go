package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
)

// relay is an outboxd run that can be killed and started again.
type relay struct {
	invocation
	binary string
	failed func(error) // told of an end that nobody asked for

	mu      sync.Mutex // guards all below
	cmd     *exec.Cmd  // nil while none runs that should
	exited  chan struct{}
	metrics string   // URL, empty until it is known
	log     []string // its last lines
	current counts   // events that this life published
	before  counts   // those of the lives before
}

// counts are numbers of events by where they went.
type counts map[target]int

// target is a destination of a pipeline.
type target struct{ pipeline, destination string }

func newRelay(i invocation, binary string, failed func(error)) *relay {
	return &relay{invocation: i, binary: binary, failed: failed, before: counts{}}
}

// logLines is how much of a relay's log is kept for the error that ends it.
const logLines = 20

// start begins the relay's next life.
func (r *relay) start() error {
	cmd := exec.Command(r.binary, append([]string{"run", "--metrics", "127.0.0.1:0"}, r.run...)...)
	cmd.Env = environment()
	// The pipe is also what ends the relay when we are killed: PostgreSQL goes
	// then, the relay wants to tell that, and SIGPIPE is the answer.
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("start outboxd: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start outboxd: %w", err)
	}
	exited := make(chan struct{})
	r.mu.Lock()
	r.cmd, r.exited, r.metrics, r.log = cmd, exited, "", nil
	r.mu.Unlock()
	go func() {
		defer close(exited)
		r.read(stderr)
		err := cmd.Wait()
		r.ended(cmd, err)
	}()
	return nil
}

// listening finds the port that --metrics 127.0.0.1:0 picked.
var listening = regexp.MustCompile(`listening.*(http://127\.0\.0\.1:\d+/metrics)`)

// read reads the log of one life to its end.
func (r *relay) read(log io.Reader) {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		r.mu.Lock()
		r.log = append(r.log, lines.Text())
		r.log = r.log[max(0, len(r.log)-logLines):]
		if m := listening.FindStringSubmatch(lines.Text()); m != nil && r.metrics == "" {
			r.metrics = m[1]
		}
		r.mu.Unlock()
	}
}

// ended reports the end of a process, unless it was asked for: then leave has
// taken the process out of r.
func (r *relay) ended(cmd *exec.Cmd, err error) {
	r.mu.Lock()
	unasked, log := r.cmd == cmd, strings.Join(r.log, "\n")
	r.mu.Unlock()
	if unasked {
		r.failed(fmt.Errorf("outboxd run %s ended (%v):\n%s", r.title, err, log))
	}
}

// leave takes the process out of r, as one that is about to end.
func (r *relay) leave() (*exec.Cmd, chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	cmd := r.cmd
	r.cmd = nil
	for target, n := range r.current {
		r.before[target] += n
	}
	r.current = nil
	return cmd, r.exited
}

// kill is kill -9.
func (r *relay) kill() {
	r.ask() // nobody can afterwards
	cmd, exited := r.leave()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill() // fails only when it has ended
	<-exited
}

// stop is SIGTERM: the relay waits for the broker's acks, confirms, and exits
// with 0. It is killed when ctx ends before that.
func (r *relay) stop(ctx context.Context) error {
	r.ask()
	cmd, exited := r.leave()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	select {
	case <-exited:
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-exited
	}
	if cmd.ProcessState.ExitCode() != 0 {
		return fmt.Errorf("outboxd run %s did not end in order on SIGTERM: %s", r.title, cmd.ProcessState)
	}
	return nil
}

// relayState is what people see of a pipeline.
type relayState struct {
	name      string
	pid       int            // of the relay; 0: none runs
	published map[string]int // by destination, in all lives
}

// states asks the relay how far each pipeline is.
func (r *relay) states() []relayState {
	r.ask()
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]relayState, len(r.pipelines))
	for i, name := range r.pipelines {
		list[i] = relayState{name: name, published: map[string]int{}}
		for _, life := range [...]counts{r.before, r.current} {
			for target, n := range life {
				if target.pipeline == name {
					list[i].published[target.destination] += n
				}
			}
		}
		if r.cmd != nil {
			list[i].pid = r.cmd.Process.Pid
		}
	}
	return list
}
