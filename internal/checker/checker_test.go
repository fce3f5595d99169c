package checker_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/internal/checker"
)

// history returns a flawless one: three domains, ten events each.
func history() ([]checker.Written, []checker.Delivered) {
	var written []checker.Written
	var delivered []checker.Delivered
	for n := range 10 {
		for d := range 3 {
			id := fmt.Sprintf("e%d-%d", d, n)
			domain := fmt.Sprintf("topic/k%d", d)
			sum := sha256.Sum256([]byte(id))
			written = append(written, checker.Written{ID: id, Outcome: checker.Committed, Domain: domain, N: n, Sum: sum})
			delivered = append(delivered, checker.Delivered{ID: id, Domain: domain, Position: fmt.Sprintf("%04d", len(delivered)), Sum: sum})
		}
	}
	written = append(written,
		checker.Written{ID: "rolled back", Outcome: checker.RolledBack, Domain: "topic/k0", N: 11},
		checker.Written{ID: "unknown, not there", Outcome: checker.Unknown, Domain: "topic/k0", N: 12})
	return written, delivered
}

func at(delivered []checker.Delivered, id string) int {
	return slices.IndexFunc(delivered, func(d checker.Delivered) bool { return d.ID == id })
}

func TestJudge(t *testing.T) {
	tests := []struct {
		name string
		// spoil is one defect of a relay.
		spoil func(w []checker.Written, d []checker.Delivered) []checker.Delivered
		want  string
	}{
		{"flawless", func(w []checker.Written, d []checker.Delivered) []checker.Delivered { return d },
			"lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 0"},
		{"lost", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return slices.Delete(d, 4, 5)
		}, "lost 1, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 0"},
		{"invented", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return append(d, checker.Delivered{ID: "nobody's"}, checker.Delivered{ID: "rolled back"})
		}, "lost 0, invented 2, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 0"},
		{"an unknown commit that happened", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return append(d, checker.Delivered{ID: "unknown, not there", Domain: "topic/k0", Position: "9999"})
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 0"},
		{"two of a key swapped", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			i, j := at(d, "e1-3"), at(d, "e1-4")
			d[i], d[j] = d[j], d[i]
			return d
		}, "lost 0, invented 0, out of order 1 (last delivery 1), changed 0, misplaced 0, duplicates 0"},
		{"two of different keys swapped", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			i, j := at(d, "e1-3"), at(d, "e2-3")
			d[i], d[j] = d[j], d[i]
			return d
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 0"},
		{"an old one again at the end", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return append(d, d[at(d, "e1-3")])
		}, "lost 0, invented 0, out of order 0 (last delivery 1), changed 0, misplaced 0, duplicates 1"},
		{"a run again, whole", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return append(d, d[15:]...)
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 15"},
		{"bytes changed", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			d[7].Sum[0]++
			return d
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 1, misplaced 0, duplicates 0"},
		{"wrong key", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			d[7].Domain = "topic/k9"
			return d
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 0"},
		{"position falls", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			d[at(d, "e0-5")].Position = "0000"
			return d
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 0"},
		{"position stands still", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			d[at(d, "e0-5")].Position = d[at(d, "e0-4")].Position
			return d
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 0"},
		{"another position the second time", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			again := d[len(d)-1]
			again.Position = "9999"
			return append(d, again)
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 1"},
		{"again in a later epoch", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return repeated(d, "0041.00AA.0001", "0042.00AA.0001")
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 1"},
		{"again in an earlier epoch", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return repeated(d, "0042.00AA.0001", "0041.00AA.0001")
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 1"},
		{"elsewhere in a later epoch", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			return repeated(d, "0041.00AA.0001", "0042.00AA.0002")
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 1"},
		{"some from the table only", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			for i := range d[:6] {
				d[i].Position, d[i].Replayed = "", true
			}
			return d
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 0, duplicates 0"},
		{"from the table, then from the stream", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			replayed := slices.Clone(d)
			for i := range replayed {
				replayed[i].Position, replayed[i].Replayed = "", true
			}
			d[at(d, "e0-5")].Position = "0000" // of the stream positions are compared all the same
			return append(replayed, d...)
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 30"},
		{"no position though it is not from the table", func(w []checker.Written, d []checker.Delivered) []checker.Delivered {
			d[7].Position = ""
			return d
		}, "lost 0, invented 0, out of order 0 (last delivery 0), changed 0, misplaced 1, duplicates 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, d := history()
			v := checker.Judge(w, tt.spoil(w, d))
			if !strings.Contains(v.String(), tt.want) {
				t.Errorf("got  %s\nwant %s", v, tt.want)
			}
			if ok := tt.want == tests[0].want; v.OK(0, 0) != ok {
				t.Errorf("OK is %v", v.OK(0, 0))
			}
		})
	}
}

// repeated delivers the last event twice, at two positions.
func repeated(d []checker.Delivered, first, then string) []checker.Delivered {
	again := d[len(d)-1]
	d[len(d)-1].Position, again.Position = first, then
	return append(d, again)
}

// TestJudgeUnknownTransaction: of a transaction whose commit was not answered,
// all comes or nothing.
func TestJudgeUnknownTransaction(t *testing.T) {
	w, d := history()
	for i := range 3 {
		w = append(w, checker.Written{ID: fmt.Sprintf("part %d", i), Outcome: checker.Unknown, Domain: "topic/part", N: i, Tx: "77"})
	}
	w = append(w, checker.Written{ID: "behind a savepoint", Outcome: checker.RolledBack, Domain: "topic/part", N: 3, Tx: "77"})
	if v := checker.Judge(w, d); !v.OK(0, 0) {
		t.Errorf("none of it: %s", v)
	}
	for i := range 3 {
		d = append(d, checker.Delivered{ID: fmt.Sprintf("part %d", i), Domain: "topic/part", Position: fmt.Sprintf("1%03d", i)})
		if v := checker.Judge(w, d); v.Lost != 2-i {
			t.Errorf("%d of 3: %s", i+1, v)
		}
	}
}

// TestJudgeSamples: what was confirmed must have been stored, and what was not
// yet confirmed need not.
func TestJudgeSamples(t *testing.T) {
	const id = "e"
	written := []checker.Written{{ID: id, Outcome: checker.Committed, Domain: "topic/k"}}
	delivered := []checker.Delivered{
		{ID: id, Domain: "topic/k", Position: "0001.0000000000000200.00000000", Log: "topic 0", Offset: 5},
		{ID: id, Domain: "topic/k", Position: "0001.0000000000000200.00000000", Log: "topic 0", Offset: 9},
	}
	for name, tt := range map[string]struct {
		sample    checker.Sample
		premature int
	}{
		"stored, confirmed":         {checker.Sample{Confirmed: "0000000000000201", Ends: map[string]int64{"topic 0": 6}}, 0},
		"not stored, not confirmed": {checker.Sample{Confirmed: "0000000000000200", Ends: map[string]int64{"topic 0": 5}}, 0},
		"not stored, confirmed":     {checker.Sample{Confirmed: "0000000000000201", Ends: map[string]int64{"topic 0": 5}}, 1},
		"no log yet, confirmed":     {checker.Sample{Confirmed: "0000000000000201"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := checker.Judge(written, delivered, tt.sample)
			if v.Premature != tt.premature || v.Lost != 0 || v.OK(1, 0) != (tt.premature == 0) {
				t.Errorf("got %s", v)
			}
		})
	}
}

func TestOKAllowsDuplicatesUpToBound(t *testing.T) {
	w, d := history()
	v := checker.Judge(w, append(d, d[len(d)-3:]...))
	if v.OK(2, 0) || !v.OK(3, 0) {
		t.Errorf("three duplicates: with 2 allowed %v, with 3 %v", v.OK(2, 0), v.OK(3, 0))
	}
	w, d = history()
	v = checker.Judge(w, append(d, d[at(d, "e1-3")]))
	if v.OK(1, 0) || !v.OK(1, 1) {
		t.Errorf("one straggler: with 0 allowed %v, with 1 %v", v.OK(1, 0), v.OK(1, 1))
	}
}
