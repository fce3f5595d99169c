package main

import (
	"cmp"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// redactor takes passwords out of everything that is printed. Nobody prints one
// on purpose; this is for the errors of libraries, which like to quote what
// they could not read.
// It is safe for concurrent use.
type redactor struct {
	mu       sync.Mutex
	pairs    []string
	replacer *strings.Replacer // nil: pairs have been added since
}

// plainSecret is the length from which a password is replaced wherever it
// stands. A shorter one, or one that is also the user's name, is likely to be a
// part of ordinary words, and is replaced where it stands as a password.
const (
	plainSecret   = 8
	plainFragment = 3 // of a longer one
)

// secretParameter finds values of parameters that are named like secrets, in a
// URL or a keyword connection string.
var secretParameter = regexp.MustCompile(`(?i)[a-z_]*(?:password|passwd|secret|token)[a-z_]*\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]+)`)

// newRedactor looks for secrets in what the program was given: every argument,
// and every variable that may hold a URL or a password.
func newRedactor(args []string, env map[string]string) *redactor {
	r := &redactor{}
	for _, arg := range args {
		r.scan(arg)
	}
	for name, value := range env {
		switch {
		case name == "PGPASSWORD", name == "PGSSLPASSWORD":
			r.add("", value)
		case strings.HasPrefix(name, envPrefix), strings.HasPrefix(name, "PG"):
			r.scan(value)
		}
	}
	return r
}

// scan finds the passwords of one text. It does not parse: what cannot be
// parsed is what ends up in errors.
func (r *redactor) scan(text string) {
	for _, match := range secretParameter.FindAllStringSubmatch(text, -1) {
		if name, _, _ := strings.Cut(match[0], "="); strings.Contains(name, "_file") {
			continue // a path is no secret, and helps
		}
		r.add("", strings.Trim(match[1], "'"))
	}
	_, rest, isURL := strings.Cut(text, "://")
	at := strings.LastIndexByte(rest, '@')
	if !isURL || at < 0 {
		return
	}
	user, password, has := strings.Cut(rest[:at], ":")
	if has {
		r.add(user, password)
	}
}

func (r *redactor) add(user, secret string) {
	forms := []string{secret}
	if plain, err := url.PathUnescape(secret); err == nil {
		forms = append(forms, plain)
	}
	if plain, err := url.QueryUnescape(secret); err == nil {
		forms = append(forms, plain)
	}
	forms = append(forms, url.QueryEscape(secret), url.PathEscape(secret))
	forms = append(forms, fragments(secret)...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replacer = nil
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	for _, form := range slices.Compact(forms) {
		switch {
		case form == "":
		case form != user && (len(form) >= plainSecret || len(secret) >= plainSecret && len(form) >= plainFragment):
			r.pairs = append(r.pairs, form, "***")
		default:
			r.pairs = append(r.pairs, ":"+form+"@", ":***@", "password="+form, "password=***")
		}
	}
}

// fragments are what parsers make of a password that should have been
// percent-encoded: they take a part of it for the host, and quote that.
func fragments(secret string) []string {
	var parts []string
	for i, c := range secret {
		if strings.ContainsRune("@/?# ", c) {
			parts = append(parts, secret[:i], secret[i+1:])
		}
	}
	return parts
}

// text returns s without the secrets.
func (r *redactor) text(s string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.replacer == nil {
		r.replacer = strings.NewReplacer(r.pairs...)
	}
	return r.replacer.Replace(s)
}

// writer returns w without the secrets, those that are found later included. A
// secret that is cut in two by two writes passes: every line that this program
// prints is one write.
func (r *redactor) writer(w io.Writer) io.Writer { return &redactingWriter{w, r} }

type redactingWriter struct {
	w       io.Writer
	secrets *redactor
}

func (w *redactingWriter) Write(p []byte) (int, error) {
	if _, err := io.WriteString(w.w, w.secrets.text(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
