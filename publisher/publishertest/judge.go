package publishertest

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/outboxd/outboxd/publisher"
)

// judge compares, after Close, what was asked, what was answered and what the
// broker holds. It is the contract of publisher.Publisher in one place:
//
//   - one outcome for each record that was taken, none for the others, none
//     after Close;
//   - acked: stored once; failed: not stored; unknown: stored once or not;
//   - what is stored of a domain is a prefix of what was taken of it, in the
//     same order: a hole would mean that a record passed a failed one.
func (s *session) judge() {
	s.t.Helper()
	s.judgeOutcomes()
	stored := s.target.Read()
	times := make(map[uint64]int)
	domains := make(map[string][]uint64)
	for i := range stored {
		token, ok := s.tokenOf(&stored[i])
		if !ok {
			continue
		}
		times[token]++
		s.judgeBytes(s.offered[token], &stored[i])
		if k := s.offered[token].Key; k != nil {
			domains[string(k)] = append(domains[string(k)], token)
		}
	}
	s.judgeStored(times)
	s.judgeOrder(domains)
}

// tokenOf finds which of this session's records the broker returned. Records
// of an earlier session on the same target carry that session's numbers and
// are told apart by an id prefix.
func (s *session) tokenOf(r *publisher.Record) (uint64, bool) {
	s.t.Helper()
	for _, h := range r.Headers {
		if h.Name != idHeader {
			continue
		}
		rest, mine := strings.CutPrefix(string(h.Value), s.prefix)
		if !mine {
			return 0, false
		}
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 || n >= len(s.offered) {
			break
		}
		return uint64(n), true
	}
	s.t.Errorf("the broker holds a record that was never offered: headers %q, value %.40q", r.Headers, r.Value)
	return 0, false
}

func (s *session) judgeOutcomes() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, taken := range s.taken {
		n := len(s.outcomes[uint64(i)])
		if taken && n != 1 {
			s.t.Errorf("record %d was taken and has %d outcomes, want 1", i, n)
		}
		if !taken && n != 0 {
			s.t.Errorf("record %d was declined and has %d outcomes, want none", i, n)
		}
	}
	if s.late > 0 {
		s.t.Errorf("%d outcomes were reported after close", s.late)
	}
}

func (s *session) judgeStored(times map[uint64]int) {
	s.t.Helper()
	for i := range s.offered {
		token := uint64(i)
		err, answered := s.outcome(token)
		c := class(err)
		switch n := times[token]; {
		case n > 1:
			s.t.Errorf("record %d is stored %d times", i, n)
		case !answered && n != 0:
			s.t.Errorf("record %d has no outcome and is stored", i)
		case answered && c == "acked" && n == 0:
			s.t.Errorf("record %d was acked and is not stored", i)
		case answered && c != "acked" && c != "unknown" && n != 0:
			s.t.Errorf("record %d is stored, its outcome says it is not: %v", i, err)
		}
	}
}

func (s *session) judgeOrder(domains map[string][]uint64) {
	s.t.Helper()
	taken := make(map[string][]uint64)
	for i, r := range s.offered {
		if s.taken[i] && r.Key != nil {
			taken[string(r.Key)] = append(taken[string(r.Key)], uint64(i))
		}
	}
	for k, got := range domains {
		want := taken[k]
		if s.target.Pipelined {
			if !slices.IsSorted(got) {
				s.t.Errorf("domain %q is stored out of order", k)
			}
			continue
		}
		for i, token := range got {
			if i >= len(want) || token != want[i] {
				s.t.Errorf("domain %q: record %d is stored behind %v, want the order %v",
					k, token, got[max(0, i-3):i], want[max(0, min(i, len(want))-3):min(i+1, len(want))])
				break
			}
		}
	}
}

func (s *session) judgeBytes(want, got *publisher.Record) {
	s.t.Helper()
	if got.Topic != want.Topic {
		s.t.Errorf("record %d: topic %q, want %q", want.Token, got.Topic, want.Topic)
	}
	if !s.target.NoKey && !sameBytes(got.Key, want.Key, false) {
		s.t.Errorf("record %d: key %#v, want %#v", want.Token, got.Key, want.Key)
	}
	if !sameBytes(got.Value, want.Value, s.target.NoNil) {
		s.t.Errorf("record %d: value of %d bytes (nil: %t) %.40q, want %d (nil: %t) %.40q", want.Token,
			len(got.Value), got.Value == nil, got.Value, len(want.Value), want.Value == nil, want.Value)
	}
	a, b := got.Headers, want.Headers
	if s.target.HeaderTable {
		a, b = sorted(a), sorted(b)
	}
	if !slices.EqualFunc(a, b, func(x, y publisher.Header) bool {
		return x.Name == y.Name && bytes.Equal(x.Value, y.Value)
	}) {
		s.t.Errorf("record %d: headers %q, want %q", want.Token, a, b)
	}
}

func sameBytes(a, b []byte, noNil bool) bool {
	return bytes.Equal(a, b) && (noNil || (a == nil) == (b == nil))
}

func sorted(headers []publisher.Header) []publisher.Header {
	return slices.SortedFunc(slices.Values(headers), func(a, b publisher.Header) int {
		return strings.Compare(a.Name, b.Name)
	})
}
