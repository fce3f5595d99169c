package e2e_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv"
	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// TestAlerts: deploy/alerts.sql is quiet while a relay runs, and names what is
// wrong when none does.
func TestAlerts(t *testing.T) {
	t.Parallel()
	for _, version := range devenv.PostgresVersions() {
		t.Run(version, func(t *testing.T) {
			s := newSite(t, devtest.DatabaseOn(t, devtest.PostgresVersion(t, version).URL("postgres", "postgres")))
			out := newLines(t)
			r := s.run(out.broker()...)
			s.write(1, 1)
			out.expect(1, 1)
			if got := s.alerts(t, asItIs); len(got) != 0 {
				t.Errorf("a relay runs, and the alerts are %q", got)
			}
			if got := s.alerts(t, narrow); !slices.Equal(got, []string{"slot_holds_back_vacuum"}) {
				t.Errorf("the age of a transaction is too much, and the alerts are %q", got)
			}
			if code := r.term(); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			s.write(2, 2)
			eventually(t, 10*time.Second, "no relay is an alert", func() bool {
				return slices.Equal(s.alerts(t, impatient), []string{"slot_inactive", "witness_not_updated"})
			})
			s.exec("SELECT pg_drop_replication_slot('" + s.slot() + "')")
			if got := s.alerts(t, impatient); !slices.Equal(got, []string{"slot_missing"}) {
				t.Errorf("no slot, and the alerts are %q", got)
			}
		})
	}
}

// asItIs is the script with its own thresholds, impatient one that need not be
// waited for, narrow one that allows the slot to keep nothing from vacuum.
var (
	narrow    = strings.NewReplacer("100000000 ", "-1 ")
	asItIs    = strings.NewReplacer()
	impatient = strings.NewReplacer("interval '1 minute'", "interval '0'", "16 * 1024 ^ 2 ", "0 ")
)

// alerts returns the rules that the two queries report of the site's slot.
func (s *site) alerts(t *testing.T, thresholds *strings.Replacer) (rules []string) {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/alerts.sql")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), s.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	results, err := conn.PgConn().Exec(t.Context(), thresholds.Replace(string(text))).ReadAll()
	if err != nil || len(results) != 2 {
		t.Fatalf("%d results: %v", len(results), err)
	}
	for _, result := range results {
		for _, row := range result.Rows {
			for i, column := range result.FieldDescriptions {
				if (column.Name == "slot_name" || column.Name == "slot") && string(row[i]) == s.slot() {
					rules = append(rules, string(row[1]))
				}
			}
		}
	}
	return rules
}
