package relay_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
)

// largePayload is from where on the script looks after what it lends.
const largePayload = 1 << 20

// While nothing comes, a large event does not keep the buffer that it came in.
func TestBufferOfLargeEventIsLetGo(t *testing.T) {
	simulated(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		payload := `"` + strings.Repeat("x", largePayload) + `"`
		b.slot.commit(message{ids: []string{"e"}, Message: cdc.Message{
			Kind: cdc.Insert, Relation: outboxTable, Row: row("e", "order", "1", "placed", payload),
		}})
		settle(time.Second)
		b.expect("stored", b.stored(), "e")
		runtime.GC()
		if b.slot.lent.Value() != nil {
			t.Error("the buffer of the event is still in use")
		}
		if err := b.finish(); err != nil {
			t.Error(err)
		}
	})
}
