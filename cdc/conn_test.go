package cdc

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

// What the owner of the database or the role has set for others must neither
// change the text of values nor end the stream or lose a witness.
func TestSettingsOfDatabaseDoNotMatter(t *testing.T) {
	type setting struct {
		name, theirs    string
		stream, witness string // what each connection has; empty: it does not matter
	}
	tests := []setting{
		{"client_encoding", "LATIN1", "UTF8", ""},
		{"DateStyle", "German", "ISO, DMY", ""},
		{"IntervalStyle", "iso_8601", "postgres", ""},
		{"TimeZone", "Asia/Tokyo", "UTC", ""},
		{"extra_float_digits", "-15", "3", ""},
		{"bytea_output", "escape", "hex", ""},
		{"statement_timeout", "1min", "0", ""},
		{"lock_timeout", "1min", "0", "1s"},
		{"idle_in_transaction_session_timeout", "1min", "0", ""},
		{"idle_session_timeout", "1min", "0", ""},
		{"transaction_timeout", "1min", "0", ""}, // 17 and later
		{"wal_sender_timeout", "0", "7s", ""},
		{"synchronous_commit", "off", "", "on"},
	}
	cfg := &Config{Database: devtest.Database(t), Pipeline: "p"}
	admin, err := pgx.Connect(t.Context(), cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer closeSQL(admin)
	srv, err := inspectServer(t.Context(), admin)
	if err != nil {
		t.Fatal(err)
	}
	if srv.version < 17_00_00 {
		tests = slices.DeleteFunc(tests, func(tt setting) bool { return tt.name == "transaction_timeout" })
	}
	name := pgx.Identifier{admin.Config().Database}.Sanitize()
	for _, tt := range tests {
		if _, err := admin.Exec(t.Context(), "ALTER DATABASE "+name+" SET "+tt.name+" = '"+tt.theirs+"'"); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := connectReplication(t.Context(), cfg, srv.version, 7*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer closeReplication(stream)
	witness, err := connectSQL(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeSQL(witness)
	for _, tt := range tests {
		if tt.stream != "" {
			rows, err := stream.Exec(t.Context(), "SHOW "+tt.name).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if got := string(rows[0].Rows[0][0]); got != tt.stream {
				t.Errorf("stream: %s = %s, want %s", tt.name, got, tt.stream)
			}
		}
		if tt.witness != "" {
			var got string
			if err := witness.QueryRow(t.Context(), "SHOW "+tt.name).Scan(&got); err != nil || got != tt.witness {
				t.Errorf("witness: %s = %s, %v; want %s", tt.name, got, err, tt.witness)
			}
		}
	}
}
