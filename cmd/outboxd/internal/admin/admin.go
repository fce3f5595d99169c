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
	// Live returns an error when the process's own loop no longer turns. It
	// says nothing of dependencies: a restart does not mend those.
	Live() error
	// Ready reports whether events flow, or would flow from the leader.
	Ready() Readiness
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready bool `json:"ready"`
	// State is one word: "streaming", "standby", "held", …
	State string `json:"state"`
	// Reason says why it is not ready, for people. It holds no secret.
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

// writeReadiness answers with JSON when asked for it, else with one line.
func writeReadiness(w http.ResponseWriter, r *http.Request, ready Readiness) {
	code := http.StatusOK
	if !ready.Ready {
		code = http.StatusServiceUnavailable
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		body, err := json.Marshal(ready)
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
	line := ready.State
	if ready.Target != "" && !strings.Contains(ready.Reason, ready.Target) {
		line += fmt.Sprintf(" (%q)", ready.Target)
	}
	if ready.Reason != "" {
		line += ": " + ready.Reason
	}
	writeText(w, code, line)
}

func writeText(w http.ResponseWriter, code int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	setCommon(w)
	w.WriteHeader(code)
	_, _ = w.Write([]byte(line + "\n"))
}

func setCommon(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
