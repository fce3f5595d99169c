package imports_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/outboxd/outboxd"

// rule says that of our packages only those below home may import what begins
// with path.
type rule struct {
	path string
	home []string
}

var rules = []rule{
	{"github.com/jackc/pglogrepl", []string{"cdc"}},
	{"github.com/twmb/franz-go", []string{"publisher/kafka", "internal", "examples", "bench"}},
	{"github.com/rabbitmq/amqp091-go", []string{"publisher/rabbitmq", "internal", "examples", "bench"}},
	{"github.com/pressly/goose", []string{"migrations"}},
	{"github.com/fergusstrange/embedded-postgres", []string{"internal/devenv"}},
	{"github.com/prometheus", []string{"cmd/outboxd"}},
	{"github.com/spf13/cobra", []string{"cmd/outboxd"}},
	{"go.yaml.in/yaml", []string{"cmd/outboxd/internal/config"}},
	{module + "/internal/devenv", []string{"internal", "examples", "bench"}},
	{module + "/internal/checker", []string{"internal", "examples", "bench"}},
}

// siblings may import of ours only what stands here, and not what is below it.
var siblings = map[string][]string{
	"outbox":                         {},
	"cdc":                            {},
	"publisher":                      {},
	"migrations":                     {},
	"publisher/kafka":                {"publisher"},
	"publisher/rabbitmq":             {"publisher"},
	"publisher/jsonl":                {"publisher"},
	"publisher/publishertest":        {"publisher"},
	"outbox/outboxtest":              {"outbox"},
	"cmd/outboxd/internal/record":    {"cdc", "publisher"},
	"cmd/outboxd/internal/parked":    {"cdc", "cmd/outboxd/internal/record"},
	"cmd/outboxd/internal/retention": {"cdc"},
	"cmd/outboxd/internal/relay":     {"cdc", "outbox", "publisher", "cmd/outboxd/internal/record", "cmd/outboxd/internal/metrics", "cmd/outboxd/internal/parked", "cmd/outboxd/internal/admin"},
}

// packages returns our packages with what they import, tests apart.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", module+"/...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	imports := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		imports[strings.TrimPrefix(fields[0], module+"/")] = fields[1:]
	}
	if len(imports) < 10 {
		t.Fatalf("go list found %d packages", len(imports))
	}
	return imports
}

func below(name string, homes []string) bool {
	for _, home := range homes {
		if name == home || strings.HasPrefix(name, home+"/") {
			return true
		}
	}
	return false
}

func TestLibrariesStayInTheirRooms(t *testing.T) {
	all := packages(t)
	for _, r := range rules {
		used := false
		for name, imports := range all {
			for _, path := range imports {
				if !below(path, []string{r.path}) {
					continue
				}
				used = true
				if !below(name, r.home) {
					t.Errorf("%s imports %s; only %s may", name, path, strings.Join(r.home, ", "))
				}
			}
		}
		if !used {
			t.Errorf("nobody imports %s: its rule guards nothing", r.path)
		}
	}
}

func TestSiblingsDoNotMeet(t *testing.T) {
	all := packages(t)
	for name, allowed := range siblings {
		imports, ok := all[name]
		if !ok {
			t.Errorf("there is no package %s", name)
		}
		for _, path := range imports {
			if ours, found := strings.CutPrefix(path, module+"/"); found && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", name, ours)
			}
		}
	}
}
