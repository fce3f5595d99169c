package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/publisher"
)

func server(code int, reason string) *amqp.Error {
	return &amqp.Error{Code: code, Reason: reason, Server: true}
}

// reasonOf is the reason or code of an error, "" when it is worth trying again.
func reasonOf(err error) string {
	var held *publisher.HeldError
	var config *publisher.ConfigError
	switch {
	case errors.As(err, &held):
		return held.Reason
	case errors.As(err, &config):
		return config.Code
	}
	return ""
}

func TestOpenError(t *testing.T) {
	for _, c := range []struct {
		name      string
		err, read error
		reason    string
		text      string
	}{
		{"refused connection", errors.New("connection refused"), nil, "", "h:1: connection refused"},
		{"unknown authority", &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, nil, "config", "unknown authority"},
		{"server wants a certificate", io.EOF, &net.OpError{Op: "remote error", Err: errors.New("certificate required")}, "config", "certificate required"},
		{"server ends the handshake", &net.OpError{Op: "remote error", Err: errors.New("bad certificate")}, nil, "config", "bad certificate"},
		{"read fails", io.EOF, &net.OpError{Op: "read", Err: errors.New("connection reset")}, "", "connection reset"},
		{"no common mechanism", amqp.ErrSASL, nil, "auth", "SASL"},
		{"login refused", server(403, "ACCESS_REFUSED - Login was refused"), nil, "auth", "Login was refused"},
		{"reset while logging in", amqp.ErrCredentials, errors.New("connection reset"), "", "connection reset"},
		{"vhost", server(530, "NOT_ALLOWED - vhost shop not found"), nil, "missing_vhost", "shop not found"},
		{"permission in vhost", server(530, "NOT_ALLOWED - access to vhost 'shop' refused for user 'ann'"), nil, "not_authorized", "ann"},
		{"connection limit", server(530, "NOT_ALLOWED - connection limit (5) is reached"), nil, "", "limit (5)"},
		{"starting up", server(541, "INTERNAL_ERROR"), nil, "", "INTERNAL_ERROR"},
	} {
		err := openError("h:1", c.err, c.read)
		if got := reasonOf(err); got != c.reason {
			t.Errorf("%s: %v is %q, want %q", c.name, err, got, c.reason)
		}
		for _, want := range []string{"h:1", c.text} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not contain %q", c.name, err, want)
			}
		}
	}
}

func TestChannelError(t *testing.T) {
	for _, c := range []struct {
		err    *amqp.Error
		reason string
	}{
		{server(404, "NOT_FOUND - no exchange 'shop' in vhost '/'"), "missing_exchange"},
		{server(403, "ACCESS_REFUSED - write access to exchange 'shop' refused"), "not_authorized"},
		{server(406, "PRECONDITION_FAILED - whatever"), ""},
		{server(320, "CONNECTION_FORCED - broker forced connection closure"), ""},
		{&amqp.Error{Code: 501, Reason: "EOF"}, ""},
		{&amqp.Error{Code: 404, Reason: "not said by the broker"}, ""},
	} {
		err := channelError(c.err, "shop")
		if got := reasonOf(err); got != c.reason {
			t.Errorf("%v: %v is %q, want %q", c.err, err, got, c.reason)
		}
		if !strings.Contains(err.Error(), c.err.Reason) {
			t.Errorf("%q does not contain what the broker said", err)
		}
		if unknown := unknownError(err); !errors.Is(unknown, publisher.ErrUnknown) || reasonOf(unknown) != c.reason {
			t.Errorf("%v is not unknown with its cause", unknown)
		}
		if aborted := abortedError(err); !errors.Is(aborted, publisher.ErrAborted) || reasonOf(aborted) != "" || errors.Is(aborted, publisher.ErrUnknown) {
			t.Errorf("%v is not only aborted", aborted)
		}
	}
}

func TestSizeRefused(t *testing.T) {
	for _, c := range []struct {
		err         *amqp.Error
		size, limit int
		ok          bool
	}{
		{server(406, "PRECONDITION_FAILED - message size 200 is larger than configured max size 100"), 200, 100, true},
		{server(406, "PRECONDITION_FAILED - message size 200 is larger than max size 100"), 200, 100, true},
		{server(406, "PRECONDITION_FAILED - inequivalent arg"), 0, 0, false},
		{server(404, "message size 200 is larger than configured max size 100"), 0, 0, false},
		{&amqp.Error{Code: 406, Reason: "message size 200 is larger than configured max size 100"}, 0, 0, false},
		{server(406, "message size 99999999999999999999 is larger than max size 1"), 0, 0, false},
		{nil, 0, 0, false},
	} {
		size, limit, ok := sizeRefused(c.err)
		if ok != c.ok || ok && (size != c.size || limit != c.limit) {
			t.Errorf("%v: %d, %d, %t", c.err, size, limit, ok)
		}
	}
}

// TestPoisonIsOnlyTheCulprits: who is unknown because another record was too
// large must not be parked for it.
func TestPoisonIsOnlyTheCulprits(t *testing.T) {
	poison := tooLargeError(2, 1, server(406, "…"))
	for _, err := range []error{unknownError(poison), passedError(poison), abortedError(poison)} {
		var p *publisher.PoisonError
		if errors.As(err, &p) || !errors.Is(err, publisher.ErrAborted) {
			t.Errorf("%v: poison %t, want only given up", err, p != nil)
		}
	}
}

// The alert may come beside the failure of a write, before or behind it.
func TestTLSAlertIsFoundBesideOtherErrors(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}
	write := &net.OpError{Op: "write", Err: errors.New("connection reset by peer")}
	for _, err := range []error{alert, errors.Join(write, alert), errors.Join(alert, write), &net.OpError{Op: "read", Err: alert}} {
		if !tlsAlert(err) {
			t.Errorf("no alert in %v", err)
		}
	}
	for _, err := range []error{nil, write, io.EOF, errors.Join(write, io.EOF)} {
		if tlsAlert(err) {
			t.Errorf("an alert in %v", err)
		}
	}
}
