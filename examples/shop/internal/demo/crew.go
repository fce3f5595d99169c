package demo

import (
	"context"
	"sync"
)

// crew is goroutines that stand and fall together: the first error ends the
// context that all of them work under.
type crew struct {
	fail context.CancelCauseFunc
	wg   sync.WaitGroup
}

func (c *crew) add(work func() error) {
	c.wg.Go(func() {
		if err := work(); err != nil {
			c.fail(err)
		}
	})
}

func (c *crew) wait() { c.wg.Wait() }
