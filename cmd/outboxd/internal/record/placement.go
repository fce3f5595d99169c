package record

import (
	"errors"
	"fmt"
	"strings"
)

// placement puts one column of the event into a header or into the envelope.
type placement struct {
	field field
	alias string
	// envelope: the value's envelope, not a header.
	envelope bool
	// prefix is what stands before the value in an envelope: ,"alias":
	prefix []byte
}

// placeable are the columns that can be placed.
var placeable = []field{fieldID, fieldAggregateType, fieldAggregateID, fieldType, fieldHeaders, fieldCreatedAt}

// parsePlacements reads what Debezium calls
// table.fields.additional.placement. Spaces around its parts are allowed.
func parsePlacements(list string, ignoreMissing bool) ([]placement, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	var placements []placement
	var problems []error
	for _, item := range strings.Split(list, ",") {
		column, rest, _ := strings.Cut(strings.TrimSpace(item), ":")
		where, alias, aliased := strings.Cut(rest, ":")
		if !aliased {
			alias = column
		}
		field, known := findField(column, placeable)
		switch {
		case where != "header" && where != "envelope":
			problems = append(problems, fmt.Errorf("debezium placement %q: want column:header or column:envelope, with :alias after it if wanted", item))
		case alias == "":
			problems = append(problems, fmt.Errorf("debezium placement %q: the alias is empty", item))
		case known:
			placements = append(placements, newPlacement(field, where == "envelope", alias))
		case !ignoreMissing:
			problems = append(problems, fmt.Errorf("debezium placement %q: unknown column %q; known: %s", item, column, fieldNames(placeable)))
		}
	}
	return placements, errors.Join(problems...)
}

func newPlacement(f field, envelope bool, alias string) placement {
	p := placement{field: f, alias: alias, envelope: envelope}
	p.prefix = append(appendJackson([]byte{','}, []byte(alias)), ':')
	return p
}

func findField(name string, among []field) (field, bool) {
	for _, f := range among {
		if f.String() == name {
			return f, true
		}
	}
	return 0, false
}

func fieldNames(fields []field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.String()
	}
	return strings.Join(names, ", ")
}

// placed is the field's text as Debezium places it, nil for NULL: the event's
// own bytes, or a time appended to scratch.
func (f field) placed(ev *Event, scratch []byte) []byte {
	switch {
	case f != fieldCreatedAt:
		return f.text(ev)
	case ev.Time.IsZero():
		return debeziumEpoch
	default:
		return ev.Time.UTC().AppendFormat(scratch, debeziumTime)
	}
}
