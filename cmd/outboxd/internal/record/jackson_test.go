package record

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// The length is exact, for an arena's room is; the text comes back; and no
// character that Jackson escapes is left.
func FuzzJackson(f *testing.F) {
	f.Add([]byte("text 'q' \"dq\" \\ back ü 漢 \U0001F389"))
	f.Add([]byte("\x00\x07\b\t\n\v\f\r\x1f\x7f"))
	f.Add([]byte("\xff\xed\xa0\x80\uFFFF\U00010000\U0010FFFF"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := appendJackson(nil, text)
		if len(got) != jacksonLen(text) {
			t.Fatalf("%q: %d bytes, announced %d", text, len(got), jacksonLen(text))
		}
		var back string
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%q: %s: %v", text, got, err)
		}
		if text == nil {
			return
		}
		if want := string([]rune(string(text))); back != want {
			t.Fatalf("%q: reads %q, want %q", got, back, want)
		}
		if i := strings.IndexFunc(string(got), func(r rune) bool { return r < 0x20 || r > 0xFFFF }); i >= 0 || !utf8.Valid(got) {
			t.Fatalf("%q holds what Jackson escapes", got)
		}
	})
}
