package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/spf13/cobra"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/relay"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

// TestComplete: the command in a fix can be run as it stands, and means the
// pipeline and the database that this command was told of.
func TestComplete(t *testing.T) {
	const (
		database = "postgres://u:secret@h:5433/shop?sslmode=require"
		shown    = "'postgres://u@h:5433/shop?sslmode=require'"
		fix      = "outboxd setup --pipeline p, or run with --setup"
	)
	t.Chdir(t.TempDir())
	file := write(t, "outboxd.yaml", "slot: s\ncolumns: id=x\ntable: x.y\ndatabase: "+database+"\n")
	tests := []struct {
		name      string
		args      []string
		env       map[string]string
		fix, want string
	}{
		{"nothing given", nil, nil, fix, fix},
		{"database in a flag", []string{"--database", database}, nil, fix, "outboxd setup --pipeline p --database " + shown + ", or run with --setup"},
		{"keywords", []string{"--database", "host=h password='se cret' dbname=shop"}, nil, "outboxd adopt --pipeline p", "outboxd adopt --pipeline p --database 'host=h  dbname=shop'"},
		{"database in a variable", nil, map[string]string{"OUTBOXD_DATABASE": database}, fix, fix},
		{"names", []string{"--table", "x.y", "--slot", "s"}, nil, fix, "outboxd setup --pipeline p --slot s --table x.y, or run with --setup"},
		{"names in variables", nil, map[string]string{"OUTBOXD_SLOT": "s"}, fix, "outboxd setup --pipeline p --slot s, or run with --setup"},
		{"teardown knows the names", []string{"--slot", "s"}, nil, "first outboxd teardown --pipeline p, then outboxd setup --pipeline p",
			"first outboxd teardown --pipeline p, then outboxd setup --pipeline p --slot s"},
		{"quotes", []string{"--publication", "it's"}, nil, "outboxd adopt --pipeline p, which", `outboxd adopt --pipeline p --publication 'it'\''s', which`},
		{"columns are setup's", []string{"--columns", "id=event_id,payload=body"}, nil, "outboxd adopt --pipeline p; outboxd setup --pipeline p",
			"outboxd adopt --pipeline p; outboxd setup --pipeline p --columns id=event_id,payload=body"},
		{"file", []string{"--config", file}, nil, "outboxd teardown --pipeline p, then outboxd setup --pipeline p",
			"outboxd teardown --pipeline p --config " + file + ", then outboxd setup --pipeline p --config " + file},
		{"file in a variable", nil, map[string]string{"OUTBOXD_CONFIG": file}, fix, fix},
		{"file that holds the database", []string{"--database-file", write(t, "db", database)}, nil, "outboxd adopt --pipeline p", "outboxd adopt --pipeline p --database-file db"},
		{"a gap", []string{"--database", database}, nil, "outboxd adopt --pipeline p, then outboxd replay --pipeline p --gap", "outboxd adopt --pipeline p --database " + shown + ", then outboxd replay --pipeline p --database " + shown + " --gap"},
		{"a skip", []string{"--slot", "s"}, nil, "outboxd skip --pipeline p --event X", "outboxd skip --pipeline p --slot s --event X"},
		{"another pipeline's", []string{"--slot", "s"}, nil, "outboxd setup --pipeline p2", "outboxd setup --pipeline p2"},
		{"no command", []string{"--slot", "s"}, nil, "ALTER ROLE", "ALTER ROLE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := &cobra.Command{}
			newRunOptions().flags(cmd.Flags())
			if err := cmd.ParseFlags(append(tt.args, "--pipeline", "p")); err != nil {
				t.Fatal(err)
			}
			o, err := loadOne(cmd, inputs{env: tt.env, secrets: &redactor{}}, newRunOptions)
			if err != nil {
				t.Fatal(err)
			}
			id, err := o.names()
			if err != nil {
				t.Fatal(err)
			}
			if got := o.complete(tt.fix, id); got != tt.want {
				t.Errorf("%q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestMended: wherever a fix is, it is completed.
func TestMended(t *testing.T) {
	const fix, want = "outboxd setup --pipeline p", "outboxd setup --pipeline p --slot s"
	o := parsed(t, "--pipeline p --slot s")
	o.origins["database"] = fromVariable
	id, err := o.names()
	if err != nil {
		t.Fatal(err)
	}
	one, several := &cdc.Error{Fix: fix}, setup.Problems{{Fix: "ALTER ROLE"}, {Fix: fix}}
	stop := &relay.StopError{Fault: relay.Fault{Fix: fix}, Err: errors.New("x")}
	for _, err := range []error{one, several, stop, errors.New("x"), nil} {
		wrapped := err
		if err != nil {
			wrapped = fmt.Errorf("wrapped: %w", err)
		}
		if got := o.mended(wrapped, id); got != wrapped {
			t.Errorf("%v became %v", wrapped, got)
		}
	}
	if one.Fix != want || several[1].Fix != want || stop.Fault.Fix != want {
		t.Errorf("%q, %q, %q; want %q", one.Fix, several[1].Fix, stop.Fault.Fix, want)
	}
}
