package publisher_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/outboxd/outboxd/publisher"
)

func TestErrors(t *testing.T) {
	broker := errors.New("broker says no")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&publisher.PoisonError{Reason: "too_large", Detail: "2 MB of 1 MB"}, "too_large: 2 MB of 1 MB"},
		{&publisher.PoisonError{Reason: "too_large", Detail: "2 MB of 1 MB", Err: broker}, "too_large: 2 MB of 1 MB: broker says no"},
		{&publisher.HeldError{Reason: "missing_topic", Target: "orders"}, `missing_topic "orders"`},
		{&publisher.HeldError{Reason: "missing_topic", Target: "orders", Fix: "create it", Err: broker},
			`missing_topic "orders": broker says no (create it)`},
		{&publisher.ConfigError{Code: "config", Detail: "no broker"}, "no broker"},
		{&publisher.ConfigError{Code: "auth", Detail: "login", Err: broker}, "login: broker says no"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%#v reads %q, want %q", tt.err, got, tt.want)
		}
		wrapped := fmt.Errorf("publish: %w", tt.err)
		if has := errors.Unwrap(tt.err) != nil; errors.Is(wrapped, broker) != has {
			t.Errorf("%#v hides the broker's error", tt.err)
		}
	}
}

func TestSize(t *testing.T) {
	r := &publisher.Record{
		Topic: "12", Key: []byte("345"), Value: []byte("6789"), ID: "not counted",
		Headers: []publisher.Header{{Name: "0", Value: []byte("12")}, {Name: "345"}},
	}
	if got := r.Size(); got != 2+3+4+3+3 {
		t.Errorf("Size() = %d, want 15", got)
	}
	if got := (&publisher.Record{}).Size(); got != 0 {
		t.Errorf("Size() of nothing = %d", got)
	}
}
