package main

import (
	"errors"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
)

// A certificate that is being replaced when the first rotation is due says
// nothing of the retention, and must not stop the relay.
func TestRetentionDoesNotStopForConnection(t *testing.T) {
	o := &runOptions{retention: time.Hour}
	o.database = "postgres://h/d?sslmode=verify-full&sslrootcert=" + t.TempDir() + "/none.pem"
	r := &rotation{daemon: &daemon{pipeline: &pipeline{}, options: o}}
	_, err := r.step(t.Context())
	var named *cdc.Error
	var refused unfit
	if !errors.As(err, &named) || named.Code != cdc.CodeConfig || errors.As(err, &refused) {
		t.Errorf("got %v, want the connection's own error and no verdict on the retention", err)
	}
}
