package record

import (
	"fmt"
	"strings"
)

// template is text with placeholders in braces.
type template struct {
	source string
	parts  []part
}

// part is a literal, or a placeholder.
type part struct {
	literal string
	// place is nil for a literal.
	place *placeholder
}

// placeholder is a name that a template may use. It stands for a field of the
// event, or for a group of the route's regular expression.
type placeholder struct {
	name  string
	field field
	group int // index of the group; -1: it is a field
}

// fieldPlaceholders are those that every template knows.
var fieldPlaceholders = []placeholder{
	{name: fieldAggregateType.String(), field: fieldAggregateType, group: -1},
	{name: fieldAggregateID.String(), field: fieldAggregateID, group: -1},
	{name: fieldType.String(), field: fieldType, group: -1},
}

// parseTemplate reads source, which may use the placeholders in known.
// Positions in its errors count bytes from 1.
func parseTemplate(source string, known []placeholder) (*template, error) {
	t := &template{source: source}
	for at := 0; at < len(source); {
		rest := source[at:]
		switch i := strings.IndexAny(rest, "{}"); {
		case i < 0:
			t.parts = append(t.parts, part{literal: rest})
			return t, nil
		case i > 0:
			t.parts = append(t.parts, part{literal: rest[:i]})
			at += i
		case rest[0] == '}':
			return nil, fmt.Errorf("template %q: '}' at position %d closes nothing", source, at+1)
		default:
			end := strings.IndexAny(rest[1:], "{}") + 1 // 0, the '{' itself, if there is none
			if rest[end] != '}' {
				return nil, fmt.Errorf("template %q: '{' at position %d is not closed", source, at+1)
			}
			place, err := findPlaceholder(rest[1:end], known)
			if err != nil {
				return nil, fmt.Errorf("template %q: %w at position %d; known: %s", source, err, at+1, placeholderNames(known))
			}
			t.parts = append(t.parts, part{place: place})
			at += end + 1
		}
	}
	return t, nil
}

func findPlaceholder(name string, known []placeholder) (*placeholder, error) {
	for i := range known {
		if known[i].name == name {
			return &known[i], nil
		}
	}
	return nil, fmt.Errorf("unknown placeholder {%s}", name)
}

func placeholderNames(known []placeholder) string {
	names := make([]string, len(known))
	for i := range known {
		names[i] = "{" + known[i].name + "}"
	}
	return strings.Join(names, ", ")
}

// expand appends nothing but what the event holds: a value is never read as a
// template again. groups are the route's, and nil without one.
func (t *template) expand(ev *Event, groups [][]byte, arena *Arena) ([]byte, error) {
	n := 0
	for i := range t.parts {
		p := &t.parts[i]
		value := p.value(ev, groups)
		if value == nil && p.place != nil && p.place.group < 0 {
			return nil, missingField(p.place.field, nil, fmt.Sprintf("the topic template %q needs it", t.source))
		}
		n += len(p.literal) + len(value)
	}
	b := arena.alloc(n)
	for i := range t.parts {
		p := &t.parts[i]
		b = append(b, p.literal...)
		b = append(b, p.value(ev, groups)...)
	}
	return b, nil
}

func (p *part) value(ev *Event, groups [][]byte) []byte {
	switch {
	case p.place == nil:
		return nil
	case p.place.group >= 0:
		return groups[p.place.group]
	default:
		return p.place.field.text(ev)
	}
}
