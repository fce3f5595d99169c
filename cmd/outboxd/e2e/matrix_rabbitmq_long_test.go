//go:build long && !embedded

package e2e_test

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestLongMatrixRabbitMQ holds rows of TestMatrixRabbitMQ that take long.
func TestLongMatrixRabbitMQ(t *testing.T) {
	const window = 4000
	runMatrix(t, "RabbitMQ", []fault{
		{id: "F57", name: "one of three frozen", how: "SIGSTOP of that node, later SIGKILL", alone: true,
			expect: "found by the heartbeat; as F56", duplicates: window, stragglers: window, arrange: onRabbitMQCluster, inject: oneNode(byFreezeThenKill)},
		{id: "F60b", name: "user deleted", how: "deleted while events flow, added again later",
			expect: "`broker_authentication`; retried every 30 to 45 s", duplicates: window, stragglers: window, arrange: onRabbitMQ, inject: userDeleted},
	})
}

// byFreezeThenKill does not thaw the node: RabbitMQ 3.10 was seen to stay divided
// after that, until somebody restarted it.
var byFreezeThenKill = outage{byFreeze.begin, func(ctx context.Context, n node) error { return errors.Join(n.Kill(), n.Start(ctx)) }}

func userDeleted(f *faultRun) {
	user := f.rabbitMQ().exchange
	devtest.RabbitMQCtl(f.t, "delete_user", user)
	f.relay.says(http.StatusServiceUnavailable, "broker_authentication")
	addUser(f, user)
}
