package setup_test

import (
	"errors"
	"testing"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestRecall: the names that were not given are those of the pipeline's row.
func TestRecall(t *testing.T) {
	d := newDatabase(t)
	role, relay := d.role(t, "REPLICATION")
	is := setup.Identity{Pipeline: devtest.Name(t), Slot: devtest.Name(t), Publication: "My Pub", Schema: "public", Name: "events"}
	asked := setup.Identity{Pipeline: is.Pipeline, Slot: "s", Publication: "p", Schema: "x", Name: "y"}
	unknown := setup.Identity{Pipeline: devtest.Name(t), Slot: "s", Publication: "p", Schema: "x", Name: "y"}
	given := func(names ...string) func(string) bool {
		return func(name string) bool {
			for _, n := range names {
				if n == name {
					return true
				}
			}
			return false
		}
	}
	recall := func(url string, id setup.Identity, given func(string) bool, want setup.Identity) {
		t.Helper()
		if got, err := setup.Recall(t.Context(), url, id, given); got != want || err != nil {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	recall(d.url, asked, given(), asked) // nothing is set up here
	d.mustApply(t, setup.Options{Pipeline: is.Pipeline, Slot: is.Slot, Publication: is.Publication, Table: is.Table()})
	recall(d.url, asked, given(), is)
	recall(d.url, unknown, given(), unknown)
	some := is
	some.Slot = asked.Slot
	recall(d.url, asked, given("slot"), some)
	// It takes no connection to know what was given, nor a right that is missing
	// to be told of it by who needs it.
	recall("postgres://127.0.0.1:1/db", asked, given("slot", "publication", "table"), asked)
	recall(relay, asked, given(), asked)
	d.mustApply(t, setup.Options{Pipeline: is.Pipeline, Slot: is.Slot, Publication: is.Publication, Table: is.Table(), RelayRole: role})
	recall(relay, asked, given(), is)

	_, err := setup.Recall(t.Context(), "postgres://127.0.0.1:1/db", asked, given())
	var named *cdc.Error
	if !errors.As(err, &named) || named.Code != cdc.CodeUnreachable {
		t.Errorf("without a server: %v", err)
	}
}
