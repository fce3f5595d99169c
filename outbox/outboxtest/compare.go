package outboxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/outboxd/outboxd/outbox"
)

// compare returns a report of the differences between got and want, empty if
// there are none. The error says that want itself cannot be compared.
func compare(got []Written, want []outbox.Event) (string, error) {
	var report strings.Builder
	different := false
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			different = true
			fmt.Fprintf(&report, "event %d: missing\n  - %s\n", i, describeWanted(want[i]))
		case i >= len(want):
			different = true
			fmt.Fprintf(&report, "event %d: not wanted\n  + %s\n", i, describeWritten(got[i]))
		default:
			lines, err := compareEvent(got[i], want[i])
			if err != nil {
				return "", fmt.Errorf("wanted event %d: %w", i, err)
			}
			if len(lines) == 0 {
				fmt.Fprintf(&report, "event %d: as wanted: %s\n", i, describeWritten(got[i]))
				continue
			}
			different = true
			fmt.Fprintf(&report, "event %d: %s\n%s", i, describeWritten(got[i]), strings.Join(lines, ""))
		}
	}
	if !different {
		return "", nil
	}
	return report.String(), nil
}

func describeWanted(e outbox.Event) string {
	return fmt.Sprintf("%s of %s %s", orAny(e.Type), orAny(e.AggregateType), orAny(e.AggregateID))
}

func describeWritten(w Written) string {
	return fmt.Sprintf("%s of %s %s", w.Type, w.AggregateType, w.AggregateID)
}

func orAny(s string) string {
	if s == "" {
		return "(any)"
	}
	return s
}

// compareEvent returns the differences as lines of a report.
func compareEvent(got Written, want outbox.Event) (lines []string, err error) {
	add := func(field, want, got string) {
		lines = append(lines, fmt.Sprintf("  - %s: %s\n  + %s: %s\n", field, want, field, got))
	}
	text := func(field, want, got string) {
		if want != "" && want != got {
			add(field, fmt.Sprintf("%q", want), fmt.Sprintf("%q", got))
		}
	}
	if !want.ID.IsZero() {
		text("ID", want.ID.String(), got.ID.String())
	}
	text("AggregateType", want.AggregateType, got.AggregateType)
	text("AggregateID", want.AggregateID, got.AggregateID)
	text("Type", want.Type, got.Type)
	if wanted, same, err := comparePayload(got.Payload, want.Payload); err != nil {
		return nil, err
	} else if !same {
		add("Payload", wanted, describePayload(got.Payload))
	}
	for _, name := range slices.Sorted(maps.Keys(want.Headers)) {
		values := valuesOf(got.Headers, name)
		if !slices.Contains(values, want.Headers[name]) {
			found := "missing"
			if values != nil {
				found = fmt.Sprintf("%q", values[0])
			}
			add(fmt.Sprintf("Headers[%q]", name), fmt.Sprintf("%q", want.Headers[name]), found)
		}
	}
	return lines, nil
}

func valuesOf(headers []outbox.Header, name string) (values []string) {
	for _, h := range headers {
		if h.Name == name {
			values = append(values, h.Value)
		}
	}
	return values
}

// comparePayload compares a payload, and returns what was wanted as text.
func comparePayload(got []byte, want any) (wanted string, same bool, err error) {
	var text []byte
	switch want := want.(type) {
	case nil:
		return "", true, nil
	case nullPayload:
		return "NULL", got == nil, nil
	case []byte:
		text = want
	case json.RawMessage:
		text = want
	default:
		if text, err = json.Marshal(want); err != nil {
			return "", false, fmt.Errorf("payload cannot be marshalled: %w", err)
		}
	}
	wanted = describePayload(text)
	if got == nil {
		return wanted, false, nil
	}
	a, errGot := decodeJSON(got)
	b, errWant := decodeJSON(text)
	if errGot != nil || errWant != nil {
		return wanted, bytes.Equal(got, text), nil
	}
	return wanted, equalJSON(a, b), nil
}

// describePayload shows a payload for comparison by eye: JSON with sorted keys.
func describePayload(payload []byte) string {
	if payload == nil {
		return "NULL"
	}
	v, err := decodeJSON(payload)
	if err != nil {
		return fmt.Sprintf("%q", payload)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Sprintf("%q", payload)
	}
	return strings.TrimSpace(b.String())
}
