package rabbitmq_test

import (
	"errors"

	"github.com/outboxd/outboxd/publisher"
)

// classOf names what an error claims: the reason of a held or poison record,
// the code of a configuration error, "unknown", "aborted", "closed", "other".
func classOf(err error) string {
	var poison *publisher.PoisonError
	var held *publisher.HeldError
	var config *publisher.ConfigError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &poison):
		return poison.Reason
	case errors.As(err, &held):
		return held.Reason
	case errors.As(err, &config):
		return config.Code
	case errors.Is(err, publisher.ErrUnknown):
		return "unknown"
	case errors.Is(err, publisher.ErrAborted):
		return "aborted"
	case errors.Is(err, publisher.ErrClosed):
		return "closed"
	}
	return "other"
}
