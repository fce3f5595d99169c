// Package devenv starts throw-away real services for the tests, the demo and
// the benchmarks of this repository: PostgreSQL 14 to 18, Apache Kafka and
// RabbitMQ as ordinary processes, and franz-go's kfake in process.
//
// Every service listens on 127.0.0.1 on a free port, keeps its files in a
// directory of its own below os.TempDir, and leaves neither a process nor a
// file behind: not after Close, not when a test panics, and not when the
// program that started it is killed with SIGKILL (see sandbox.go for how).
//
// PostgreSQL and RabbitMQ do not run as root. When the program does, services
// run as the user nobody.
//
// What has to be downloaded is kept in a cache that any number of programs may
// use at once: [CacheDir]. `make services` fills it, and installs what the
// machine lacks.
//
// [Scratch] gives the same promise for what a test builds and runs itself.
//
// Tests use the subpackage devtest, which shares one service among the tests of
// a process and honours the OUTBOXD_TEST_ variables. A test that kills or
// restarts a service starts one of its own from here.
package devenv
