package cdc_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/outboxd/outboxd/cdc"
)

func TestPositionText(t *testing.T) {
	p := cdc.Position{Epoch: 1, Commit: 0x16b3748, Ordinal: 12}
	if got, want := p.String(), "0001.00000000016b3748.0000000c"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// In the order of the tuple; the texts must be in the same.
	positions := []cdc.Position{
		{}, {Ordinal: 9}, {Ordinal: 10}, {Ordinal: math.MaxUint32}, {Commit: 1}, {Commit: 0xff, Ordinal: 3}, {Commit: 0x100},
		{Commit: math.MaxUint64, Ordinal: math.MaxUint32}, {Epoch: 1}, {Epoch: 10, Commit: 5}, {Epoch: math.MaxUint16},
	}
	var texts []string
	for _, p := range positions {
		texts = append(texts, p.String())
		back, err := cdc.ParsePosition(p.String())
		if err != nil || back != p {
			t.Errorf("%v reads back as %v, %v", p, back, err)
		}
	}
	if !slices.IsSorted(texts) {
		t.Errorf("texts are not in the order of the positions:\n%s", strings.Join(texts, "\n"))
	}
}

func TestParsePositionRefuses(t *testing.T) {
	for _, s := range []string{"", "0001", "0001.00000000016b3748.0000000", "0001-00000000016b3748.0000000c", "000g.00000000016b3748.0000000c",
		"0001.00000000016b3748.+000000c", "0001.00000000016b3748.0000000c ", "0001.0x000000016b3748.0000000c"} {
		if p, err := cdc.ParsePosition(s); err == nil {
			t.Errorf("%q reads as %v", s, p)
		}
	}
}
