// Command matrix prints the page of the fault matrix from the files that its
// tests wrote.
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/outboxd/outboxd/internal/checker/matrix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

func run(files []string) error {
	var all []matrix.Result
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		results, err := matrix.Read(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		all = append(all, results...)
	}
	return matrix.Write(os.Stdout, all, runtime.NumCPU())
}
