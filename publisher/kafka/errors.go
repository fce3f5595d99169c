package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/outboxd/outboxd/publisher"
)

// verdict says what a broker's answer means for a record.
type verdict struct {
	class  class
	reason string
	fix    string
}

type class int

const (
	// retry is everything that is not listed: a new session tries again, and
	// what became of the record is unknown.
	retry class = iota
	// poison is determined by the record: no other record, and no later
	// try, would fare differently. Kafka refuses whole batches, so a batch
	// with this answer is split until the record stands alone.
	poison
	// held is determined by the world.
	held
	// config is a wrong password and its like.
	config
)

// verdicts is the only place that decides what is not simply tried again. The
// broker has not stored a record with one of these answers.
var verdicts = map[*kerr.Error]verdict{
	kerr.MessageTooLarge:       {class: poison, reason: "too_large"},
	kerr.RecordListTooLarge:    {class: poison, reason: "too_large"},
	kerr.InvalidRecord:         {class: poison, reason: "bad_record"},
	kerr.InvalidTopicException: {class: poison, reason: "bad_topic"},

	kerr.UnknownTopicOrPartition: {class: held, reason: "missing_topic",
		fix: "create the topic, or run with --create-topics"},
	kerr.TopicAuthorizationFailed: {class: held, reason: "not_authorized",
		fix: "grant Write and Describe on the topic"},
	kerr.ClusterAuthorizationFailed: {class: held, reason: "not_authorized",
		fix: "grant Write on the topic (brokers before 3.0: also IdempotentWrite on the cluster), and Create where topics are to be created"},
	kerr.PolicyViolation: {class: held, reason: "refused",
		fix: "the cluster's policy refuses it; see the broker's log"},
	kerr.UnsupportedCompressionType: {class: held, reason: "refused",
		fix: "choose another compression (?compression=none)"},
	kerr.UnsupportedForMessageFormat: {class: held, reason: "refused",
		fix: "raise the topic's message format version"},
	// Records carry the time of publishing, so that only a clock can be wrong.
	kerr.InvalidTimestamp: {class: held, reason: "refused",
		fix: "compare the clocks of this host and the broker"},
	kerr.InvalidReplicationFactor: {class: held, reason: "missing_topic",
		fix: "create the topic with a replication factor that the cluster can hold (?replication_factor=…)"},
	kerr.InvalidPartitions: {class: held, reason: "missing_topic",
		fix: "create the topic with a valid number of partitions (?partitions=…)"},

	kerr.SaslAuthenticationFailed: {class: config, reason: "auth"},
	kerr.UnsupportedSaslMechanism: {class: config, reason: "auth"},
	kerr.IllegalSaslState:         {class: config, reason: "auth"},
}

func judge(err error) verdict {
	var code *kerr.Error
	if errors.As(err, &code) {
		return verdicts[code]
	}
	return verdict{}
}

// classify turns what the client reports for topic into what a publisher may
// answer. detail is used for poison only.
func classify(err error, topic, detail string) error {
	switch v := judge(err); v.class {
	case poison:
		return &publisher.PoisonError{Reason: v.reason, Detail: detail, Err: err}
	case held:
		return &publisher.HeldError{Reason: v.reason, Target: topic, Fix: v.fix, Err: err}
	case config:
		return authError(err)
	}
	return fmt.Errorf("publish to topic %q: %w: %w", topic, publisher.ErrUnknown, err)
}

func authError(err error) error {
	return &publisher.ConfigError{
		Code:   "auth",
		Detail: "kafka refuses the login: check ?sasl=, and user and password or token",
		Err:    err,
	}
}

// classifyOpen is classify for the first contact: what will not mend itself is
// a ConfigError, an unreachable broker is a plain error.
func classifyOpen(err error) error {
	var unknownCA x509.UnknownAuthorityError
	var hostname x509.HostnameError
	var invalid x509.CertificateInvalidError
	var header tls.RecordHeaderError
	var alert *net.OpError
	switch {
	case judge(err).class == config:
		return authError(err)
	case errors.As(err, &unknownCA):
		return &publisher.ConfigError{Code: "config", Detail: "verify the broker's certificate (give its authority with ?ca=FILE)", Err: err}
	case errors.As(err, &hostname):
		return &publisher.ConfigError{Code: "config", Detail: "verify the broker's certificate (give its name with ?server_name=)", Err: err}
	case errors.As(err, &invalid):
		return &publisher.ConfigError{Code: "config", Detail: "verify the broker's certificate (renew it at the broker)", Err: err}
	case errors.As(err, &alert) && alert.Op == "remote error": // a TLS alert; its own type is not exported
		return &publisher.ConfigError{Code: "config", Detail: "the broker refuses this side of TLS (give a client certificate that it accepts with ?cert=FILE&key=FILE)", Err: err}
	case errors.As(err, &header):
		return &publisher.ConfigError{Code: "config", Detail: "the broker does not speak TLS on this port", Err: err}
	}
	return err
}
