// Package admin is outboxd's HTTP listener: /livez, /readyz and /metrics. It
// answers from what the relay knows and never asks a dependency itself, so that
// a slow broker cannot make a probe slow. It changes nothing and shows no
// secret; profiling is not served.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Limits of one request. A scrape is the longest answer there is.
const (
	readTimeout     = 5 * time.Second
	writeTimeout    = 10 * time.Second
	idleTimeout     = time.Minute
	maxHeaderBytes  = 16 << 10
	shutdownTimeout = time.Second
)

// Health is what the probes ask. Its methods must return at once and be safe
// for concurrent use.
type Health interface {
	// Live returns an error when a loop of the process's own no longer turns. It
	// says nothing of dependencies: a restart does not mend those.
	Live() error
	// Ready reports of each pipeline whether events flow, or would flow from
	// the leader.
	Ready() []Readiness
}

// Readiness is what /readyz tells of one pipeline.
type Readiness struct {
	Pipeline string `json:"pipeline"`
	Ready    bool   `json:"ready"`
	// State is one word: "streaming", "standby", "held", "stopped", …
	State string `json:"state"`
	// Reason says why it is not ready, or what is to be seen to although it is,
	// for people. It holds no secret.
	Reason string `json:"reason,omitempty"`
	// Target is what an event waits for, if it is that.
	Target string `json:"target,omitempty"`
	// Since is when the state began.
	Since time.Time `json:"since"`
}

// ListenError says that the address cannot be listened on.
type ListenError struct {
	Addr string
	Err  error
}

func (e *ListenError) Error() string { return "listen on --metrics " + e.Addr + ": " + e.Err.Error() }
func (e *ListenError) Unwrap() error { return e.Err }

// Fix says what an operator does about it.
func (e *ListenError) Fix() string {
	if errors.Is(e.Err, syscall.EADDRINUSE) {
		return "another process has the port: choose another (--metrics 127.0.0.1:0 takes a free one) or --metrics off"
	}
	return "give --metrics an address of this host as host:port, or off"
}

// Listen opens the address (host:port; port 0 picks a free one). Its error is
// a *ListenError.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &ListenError{Addr: addr, Err: err}
	}
	return l, nil
}

// Serve answers on l until ctx ends, then closes l and lets requests under way
// finish for at most a second. It returns nil after ctx has ended.
func Serve(ctx context.Context, l net.Listener, health Health, metrics http.Handler) error {
	server := &http.Server{
		Handler:           Handler(health, metrics),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(bound) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}

// Handler is what Serve answers with.
func Handler(health Health, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		if err := health.Live(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeText(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		writeReadiness(w, r, health.Ready())
	})
	return mux
}

// writeReadiness answers with JSON when asked for it, else with a line for each
// pipeline. The process is ready when all of them are.
func writeReadiness(w http.ResponseWriter, r *http.Request, pipelines []Readiness) {
	ready := !slices.ContainsFunc(pipelines, func(p Readiness) bool { return !p.Ready })
	code := http.StatusOK
	if !ready {
		code = http.StatusServiceUnavailable
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		body, err := json.Marshal(struct {
			Ready     bool        `json:"ready"`
			Pipelines []Readiness `json:"pipelines"`
		}{ready, pipelines})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		setCommon(w)
		w.WriteHeader(code)
		_, _ = w.Write(append(body, '\n'))
		return
	}
	lines := make([]string, len(pipelines))
	for i, p := range pipelines {
		lines[i] = p.line()
	}
	writeText(w, code, strings.Join(lines, "\n"))
}

// line is a readiness for people.
func (p Readiness) line() string {
	line := p.Pipeline + ": " + p.State
	if p.Target != "" && !strings.Contains(p.Reason, p.Target) {
		line += fmt.Sprintf(" (%q)", p.Target)
	}
	if p.Reason != "" {
		line += ": " + strings.ReplaceAll(p.Reason, "\n", " ")
	}
	return line
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	setCommon(w)
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}

func setCommon(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
