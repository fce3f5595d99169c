package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/admin"
)

type health struct {
	live  error
	ready []admin.Readiness
}

func (h health) Live() error              { return h.live }
func (h health) Ready() []admin.Readiness { return h.ready }

func metricsStub() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "outboxd_x 1\n") })
}

func get(h admin.Health, method, path, accept string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, nil)
	r.Header.Set("Accept", accept)
	admin.Handler(h, metricsStub()).ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	flows := admin.Readiness{Pipeline: "b", Ready: true, State: "streaming"}
	held := admin.Readiness{Pipeline: "a", State: "held", Reason: "missing_topic: create it", Target: "orders"}
	tests := []struct {
		name, method, path string
		health             health
		code               int
		body               string
	}{
		{"live", "GET", "/livez", health{}, 200, "ok\n"},
		{"live while held", "GET", "/livez", health{ready: []admin.Readiness{held}}, 200, "ok\n"},
		{"dead", "GET", "/livez", health{live: errors.New("no tick for 20s")}, 503, "no tick for 20s\n"},
		{"ready", "GET", "/readyz", health{ready: []admin.Readiness{flows}}, 200, "b: streaming\n"},
		{"held", "GET", "/readyz", health{ready: []admin.Readiness{held}}, 503, "a: held (\"orders\"): missing_topic: create it\n"},
		{"one of two is held", "GET", "/readyz", health{ready: []admin.Readiness{held, flows}}, 503, "a: held (\"orders\"): missing_topic: create it\nb: streaming\n"},
		{"metrics", "GET", "/metrics", health{}, 200, "outboxd_x 1\n"},
		{"unknown", "GET", "/debug/pprof/", health{}, 404, ""},
		{"reads only", "POST", "/readyz", health{}, 405, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := get(tt.health, tt.method, tt.path, "*/*")
			if w.Code != tt.code || tt.body != "" && w.Body.String() != tt.body {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, tt.code, tt.body)
			}
		})
	}
}

func TestReadinessJSON(t *testing.T) {
	want := []admin.Readiness{
		{Pipeline: "a", State: "held", Reason: "x", Target: `"quoted"`, Since: time.Unix(1700000000, 0).UTC()},
		{Pipeline: "b", State: "streaming", Ready: true, Since: time.Unix(1700000000, 0).UTC()},
	}
	for ready, code := range map[bool]int{false: 503, true: 200} {
		want[0].Ready = ready
		w := get(health{ready: want}, "GET", "/readyz", "application/json")
		var got struct {
			Ready     bool
			Pipelines []admin.Readiness
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if w.Code != code || got.Ready != ready || !slices.Equal(got.Pipelines, want) || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%d %+v, want %d %+v", w.Code, got, code, want)
		}
	}
}

func TestListenTaken(t *testing.T) {
	first, err := admin.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, err = admin.Listen(t.Context(), first.Addr().String())
	var listen *admin.ListenError
	if !errors.As(err, &listen) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("listen on a taken port: %v", err)
	}
	if !strings.Contains(err.Error(), first.Addr().String()) || !strings.Contains(listen.Fix(), "127.0.0.1:0") {
		t.Errorf("error %q, fix %q: want the address, and the way out", err, listen.Fix())
	}
	if _, err = admin.Listen(t.Context(), "nonsense"); !errors.As(err, &listen) || strings.Contains(listen.Fix(), "another process") {
		t.Errorf("listen on nonsense: %v", err)
	}
}

// TestServe: after its context ends the port is free and Serve has returned.
func TestServe(t *testing.T) {
	l, err := admin.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- admin.Serve(ctx, l, health{}, metricsStub()) }()

	response, err := http.Get("http://" + l.Addr().String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 {
		t.Errorf("livez: %s", response.Status)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	again, err := net.Listen("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("the port is not free after Serve: %v", err)
	}
	again.Close()
}

func TestServeReportsBrokenListener(t *testing.T) {
	l, err := admin.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := admin.Serve(t.Context(), l, health{}, metricsStub()); err == nil {
		t.Error("no error from a closed listener")
	}
}
