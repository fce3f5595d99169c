package outboxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
)

// decodeJSON reads one JSON text, with numbers as they are spelt.
func decodeJSON(text []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON text")
	}
	return v, nil
}

// equalJSON compares two values from decodeJSON.
func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for name, value := range a {
			other, ok := b[name]
			if !ok || !equalJSON(value, other) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equalJSON(a[i], b[i]) {
				return false
			}
		}
		return true
	case json.Number:
		b, ok := b.(json.Number)
		return ok && equalNumbers(a, b)
	default:
		return a == b
	}
}

// equalNumbers compares with more digits than a float64 has: two ids beyond
// 2^53 are not equal because they round to the same float.
func equalNumbers(a, b json.Number) bool {
	const bits = 512
	x, _, errA := big.ParseFloat(a.String(), 10, bits, big.ToNearestEven)
	y, _, errB := big.ParseFloat(b.String(), 10, bits, big.ToNearestEven)
	if errA != nil || errB != nil {
		return a == b
	}
	return x.Cmp(y) == 0
}
