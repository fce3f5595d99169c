package devenv

import (
	"fmt"
	"os"
	"time"
)

// progress says on standard error that something slow has begun, every five
// seconds that it goes on, and how it ended.
func progress(what string, do func() error) error {
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "devenv: "+what+": "+format+"\n", args...)
	}
	say("begins")
	result := make(chan error, 1)
	go func() { result <- do() }()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			say("%.0f s so far", time.Since(begin).Seconds())
		case err := <-result:
			if err != nil {
				say("stopped after %.1f s", time.Since(begin).Seconds())
				return err
			}
			say("done in %.1f s", time.Since(begin).Seconds())
			return nil
		}
	}
}
