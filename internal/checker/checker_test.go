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

// deliveries are what a consumer got; a defect of a relay spoils them.
type deliveries = []checker.Delivered

// spoiled judges the flawless history after spoil, and compares the counts that
// are not zero.
func spoiled(t *testing.T, name, want string, spoil func(deliveries) deliveries) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		w, d := history()
		v := checker.Judge(w, spoil(d))
		if got := wrong(v); got != want {
			t.Errorf("got %q, want %q\n%s", got, want, v)
		}
		if v.OK(0, 0) != (want == "") {
			t.Errorf("OK is %v", v.OK(0, 0))
		}
	})
}

// wrong lists the counts of a verdict that are not zero.
func wrong(v *checker.Verdict) string {
	var list []string
	for _, c := range []struct {
		name string
		n    int
	}{
		{"lost", v.Lost}, {"invented", v.Invented}, {"out of order", v.Disordered}, {"last out of order", v.LastDisordered},
		{"changed", v.Changed}, {"misplaced", v.Misplaced}, {"premature", v.Premature}, {"duplicates", v.Duplicates},
	} {
		if c.n > 0 {
			list = append(list, fmt.Sprint(c.name, " ", c.n))
		}
	}
	return strings.Join(list, ", ")
}

// swapped swaps two events.
func swapped(d deliveries, a, b string) deliveries {
	i, j := at(d, a), at(d, b)
	d[i], d[j] = d[j], d[i]
	return d
}

func TestJudge(t *testing.T) {
	spoiled(t, "flawless", "", func(d deliveries) deliveries { return d })
	spoiled(t, "lost", "lost 1", func(d deliveries) deliveries { return slices.Delete(d, 4, 5) })
	spoiled(t, "invented", "invented 2", func(d deliveries) deliveries {
		return append(d, checker.Delivered{ID: "nobody's"}, checker.Delivered{ID: "rolled back"})
	})
	spoiled(t, "an unknown commit that happened", "", func(d deliveries) deliveries {
		return append(d, checker.Delivered{ID: "unknown, not there", Domain: "topic/k0", Position: "9999"})
	})
	spoiled(t, "two of a key swapped", "out of order 1, last out of order 1", func(d deliveries) deliveries { return swapped(d, "e1-3", "e1-4") })
	spoiled(t, "two of different keys swapped", "", func(d deliveries) deliveries { return swapped(d, "e1-3", "e2-3") })
	spoiled(t, "bytes changed", "changed 1", func(d deliveries) deliveries {
		d[7].Sum[0]++
		return d
	})
	spoiled(t, "wrong key", "misplaced 1", func(d deliveries) deliveries {
		d[7].Domain = "topic/k9"
		return d
	})
	spoiled(t, "a key in two partitions", "misplaced 1", func(d deliveries) deliveries {
		for i := range d {
			d[i].Log = "topic-0"
			if d[i].ID == "e1-9" {
				d[i].Log = "topic-1"
			}
		}
		return d
	})
	spoiled(t, "position falls", "misplaced 1", func(d deliveries) deliveries {
		d[at(d, "e0-5")].Position = "0000"
		return d
	})
	spoiled(t, "position stands still", "misplaced 1", func(d deliveries) deliveries {
		d[at(d, "e0-5")].Position = d[at(d, "e0-4")].Position
		return d
	})
}

func TestJudgeRepeated(t *testing.T) {
	spoiled(t, "an old one again at the end", "last out of order 1, duplicates 1", func(d deliveries) deliveries {
		return append(d, d[at(d, "e1-3")])
	})
	spoiled(t, "a run again, whole", "duplicates 15", func(d deliveries) deliveries { return append(d, d[15:]...) })
	spoiled(t, "another position the second time", "misplaced 1, duplicates 1", func(d deliveries) deliveries {
		return repeated(d, d[len(d)-1].Position, "9999")
	})
	spoiled(t, "again in a later epoch", "duplicates 1", func(d deliveries) deliveries { return repeated(d, "0041.00AA.0001", "0042.00AA.0001") })
	spoiled(t, "again in an earlier epoch", "misplaced 1, duplicates 1", func(d deliveries) deliveries { return repeated(d, "0042.00AA.0001", "0041.00AA.0001") })
	spoiled(t, "elsewhere in a later epoch", "misplaced 1, duplicates 1", func(d deliveries) deliveries { return repeated(d, "0041.00AA.0001", "0042.00AA.0002") })
}

// TestJudgeReplayed: the table does not know positions.
func TestJudgeReplayed(t *testing.T) {
	replayed := func(d deliveries) deliveries {
		for i := range d {
			d[i].Position, d[i].Replayed = "", true
		}
		return d
	}
	spoiled(t, "some from the table only", "", func(d deliveries) deliveries {
		replayed(d[:6])
		return d
	})
	spoiled(t, "from the table, then from the stream", "misplaced 1, duplicates 30", func(d deliveries) deliveries {
		first := replayed(slices.Clone(d))
		d[at(d, "e0-5")].Position = "0000" // of the stream positions are compared all the same
		return append(first, d...)
	})
	spoiled(t, "no position though it is not from the table", "misplaced 1", func(d deliveries) deliveries {
		d[7].Position = ""
		return d
	})
}

// repeated delivers the last event twice, at two positions.
func repeated(d deliveries, first, then string) deliveries {
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

// A thousand duplicates do not hide the one violation behind them.
func TestVerdictShowsViolationsFirst(t *testing.T) {
	w, d := history()
	for range 50 {
		d = append(d, d[:30]...)
	}
	d = append(d, checker.Delivered{ID: "nobody's", Place: "the end"})
	lines := strings.Split(checker.Judge(w, d).String(), "\n\t")
	if len(lines) < 3 || !strings.Contains(lines[1], `invented: event "nobody's" at the end`) || !strings.Contains(lines[2], "repeated: ") {
		t.Errorf("got %q", lines)
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
