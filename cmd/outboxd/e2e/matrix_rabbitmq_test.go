//go:build !embedded

package e2e_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outboxd/outboxd/internal/checker/workload"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestMatrixRabbitMQ breaks RabbitMQ: queues and users of the shared node, or
// one node of three and more.
func TestMatrixRabbitMQ(t *testing.T) {
	// What a lost connection leaves unconfirmed, and so unknown: two channels
	// have 2,000 records each.
	const window = 4000
	runMatrix(t, "RabbitMQ", []fault{
		{id: "F50", name: "binding removed", how: "queue unbound while events flow",
			expect: "held, `unroutable` with the routing key; goes on when a queue is bound", duplicates: window, stragglers: window,
			arrange: onRabbitMQ, inject: unbound},
		{id: "F51", name: "exchange deleted", how: "deleted while events flow, declared again later",
			expect: "held, `missing_exchange` with its name; goes on when it is there", duplicates: window, stragglers: window,
			arrange: onRabbitMQ, inject: exchangeDeleted},
		{id: "F52", name: "queue is full", how: "policy `max-length` 10 with `reject-publish`",
			expect: "held, `refused` with the routing key; goes on when there is room", duplicates: window, stragglers: window,
			arrange: onRabbitMQ, inject: queueFull},
		{id: "F53", name: "memory alarm", how: "`set_vm_memory_high_watermark 0`", alone: true,
			expect: "`broker_blocked` is 1, the session stays, nothing comes twice", arrange: onRabbitMQCluster, inject: alarm("set_vm_memory_high_watermark", "0", "0.4")},
		{id: "F53b", name: "disk alarm", how: "`set_disk_free_limit` above what there is", alone: true,
			expect: "as F53", arrange: onRabbitMQCluster, inject: alarm("set_disk_free_limit", "1000GB", "50MB")},
		{id: "F53c", name: "SIGTERM in an alarm", how: "SIGTERM with `--drain-timeout 2s` while the broker blocks", alone: true,
			expect: "exit 0; the next relay publishes what was not confirmed", duplicates: window, stragglers: window, arrange: drainsShortly, inject: stoppedInAlarm},
		{id: "F54", name: "connection closed by an operator", how: "`rabbitmqctl close_all_connections`",
			expect: "what was unconfirmed is published again", duplicates: window, stragglers: window, arrange: onBusyRabbitMQ, inject: connectionsClosed},
		{id: "F55", name: "right to write taken away", how: "`set_permissions`, then the connection closed",
			expect: "held, `not_authorized` with the exchange; goes on when the right is back", duplicates: window, stragglers: window,
			arrange: onRabbitMQ, inject: permissionTakenAway},
		{id: "F56", name: "one of three stopped", how: "SIGTERM of the node that has the relay's connection and leads the queue", alone: true,
			expect: "the relay goes to another node; what was unconfirmed is published again", duplicates: window, stragglers: window,
			arrange: onRabbitMQCluster, inject: oneNode(byStop)},
		{id: "F56b", name: "one of three killed", how: "SIGKILL of that node", alone: true,
			expect: "as F56", duplicates: window, stragglers: window, arrange: onRabbitMQCluster, inject: oneNode(byKill)},
		{id: "F56c", name: "all nodes stopped", how: "SIGTERM of three nodes of three, then started again", alone: true,
			expect: "events wait and nothing past them is confirmed; as F56", duplicates: window, stragglers: window,
			arrange: onRabbitMQCluster, inject: allNodes},
		{id: "F58", name: "confirm never comes", elsewhere: "publisher/rabbitmq TestNoConfirm"},
		{id: "F59", name: "confirms of several and out of order", how: "a scripted broker", elsewhere: "publisher/rabbitmq TestConfirmsInAnyOrder, TestNackBelowMultipleAck"},
		{id: "F60", name: "virtual host deleted", how: "deleted between two events, made again later", alone: true,
			expect: "held, `missing_vhost`; goes on when it is there", arrange: onOwnHost, inject: vhostDeleted},
		{id: "F61", name: "event larger than max_message_size", elsewhere: "publisher/rabbitmq TestTooLargeForTheBroker, TestMessagePoison"},
		{id: "F62", name: "quorum queue without a majority", how: "two nodes of three killed", alone: true,
			expect: "events wait, the reason is said, nothing past them is confirmed; goes on with the majority", duplicates: window, stragglers: window,
			arrange: onRabbitMQCluster, inject: noMajority},
	})
}

// rabbitMQ returns the row's end.
func (f *faultRun) rabbitMQ() *rabbitEnd { return f.end.(*rabbitEnd) }

// onRabbitMQ publishes to the shared node, as a user that may be treated badly.
func onRabbitMQ(f *faultRun) {
	f.t.Helper()
	server := devtest.RabbitMQ(f.t)
	end := newRabbitEnd(f.t, server)
	addUser(f, end.exchange)
	f.t.Cleanup(func() { devtest.RabbitMQCtl(f.t, "delete_user", end.exchange) })
	end.url = loggedIn(f.t, server, end.exchange)
	f.end = end
}

func addUser(f *faultRun, name string) {
	f.t.Helper()
	devtest.RabbitMQCtl(f.t, "add_user", name, "rabbit-secret")
	devtest.RabbitMQCtl(f.t, "set_permissions", name, ".*", ".*", ".*")
}

// onBusyRabbitMQ always has records on their way.
func onBusyRabbitMQ(f *faultRun) {
	f.t.Helper()
	onRabbitMQ(f)
	f.load = workload.Options{Seed: 1, Writers: 4, Keys: 200, MaxEvents: 500, Emit: 20, Small: true}
}

// loggedIn returns the URL with that user.
func loggedIn(t *testing.T, server, user string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, "rabbit-secret")
	return u.String()
}

// channel calls do with a channel to the row's node, as the relay's user.
func (f *faultRun) channel(do func(ch *amqp.Channel, exchange string) error) {
	f.t.Helper()
	conn, err := amqp.Dial(f.rabbitMQ().url)
	f.must(err)
	defer conn.Close()
	ch, err := conn.Channel()
	f.must(err)
	f.must(do(ch, f.rabbitMQ().exchange))
}

// declare makes what the row's events go through, as far as it is not there.
func declare(ch *amqp.Channel, name string) error {
	return errors.Join(ch.ExchangeDeclare(name, "topic", true, false, false, false, nil), ch.QueueBind(name, "#", name, false, nil))
}

func unbound(f *faultRun) {
	f.channel(func(ch *amqp.Channel, name string) error { return ch.QueueUnbind(name, "#", name, nil) })
	f.relay.says(http.StatusServiceUnavailable, "held", "unroutable", ".changed", "bind a queue to exchange", f.rabbitMQ().exchange)
	f.channel(declare)
}

func exchangeDeleted(f *faultRun) {
	f.channel(func(ch *amqp.Channel, name string) error { return ch.ExchangeDelete(name, false, false) })
	f.relay.holds("missing_exchange", f.rabbitMQ().exchange, "declare the exchange and bind a queue to it")
	f.channel(declare)
}

func queueFull(f *faultRun) {
	name := f.rabbitMQ().exchange
	devtest.RabbitMQCtl(f.t, "set_policy", "--apply-to", "queues", name, "^"+name+"$", `{"max-length": 10, "overflow": "reject-publish"}`)
	defer devtest.RabbitMQCtl(f.t, "clear_policy", name)
	f.relay.says(http.StatusServiceUnavailable, "held", "refused", ".changed", "full")
}

func connectionsClosed(f *faultRun) {
	f.again(func() { f.closeConnections() })
}

// closeConnections closes those of the row's user.
func (f *faultRun) closeConnections() {
	f.t.Helper()
	devtest.RabbitMQCtl(f.t, "close_all_user_connections", f.rabbitMQ().exchange, "for a test")
}

func permissionTakenAway(f *faultRun) {
	user := f.rabbitMQ().exchange
	devtest.RabbitMQCtl(f.t, "set_permissions", user, "^$", "^$", ".*")
	f.closeConnections() // a channel remembers what it was allowed
	f.relay.holds("not_authorized", user, "give the user write permission")
	devtest.RabbitMQCtl(f.t, "set_permissions", user, ".*", ".*", ".*")
}

// onRabbitMQCluster publishes to the first of three nodes that answers. The
// first leads the queue; the consumer is with the last.
func onRabbitMQCluster(f *faultRun) {
	f.t.Helper()
	nodes := devtest.RabbitMQCluster(f.t).Nodes()
	eventually(f.t, time.Minute, "the nodes know each other", func() bool {
		n, err := nodes[0].Ctl(f.t.Context(), "--quiet", "eval", "length(rabbit_nodes:all_running()).")
		return err == nil && strings.TrimSpace(string(n)) == "3"
	})
	name := devtest.Name(f.t)
	var consumer *workload.RabbitMQConsumer
	var hosts []string
	for _, n := range nodes {
		var err error
		consumer, err = workload.NewRabbitMQConsumer(n.URL(), name, name)
		f.must(err)
		u, err := url.Parse(n.URL())
		f.must(err)
		hosts = append(hosts, u.Host)
	}
	f.end = &rabbitEnd{url: "amqp://" + strings.Join(hosts, ",") + "?heartbeat=2s&connect_timeout=3s&confirm_timeout=5s", exchange: name, consumer: consumer}
	f.load = lightLoad
}

// alarm raises an alarm and clears it.
func alarm(setting, bad, good string) func(*faultRun) {
	return func(f *faultRun) {
		f.undisturbed(func() {
			f.inAlarm(setting, bad, good, f.waits)
			f.healed()
			if f.relay.metric("outboxd_broker_blocked") != 0 {
				f.t.Error("the relay thinks that it is blocked still")
			}
		})
	}
}

// inAlarm raises an alarm, calls do when the relay knows, and clears it.
func (f *faultRun) inAlarm(setting, bad, good string, do func()) {
	f.t.Helper()
	node := devtest.RabbitMQCluster(f.t).Nodes()[0]
	set := func(value string) {
		f.t.Helper()
		_, err := node.Ctl(f.t.Context(), setting, value)
		f.must(err)
	}
	set(bad)
	defer set(good)
	eventually(f.t, 10*time.Second, "the relay is blocked", func() bool { return f.relay.metric("outboxd_broker_blocked") == 1 })
	do()
}

func drainsShortly(f *faultRun) {
	f.t.Helper()
	onRabbitMQCluster(f)
	f.flags = []string{"--drain-timeout", "2s"}
}

func stoppedInAlarm(f *faultRun) {
	f.inAlarm("set_vm_memory_high_watermark", "0", "0.4", func() {
		f.waits()
		began := time.Now()
		if code := f.relay.term(); code != 0 {
			f.t.Errorf("exit code %d after SIGTERM", code)
		}
		if took := time.Since(began); took > 10*time.Second {
			f.t.Errorf("the relay ended %s after SIGTERM, with --drain-timeout 2s", took)
		}
		contains(f.t, f.relay.logged(), "not everything was acked")
	})
	f.start().ready()
}

// oneNode takes away the first node; events flow before it is back.
func oneNode(o outage) func(*faultRun) {
	return func(f *faultRun) {
		f.without(o, f.healed, devtest.RabbitMQCluster(f.t).Nodes()[0])
	}
}

func allNodes(f *faultRun) {
	nodes := devtest.RabbitMQCluster(f.t).Nodes()
	f.without(byStop, f.waits, nodes[0], nodes[1], nodes[2])
}

func noMajority(f *faultRun) {
	nodes := devtest.RabbitMQCluster(f.t).Nodes()
	f.without(byKill, func() {
		f.waits()
		f.relay.says(http.StatusServiceUnavailable, "retrying", "broker_unreachable")
	}, nodes[0], nodes[1])
}

// onOwnHost publishes to a virtual host of the shared node.
func onOwnHost(f *faultRun) {
	f.t.Helper()
	name := devtest.Name(f.t)
	makeHost(f, name)
	f.t.Cleanup(func() { devtest.RabbitMQCtl(f.t, "delete_vhost", name) })
	server := strings.TrimSuffix(devtest.RabbitMQ(f.t), "/") + "/" + name
	f.end, f.load = newRabbitEnd(f.t, server), lightLoad
}

func makeHost(f *faultRun, name string) {
	f.t.Helper()
	devtest.RabbitMQCtl(f.t, "add_vhost", name)
	devtest.RabbitMQCtl(f.t, "set_permissions", "-p", name, "guest", ".*", ".*", ".*")
}

// vhostDeleted deletes it when nothing is on its way: what it held is lost, and
// has been read.
func vhostDeleted(f *faultRun) {
	f.quiet()
	end := f.rabbitMQ()
	host := end.url[strings.LastIndexByte(end.url, '/')+1:]
	devtest.RabbitMQCtl(f.t, "delete_vhost", host)
	f.startLoad()
	f.relay.says(http.StatusServiceUnavailable, "held", "missing_vhost", "create the vhost")
	makeHost(f, host)
	_, err := workload.NewRabbitMQConsumer(end.url, end.exchange, end.exchange)
	f.must(err)
}
