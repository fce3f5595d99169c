//go:build long && !embedded

package e2e_test

import (
	"net/http"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestLongMatrixRabbitMQ holds rows of TestMatrixRabbitMQ that take long.
func TestLongMatrixRabbitMQ(t *testing.T) {
	const window = 4000
	runMatrix(t, "RabbitMQ", []fault{
		{id: "F60b", name: "user deleted", how: "deleted while events flow, added again later",
			expect: "`broker_authentication`; retried every 30 to 45 s", duplicates: window, stragglers: window, arrange: onRabbitMQ, inject: userDeleted},
	})
}

func userDeleted(f *faultRun) {
	user := f.rabbitMQ().exchange
	devtest.RabbitMQCtl(f.t, "delete_user", user)
	f.relay.says(http.StatusServiceUnavailable, "broker_authentication")
	addUser(f, user)
}
