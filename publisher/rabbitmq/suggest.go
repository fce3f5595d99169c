package rabbitmq

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// unknownOption names the options there are, and the one that was probably
// meant.
func unknownOption[V any](name string, known map[string]V) error {
	names := slices.Sorted(maps.Keys(known))
	hint := ""
	best := 1 + len(name)/3
	for _, n := range append(names, slices.Sorted(maps.Keys(foreignNames()))...) {
		if d := distance(name, n); d <= best {
			best, hint = d-1, n
		}
	}
	if ours, ok := foreignNames()[hint]; ok {
		hint = ours
	}
	if hint != "" {
		hint = fmt.Sprintf(", did you mean %s", hint)
	}
	return fmt.Errorf("unknown option %q%s (known: %s)", name, hint, strings.Join(names, ", "))
}

// foreignNames are options of RabbitMQ's own URI scheme that have another name
// here.
func foreignNames() map[string]string {
	return map[string]string{
		"cacertfile":             "tls_ca",
		"certfile":               "tls_cert",
		"keyfile":                "tls_key",
		"server_name_indication": "tls_server_name",
		"connection_timeout":     "connect_timeout",
	}
}

// distance is the number of letters to insert, remove or replace to turn a
// into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
