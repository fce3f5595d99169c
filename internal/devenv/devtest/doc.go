// Package devtest gives tests the real services they need, and a corner of each
// that no other test is in.
//
// A service is started at its first use and shared by the tests of one process.
// Where a running one is named by a variable, that is used instead:
//
//	OUTBOXD_TEST_DATABASE     postgres:// URL of a superuser, wal_level=logical
//	OUTBOXD_TEST_KAFKA        host:port, several with commas
//	OUTBOXD_TEST_RABBITMQ     amqp:// URL
//	OUTBOXD_TEST_RABBITMQCTL  command line that runs rabbitmqctl for it
//
// `make test` starts all three once and sets these variables for the whole run.
// deploy/compose.test.yaml does it with containers.
//
// # What a test may assume
//
// A database from [Database] is new and is dropped after the test, with the
// replication slots that the test left in it. All else that a server has only
// one of, roles, slots and publications' names for a start, but also topics,
// consumer groups, queues and exchanges, is shared with tests that run at the
// same time: take the names from [Name]. A test that stops, kills, fills or
// reconfigures a service must start its own with package devenv.
//
// [Authority] issues certificates for services and their clients. [Proxy] is a
// network in front of a service that can be cut, frozen or slow.
//
// TestMain of a package that uses services is
//
//	func TestMain(m *testing.M) { devtest.Main(m) }
//
// # No service, no skip
//
// A test never skips because a service is missing: it fails and names
// `make services`. Tests that need the real Kafka or RabbitMQ are in files that
// begin with
//
//	//go:build !embedded
//
// and so do the functions here that give them. `make test SERVICES=embedded`,
// for machines with nothing but Go, builds with -tags embedded: such tests do
// not exist then, and the run prints their names as not covered. PostgreSQL and
// kfake ([Kfake]) are there in both.
package devtest
