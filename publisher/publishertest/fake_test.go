package publishertest_test

import (
	"strings"
	"testing"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// refused marks the records that the script of the fake refuses, doomed those
// that it knows of.
const (
	refused = "refused"
	doomed  = "doomed"
)

func fakeBackend(t testing.TB) *publishertest.Target {
	return fakeTarget(fakeBroker(0))
}

// fakeBroker refuses some records, and knows it of others before they are sent.
func fakeBroker(window int) *publishertest.Fake {
	poison := func(r *publisher.Record, mark string) error {
		if strings.HasPrefix(string(r.Value), mark) {
			return &publisher.PoisonError{Reason: "bad_record", Detail: mark}
		}
		return nil
	}
	return &publishertest.Fake{
		Window: window,
		Script: func(r *publisher.Record) publishertest.Answer { return publishertest.Answer{Err: poison(r, refused)} },
		Limit:  func(r *publisher.Record) error { return poison(r, doomed) },
	}
}

func fakeTarget(fake *publishertest.Fake) *publishertest.Target {
	return &publishertest.Target{
		Topic:  "fake",
		Open:   fake.Open,
		Read:   fake.Stored,
		Refuse: func(r *publisher.Record) { r.Value = []byte(refused) },
		Doom:   func(r *publisher.Record) { r.Value = []byte(doomed) },
		Stall:  fake.Stall,
		Cut:    fake.Cut,
	}
}

func TestFakeConforms(t *testing.T) {
	publishertest.Run(t, fakeBackend)
}
