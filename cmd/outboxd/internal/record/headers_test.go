package record_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/record"
	"github.com/outboxd/outboxd/publisher"
)

func header(name, value string) publisher.Header {
	return publisher.Header{Name: name, Value: []byte(value)}
}

func TestParseHeaders(t *testing.T) {
	for _, test := range []struct {
		text string
		want []publisher.Header
	}{
		{`{}`, nil},
		{" {\t}\r\n", nil},
		{`null`, nil},
		{`{"a":"1","b":"2"}`, []publisher.Header{header("a", "1"), header("b", "2")}},
		{`{"b":"2","a":"1","b":"3"}`, []publisher.Header{header("b", "2"), header("a", "1"), header("b", "3")}},
		{`{"":""}`, []publisher.Header{header("", "")}},
		{`{"a":null,"b":"2"}`, []publisher.Header{header("b", "2")}},
		{`{"n":-1.50e+3,"t":true,"f":false}`, []publisher.Header{header("n", "-1.50e+3"), header("t", "true"), header("f", "false")}},
		{`{"o": { "x" : [ 1 , "} ]\" " ] } , "a" : [ ] }`, []publisher.Header{header("o", `{"x":[1,"} ]\" "]}`), header("a", "[]")}},
		{`{"\u00fc\n":"\"\\\/\b\f\n\r\t\u0000"}`, []publisher.Header{header("ü\n", "\"\\/\b\f\n\r\t\x00")}},
		{`{"a":"\ud83d\ude00 \uD83D \ude00\ud83d\u0041"}`, []publisher.Header{header("a", "😀 \uFFFD \uFFFD\uFFFDA")}},
	} {
		got, err := record.ParseHeaders([]byte(test.text), nil, new(record.Arena))
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %q, error %v, want %q", test.text, got, err, test.want)
		}
	}
}

func TestParseHeadersErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{``, "want a JSON object"},
		{`[]`, "want a JSON object"},
		{`"a"`, "want a JSON object"},
		{`nul`, "want a JSON object"},
		{`null null`, "nothing after the object at position 6"},
		{`{} {}`, "nothing after the object at position 4"},
		{`{`, "want a string, found the end"},
		{`{a":1}`, "want a string at position 2, found 'a'"},
		{`{"a" 1}`, "want ':' after a name at position 6, found '1'"},
		{`{"a":`, "want a value, found the end"},
		{`{"a":}`, "want a value at position 6, found '}'"},
		{`{"a":01}`, "want a value at position 6"},
		{`{"a":tru}`, "want a value at position 6"},
		{`{"a":1 2}`, "want ',' or '}' after a value at position 8, found '2'"},
		{`{"a":1,}`, "want a string at position 8, found '}'"},
		{`{"a":"`, "want the end of a string"},
		{`{"a":"\`, "want an escape at position 7"},
		{`{"a":"\x"}`, `want an escape at position 7`},
		{`{"a":"\u12g4"}`, `want an escape at position 7`},
		{"{\"a\":\"\n\"}", "want no control character in a string at position 7"},
		{"{\"a\":\"\x1f\"}", "want no control character in a string at position 7"},
		{`{"a":{"b":1}`, "want ',' or '}' after a value, found the end"},
		{`{"a":{"b":1`, "want the end of a nested value"},
		{`{"a":["]}`, "want the end of a string"},
		{`{"a":{"b"]}`, "nested value at position 6: invalid character ']'"},
		{`{"a":[1,]}`, "nested value at position 6: invalid character ']'"},
	} {
		before := []publisher.Header{header("x", "y")}
		got, err := record.ParseHeaders([]byte(test.text), before, new(record.Arena))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q in it", test.text, err, test.want)
		}
		if len(got) != 1 {
			t.Errorf("%s: %d headers after an error, want those of before", test.text, len(got))
		}
	}
}

func TestParseHeadersAppends(t *testing.T) {
	text := []byte(`{"b":"2","c":3}`)
	got, err := record.ParseHeaders(text, []publisher.Header{header("a", "1")}, new(record.Arena))
	if err != nil {
		t.Fatal(err)
	}
	clear(text)
	if want := []publisher.Header{header("a", "1"), header("b", "2"), header("c", "3")}; !reflect.DeepEqual(got, want) {
		t.Errorf("headers %q, want %q, copied from the text", got, want)
	}
	if got, err := record.ParseHeaders(nil, got[:1], new(record.Arena)); err != nil || len(got) != 1 {
		t.Errorf("NULL: %q, %v", got, err)
	}
}

func FuzzParseHeaders(f *testing.F) {
	for _, s := range []string{
		``, `null`, `{}`, `{"a":"b"}`, `{"a":null,"a":1}`, `{"a":[{"b":"]"}]}`, `{"\ud83d\ude00":"\u0000"}`, `{"a":-0.1e9 , "b":true}`,
		`{"a":"\ud83d"}`, `{"a":1}x`, `{"a":[}]}`, "{\"\xff\":\"\xff\"}", `{"a":{}`, `{,}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		want, ok := naiveHeaders(text)
		got, err := record.ParseHeaders(bytes.Clone(text), nil, new(record.Arena))
		if ok != (err == nil) {
			t.Fatalf("%q: error %v, encoding/json accepts it: %t", text, err, ok)
		}
		if !utf8.Valid(text) {
			return // encoding/json replaces what is not UTF-8
		}
		if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
	})
}

// naiveHeaders is ParseHeaders by encoding/json.
func naiveHeaders(text []byte) ([]publisher.Header, bool) {
	trimmed := bytes.Trim(text, " \t\r\n")
	if string(trimmed) == "null" {
		return nil, true
	}
	if !json.Valid(text) || trimmed[0] != '{' {
		return nil, false
	}
	var headers []publisher.Header
	d := json.NewDecoder(bytes.NewReader(text))
	d.Token()
	for d.More() {
		name, _ := d.Token()
		var raw json.RawMessage
		if d.Decode(&raw) != nil {
			return nil, false
		}
		var s string
		var compact bytes.Buffer
		switch {
		case string(raw) == "null":
			continue
		case json.Unmarshal(raw, &s) == nil:
		default:
			json.Compact(&compact, raw)
			s = compact.String()
		}
		headers = append(headers, header(name.(string), s))
	}
	return headers, true
}
