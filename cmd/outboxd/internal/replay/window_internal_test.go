package replay

import (
	"errors"
	"fmt"
	"testing"

	"github.com/outboxd/outboxd/publisher"
)

// What the publisher gave up is not published: neither it nor anything behind
// it is done, and it is no cause if there is another.
func TestWindowAfterFailure(t *testing.T) {
	refused := errors.New("refused")
	for _, givenUp := range []error{publisher.ErrAborted, publisher.ErrClosed} {
		behind := fmt.Errorf("behind: %w", givenUp)
		for name, tt := range map[string]struct {
			outcomes      []error // of rows 1, 2, …, in that order
			cause, behind error
		}{
			"a cause behind it": {[]error{nil, behind, refused, nil}, refused, behind},
			"no cause":          {[]error{nil, behind, behind, nil}, nil, behind},
		} {
			w := newWindow()
			var tokens []uint64
			for i := range tt.outcomes {
				token, err := w.take(t.Context(), Place{Seq: int64(i + 1)}, 1)
				if err != nil {
					t.Fatal(err)
				}
				tokens = append(tokens, token)
			}
			for i, err := range tt.outcomes {
				w.done(&publisher.Record{Token: tokens[i]}, err)
			}
			if w.prefix.Seq != 1 || w.acked != 2 || w.cause != tt.cause || w.behind != tt.behind {
				t.Errorf("%s: done up to row %d, %d acked, cause %v, behind %v", name, w.prefix.Seq, w.acked, w.cause, w.behind)
			}
			if err := w.drained(t.Context()); !errors.Is(err, errStopped) {
				t.Errorf("%s: drained: %v", name, err)
			}
			if err := (&Replay{}).settle(w, "", errStopped); err == nil || errors.Is(err, errStopped) {
				t.Errorf("%s: the attempt ended with %v", name, err)
			}
		}
	}
}
