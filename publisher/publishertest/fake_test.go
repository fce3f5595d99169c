package publishertest_test

import (
	"strings"
	"testing"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/publishertest"
)

// refused marks the records that the script of the fake refuses.
const refused = "refused"

func fakeBackend(t testing.TB) *publishertest.Target {
	fake := &publishertest.Fake{Script: func(r *publisher.Record) publishertest.Answer {
		if strings.HasPrefix(string(r.Value), refused) {
			return publishertest.Answer{Err: &publisher.PoisonError{Reason: "bad_record", Detail: "refused by script"}}
		}
		return publishertest.Answer{}
	}}
	return fakeTarget(fake)
}

func fakeTarget(fake *publishertest.Fake) *publishertest.Target {
	return &publishertest.Target{
		Topic:  "fake",
		Open:   fake.Open,
		Read:   fake.Stored,
		Refuse: func(r *publisher.Record) { r.Value = []byte(refused) },
		Stall:  fake.Stall,
		Cut:    fake.Cut,
	}
}

func TestFakeConforms(t *testing.T) {
	publishertest.Run(t, fakeBackend)
}
