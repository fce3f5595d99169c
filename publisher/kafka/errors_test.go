package kafka_test

import (
	"errors"
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// TestClassify is the whole table: every code of the protocol that is not
// listed here is tried again, and its outcome is unknown.
func TestClassify(t *testing.T) {
	poison := map[*kerr.Error]string{
		kerr.MessageTooLarge:       "too_large",
		kerr.RecordListTooLarge:    "too_large",
		kerr.InvalidRecord:         "bad_record",
		kerr.InvalidTopicException: "bad_topic",
	}
	held := map[*kerr.Error]string{
		kerr.UnknownTopicOrPartition:     "missing_topic",
		kerr.InvalidPartitions:           "missing_topic",
		kerr.InvalidReplicationFactor:    "missing_topic",
		kerr.TopicAuthorizationFailed:    "not_authorized",
		kerr.ClusterAuthorizationFailed:  "not_authorized",
		kerr.PolicyViolation:             "refused",
		kerr.UnsupportedCompressionType:  "refused",
		kerr.UnsupportedForMessageFormat: "refused",
		kerr.InvalidTimestamp:            "refused",
	}
	auth := map[*kerr.Error]bool{
		kerr.SaslAuthenticationFailed: true,
		kerr.UnsupportedSaslMechanism: true,
		kerr.IllegalSaslState:         true,
	}
	for code := int16(-1); code < 140; code++ {
		err := kerr.ErrorForCode(code)
		var e *kerr.Error
		if !errors.As(err, &e) {
			continue
		}
		got := kafka.Classify(err, "orders", "detail")
		if !errors.Is(got, err) {
			t.Errorf("%v: %v does not wrap the broker's error", err, got)
		}
		var p *publisher.PoisonError
		var h *publisher.HeldError
		var c *publisher.ConfigError
		isPoison, isHeld, isConfig := errors.As(got, &p), errors.As(got, &h), errors.As(got, &c)
		switch {
		case poison[e] != "":
			if !isPoison || p.Reason != poison[e] || p.Detail != "detail" {
				t.Errorf("%v: %#v, want poison %s", err, got, poison[e])
			}
		case held[e] != "":
			if !isHeld || h.Reason != held[e] || h.Target != "orders" || h.Fix == "" {
				t.Errorf("%v: %#v, want held %s with a fix", err, got, held[e])
			}
		case auth[e]:
			if !isConfig || c.Code != "auth" {
				t.Errorf("%v: %#v, want an auth error", err, got)
			}
		case isPoison || isHeld || isConfig || !errors.Is(got, publisher.ErrUnknown):
			t.Errorf("%v: %#v, want retry with an unknown outcome", err, got)
		}
	}
	for _, err := range []error{io.EOF, kgo.ErrClientClosed, &kgo.ErrDataLoss{Topic: "orders"}} {
		if got := kafka.Classify(err, "orders", ""); !errors.Is(got, publisher.ErrUnknown) || !errors.Is(got, err) {
			t.Errorf("%v: %v, want retry with an unknown outcome", err, got)
		}
	}
}
