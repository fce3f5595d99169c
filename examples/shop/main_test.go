package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/examples/shop/internal/demo"
)

// runMain makes the test's executable the program itself.
const runMain = "OUTBOXD_TEST_SHOP_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program is a running demo. Its temporary files are in dir, and so is the name
// of dir in the environment or the arguments of everything that it starts.
type program struct {
	cmd    *exec.Cmd
	dir    string
	stdout io.Reader
	stderr bytes.Buffer
}

func start(t *testing.T, args ...string) *program {
	t.Helper()
	// Short, because of sockets, and open, because services may run as nobody.
	dir, err := os.MkdirTemp("/tmp", "shop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: exec.Command(os.Args[0], args...), dir: dir}
	p.cmd.Env = append(os.Environ(), runMain+"=1", "TMPDIR="+dir)
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = stdout
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// wait reads what the demo says to its end, and returns it with the exit code.
func (p *program) wait(t *testing.T) (said string, code int) {
	t.Helper()
	out, err := io.ReadAll(p.stdout)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), p.cmd.ProcessState.ExitCode()
}

// until reads until the demo says text.
func (p *program) until(t *testing.T, text string) {
	t.Helper()
	lines := bufio.NewReader(p.stdout)
	p.stdout = lines
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("before %q: %v\n%s", text, err, p.stderr.String())
		}
		if strings.Contains(line, text) {
			return
		}
	}
}

// children are the processes that the demo has started, directly or not, and
// that still run.
func (p *program) children(t *testing.T) []string {
	t.Helper()
	var list []string
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(processes) == 0 {
		t.Fatalf("no /proc to look at: %v", err)
	}
	for _, process := range processes {
		if process == fmt.Sprintf("/proc/%d", p.cmd.Process.Pid) {
			continue
		}
		args, _ := os.ReadFile(process + "/cmdline") // it may have ended meanwhile
		env, _ := os.ReadFile(process + "/environ")
		if len(args) > 0 && (bytes.Contains(args, []byte(p.dir)) || bytes.Contains(env, []byte(p.dir))) {
			list = append(list, process+" "+string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		}
	}
	return list
}

// wantNothingLeft waits for the last process and the last file to go.
func (p *program) wantNothingLeft(t *testing.T, within time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(within); ; <-time.After(50 * time.Millisecond) {
		files, err := filepath.Glob(p.dir + "/*")
		if err != nil {
			t.Fatal(err)
		}
		left := append(p.children(t), files...)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind after %s:\n%s", within, strings.Join(left, "\n"))
		}
	}
}

var sum = regexp.MustCompile(`(?m)^lost 0, invented 0, out of order 0, duplicates (\d+)$`)

// wantClean checks all that the demo promises to say, and that something
// happened at all.
func wantClean(t *testing.T, p *program, arguments string) (said string) {
	t.Helper()
	said, code := p.wait(t)
	if code != 0 || p.stderr.Len() > 0 && !strings.HasPrefix(p.stderr.String(), "devenv: ") {
		t.Errorf("exit code %d\n%s", code, p.stderr.String())
	}
	for _, want := range []string{
		`outboxd setup ` + arguments, `outboxd run ` + arguments, `kill -9: outboxd run ` + arguments, `SIGTERM: outboxd run ` + arguments,
		`closed: placed [1-9][0-9]+, refused [1-9]`,
		`\nshop +[1-9][0-9]* +[1-9][0-9]* +0 +0 +0 +\d+\n`,
		`\nreservation +[1-9][0-9]* +[1-9][0-9]* +0 +0 +0 +\d+\n`,
		`\naudit +[1-9][0-9]+ +[1-9][0-9]+ +0 +0 +0 +\d+\n`,
		`\norders without event 0, events without order 0, effects missing or double 0\n`,
		`[1-9]\d* orders were refused`,
		`What to try next:`,
	} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("want %q", want)
		}
	}
	if !sum.MatchString(said) {
		t.Errorf("want %q", sum)
	}
	p.wantNothingLeft(t, 0)
	if t.Failed() {
		t.Logf("the demo said:\n%s\n%s", said, p.stderr.String())
	}
	return said
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	said := wantClean(t, start(t, "-plain", "-duration", "4s"), "--pipeline kafka")
	if strings.Contains(said, "\nnotification ") || !strings.Contains(said, "BROKERS=real") {
		t.Errorf("want no notification, and how to get it:\n%s", said)
	}
}

// Ctrl-C while everything runs: a terminal sends the signal to the whole group.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	p := start(t, "-duration", "60s")
	p.until(t, "1s of 1m0s")
	if len(p.children(t)) == 0 {
		t.Error("the test finds no process while all of them run")
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	said, code := p.wait(t)
	if code != interrupted || !strings.Contains(p.stderr.String(), "nothing is left behind") {
		t.Errorf("exit code %d, want %d\n%s\n%s", code, interrupted, said, p.stderr.String())
	}
	p.wantNothingLeft(t, 0)
}

// kill -9 of the demo itself: what it started must see that by itself.
func TestKilled(t *testing.T) {
	t.Parallel()
	p := start(t, "-duration", "60s")
	p.until(t, "1s of 1m0s")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	// The binary stays: there was nobody to remove it.
	built, err := filepath.Glob(p.dir + "/outboxd-demo-*")
	if err != nil || len(built) != 1 {
		t.Fatalf("built %v, %v", built, err)
	}
	if err := os.RemoveAll(built[0]); err != nil {
		t.Fatal(err)
	}
	p.wantNothingLeft(t, 20*time.Second)
}

// A relay that ends by itself ends the demo, with its last words.
func TestRelayFails(t *testing.T) {
	t.Parallel()
	p := start(t, "-duration", "60s", "-plain")
	p.until(t, "1s of 1m0s")
	relays := regexp.MustCompile(`/proc/(\d+) \S*/outboxd run`).FindStringSubmatch(strings.Join(p.children(t), "\n"))
	if relays == nil {
		t.Fatal("no relay runs")
	}
	pid, err := strconv.Atoi(relays[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_, code := p.wait(t)
	if code != failed || !strings.Contains(p.stderr.String(), "outboxd run --pipeline kafka ended (signal: killed)") {
		t.Errorf("exit code %d, want %d\n%s", code, failed, p.stderr.String())
	}
	p.wantNothingLeft(t, 0)
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		want demo.Options
		says string
	}{
		{"", demo.Options{Duration: 20 * time.Second, Rate: 50}, ""},
		{"-brokers real -duration 1m -rate 7 -plain", demo.Options{Real: true, Duration: time.Minute, Rate: 7, Plain: true}, ""},
		{"-brokers embedded", demo.Options{Duration: 20 * time.Second, Rate: 50}, ""},
		{"-brokers kafka", demo.Options{}, `-brokers "kafka": want embedded or real`},
		{"-duration 1ms", demo.Options{}, "want 1s or more"},
		{"-rate 0", demo.Options{}, "-rate 0: want 1 to 2000"},
		{"-rate 2001", demo.Options{}, "-rate 2001: want 1 to 2000"},
		{"-speed 7", demo.Options{}, "not defined: -speed"},
		{"real", demo.Options{}, `unknown argument "real"`},
	} {
		var said strings.Builder
		got, err := parse(strings.Fields(c.args), &said)
		if c.says == "" && (err != nil || got != c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.args, got, err, c.want)
		}
		if c.says != "" && (err == nil || !strings.Contains(said.String(), c.says)) {
			t.Errorf("%q: %v, said %q; want %q", c.args, err, said.String(), c.says)
		}
	}
}
