package record

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// routeFields are the columns that a route may be taken from.
var routeFields = []field{fieldAggregateType, fieldAggregateID, fieldType}

// route takes parts of one column for the topic template, as Debezium's
// route.by.field and route.topic.regex do. A nil route matches everything and
// has no groups. A regular expression costs allocations for each event;
// without one the template alone is used.
type route struct {
	by    field
	regex *regexp.Regexp
}

func newRoute(d Debezium) (*route, error) {
	if d.RouteRegex == "" {
		if d.RouteBy != "" {
			return nil, fmt.Errorf("debezium route by %q without a regular expression: name the column in the topic template, as in outbox.event.{%s}", d.RouteBy, d.RouteBy)
		}
		return nil, nil
	}
	var problems []error
	r := &route{by: fieldAggregateType}
	if d.RouteBy != "" {
		by, known := findField(d.RouteBy, routeFields)
		if !known {
			problems = append(problems, fmt.Errorf("debezium route by unknown column %q; known: %s", d.RouteBy, fieldNames(routeFields)))
		}
		r.by = by
	}
	// Java matches the whole value.
	regex, err := regexp.Compile(`\A(?:` + d.RouteRegex + `)\z`)
	if err != nil {
		problems = append(problems, fmt.Errorf("debezium route: %w", err))
	}
	r.regex = regex
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return r, nil
}

// placeholders are those that a template of this route may use.
func (r *route) placeholders() []placeholder {
	if r == nil {
		return fieldPlaceholders
	}
	var all []placeholder
	for i, name := range r.regex.SubexpNames() {
		if name != "" {
			all = append(all, placeholder{name: name, group: i})
		}
		all = append(all, placeholder{name: strconv.Itoa(i), group: i})
	}
	return append(all, fieldPlaceholders...)
}

// match returns the groups of the event's route, or the topic itself when the
// route does not match, as Debezium then leaves it.
func (r *route) match(ev *Event) (topic []byte, groups [][]byte, err error) {
	if r == nil {
		return nil, nil, nil
	}
	value := r.by.text(ev)
	if value == nil {
		return nil, nil, missingField(r.by, nil, "the route is taken from it")
	}
	groups = r.regex.FindSubmatch(value)
	if groups == nil {
		return value, nil, nil
	}
	return nil, groups, nil
}
