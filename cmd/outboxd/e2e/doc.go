// Package e2e holds the tests of the built binary: real processes, real
// services, the minimal roles, judged by internal/checker. It has no code of
// its own.
package e2e
