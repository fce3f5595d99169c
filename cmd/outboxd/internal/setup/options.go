// Package setup prepares a database for a pipeline, says what it did, and takes
// it back: `outboxd setup` and `outboxd teardown`.
//
// Everything is looked at first, and everything that stands in the way is
// reported at once, before anything is changed. The order of the steps cannot
// lose an event: migrations, table, publication, and only then the slot,
// because a slot that is older than its publication cannot decode what lies
// between; last the witness, which remembers that the slot existed.
package setup

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/cmd/outboxd/internal/retention"
	"github.com/outboxd/outboxd/outbox"
)

const (
	// DefaultRetention is how long rows are kept at least.
	DefaultRetention = 72 * time.Hour
	// DefaultSlotTimeout bounds the wait for the transactions that are open
	// when the slot is made.
	DefaultSlotTimeout = time.Minute

	minRetention = time.Minute
	maxRetention = 366 * 24 * time.Hour
	// assumedVersion is the server that Print writes for when it cannot ask.
	assumedVersion = 17
)

// Options says what to set up. The zero value of what is not marked required
// is a documented default.
type Options struct {
	// Database is a connection string or URL as pgx takes it; PG* variables
	// fill in what it leaves out.
	Database string
	// Pipeline, Slot, Publication and Table: see Names.
	Pipeline, Slot, Publication, Table string
	// Columns describes an existing table. A table made here has the default
	// names.
	Columns Columns
	// Payload is the type of the payload column of a table made here. Empty:
	// json.
	Payload outbox.PayloadType
	// Retention is how long a table made here keeps its rows at least, from a
	// minute to a year. Zero: DefaultRetention. A table that was made before
	// keeps its own; it must be no shorter than what is asked for.
	Retention time.Duration
	// SlotTimeout: zero means DefaultSlotTimeout.
	SlotTimeout time.Duration
	// RelayRole and AppRole are existing roles that get the privileges they
	// need; empty: no privileges are granted.
	RelayRole, AppRole string
	// ServerVersion is the major version that Print assumes when it cannot
	// reach the server. Zero: 17.
	ServerVersion int
}

// settings are options with everything filled in and validated.
type settings struct {
	Identity
	config        *pgx.ConnConfig
	columns       Columns
	payload       outbox.PayloadType
	retention     time.Duration
	asked         bool // for that retention
	ring          retention.Ring
	slotTimeout   time.Duration
	relayRole     string
	appRole       string
	serverVersion int
}

func (o Options) settings() (*settings, error) {
	config, err := pgx.ParseConfig(o.Database)
	if err != nil {
		return nil, &cdc.Error{Code: cdc.CodeConfig, Detail: "the database URL cannot be read", Err: err, // pgx redacts the password
			Fix: "give --database as postgres://user@host:port/database"}
	}
	config.Database = cmp.Or(config.Database, config.User) // as the server does
	names, err := Names(config.Database, o.Table, o.Pipeline, o.Slot, o.Publication)
	s := &settings{
		Identity: names, config: config,
		columns: o.Columns, payload: cmp.Or(o.Payload, outbox.JSON),
		retention: cmp.Or(o.Retention, DefaultRetention), asked: o.Retention != 0, slotTimeout: cmp.Or(o.SlotTimeout, DefaultSlotTimeout),
		relayRole: o.RelayRole, appRole: o.AppRole, serverVersion: cmp.Or(o.ServerVersion, assumedVersion),
	}
	s.ring = retention.NewRing(names.Table(), s.retention)
	if err := errors.Join(err, s.validate()); err != nil {
		return nil, &cdc.Error{Code: cdc.CodeConfig, Detail: "the options of setup are not usable", Err: err,
			Fix: "see outboxd setup --help"}
	}
	return s, nil
}

func (s *settings) validate() error {
	var errs []error
	if types := []outbox.PayloadType{outbox.JSON, outbox.JSONB, outbox.Text, outbox.Bytea}; !slices.Contains(types, s.payload) {
		errs = append(errs, fmt.Errorf("payload type %q: want one of %v", s.payload, types))
	}
	if s.retention < minRetention || s.retention > maxRetention {
		errs = append(errs, fmt.Errorf("retention %s: want %s to %s", s.retention, minRetention, maxRetention))
	}
	if s.slotTimeout < 0 {
		errs = append(errs, fmt.Errorf("slot timeout %s: want a positive duration", s.slotTimeout))
	}
	if s.serverVersion < minMajor {
		errs = append(errs, fmt.Errorf("server version %d: want %d or later", s.serverVersion, minMajor))
	}
	return errors.Join(errs...)
}
