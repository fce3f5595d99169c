package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// checkJSON makes sure that the scanner may be used on text.
func checkJSON(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("not valid UTF-8")
	}
	if !json.Valid(text) {
		return fmt.Errorf("not JSON: %w", syntaxError(text))
	}
	return nil
}

func isJSON(text []byte) bool { return utf8.Valid(text) && json.Valid(text) }

// present returns value without the space around it, and nil for null.
func present(value []byte) []byte {
	s := scanner{buf: value}
	value, _ = s.value()
	if string(value) == "null" {
		return nil
	}
	return value
}

// membersOf returns the values of an object's members in the order of names,
// nil for those that are absent or null.
func membersOf(object []byte, names []string) ([][]byte, error) {
	object = present(object)
	if len(object) == 0 || object[0] != '{' {
		return nil, fmt.Errorf("%s is not an object", quoteShort(string(object)))
	}
	values := make([][]byte, len(names))
	var seen uint16
	err := eachMember(object, func(quoted, value []byte) error {
		name, err := unquote(quoted)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(names, func(known string) bool { return known == string(name) })
		if i < 0 {
			return fmt.Errorf("%s: unknown member (known are %q)", quoteShort(string(name)), names)
		}
		if seen&(1<<i) != 0 {
			return fmt.Errorf("%s: given twice", name)
		}
		seen |= 1 << i
		values[i] = present(value)
		return nil
	})
	return values, err
}

// stringOf returns the value of a JSON string.
func stringOf(value []byte) (string, error) {
	s, err := unquote(value)
	return string(s), err
}

// unquote returns the value of a JSON string, as part of it where it has no
// escapes: nearly all are so, and encoding/json allocates for each.
func unquote(value []byte) ([]byte, error) {
	if len(value) < 2 || value[0] != '"' {
		return nil, fmt.Errorf("%s is not a string", quoteShort(string(value)))
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1], nil
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return nil, err
	}
	return []byte(s), nil
}

func requiredString(value []byte) (string, error) {
	if value == nil {
		return "", errors.New("missing")
	}
	s, err := stringOf(value)
	if err == nil && s == "" {
		err = errors.New("empty")
	}
	return s, err
}

// scalarOf returns a string's value and the text of a number or boolean: SQL
// writers put a bigint where we expect its digits.
func scalarOf(value []byte) (string, error) {
	if len(value) > 0 && value[0] == '"' {
		return stringOf(value)
	}
	if len(value) == 0 || value[0] == '{' || value[0] == '[' {
		return "", fmt.Errorf("%s is neither string nor number", quoteShort(string(value)))
	}
	return string(value), nil
}
