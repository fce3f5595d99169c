// Command gotest runs `go test` with its arguments and prints what go test
// would: one line a package, and the output of what failed. It then prints
//
//	N passed, N failed, N skipped
//
// and fails when a test was skipped, naming it: a test that can pass without
// having run proves nothing.
package main

import (
	"fmt"
	"os"
	"os/exec"
)

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest: run go test:", err)
		os.Exit(1)
	}
	r := newReport(os.Stdout)
	readErr := r.read(out)
	waitErr := cmd.Wait()
	r.summarise()
	if readErr != nil || waitErr != nil || !r.good() {
		fmt.Fprintln(os.Stderr, "gotest: FAIL", describe(readErr, waitErr))
		os.Exit(1)
	}
}

func describe(errs ...error) string {
	for _, err := range errs {
		if err != nil {
			return "(" + err.Error() + ")"
		}
	}
	return "(tests were skipped or failed, or none ran)"
}
