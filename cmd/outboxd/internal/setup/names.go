package setup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	// DefaultTable is the outbox table unless another one is named.
	DefaultTable = "public.outbox"

	namePrefix  = "outboxd_"
	maxName     = 63 // PostgreSQL's limit on identifiers and slots, in bytes
	maxPipeline = maxName - len(namePrefix)
	hashLength  = 8
)

var (
	validPipeline = regexp.MustCompile(fmt.Sprintf("^[a-z0-9_]{1,%d}$", maxPipeline))
	validSlot     = regexp.MustCompile(fmt.Sprintf("^[a-z0-9_]{1,%d}$", maxName))
	notInNames    = regexp.MustCompile("[^a-z0-9_]")
)

// Identity is what a pipeline's things are called.
type Identity struct {
	Pipeline, Slot, Publication string
	// Schema and Name are the outbox table's, as the catalog has them.
	Schema, Name string
}

// Table is the outbox table as the witness names it: schema.name, unquoted.
func (n Identity) Table() string { return n.Schema + "." + n.Name }

// setTable takes the outbox table as Table returns it.
func (n *Identity) setTable(table string) { n.Schema, n.Name, _ = strings.Cut(table, ".") }

// sql is the outbox table for use in SQL.
func (n Identity) sql() string { return pgx.Identifier{n.Schema, n.Name}.Sanitize() }

// Names fills in what is not given, always in the same way: the pipeline is
// called after the database and the table, the slot and the publication after
// the pipeline. The table is schema.name or name, unquoted; empty means
// DefaultTable. All problems are reported at once.
func Names(database, table, pipeline, slot, publication string) (Identity, error) {
	var errs []error
	schema, name, err := splitTable(table)
	if err != nil {
		errs = append(errs, err)
	}
	if pipeline == "" {
		pipeline = pipelineName(database, schema, name)
	} else if !validPipeline.MatchString(pipeline) {
		errs = append(errs, fmt.Errorf("pipeline %q: want 1 to %d of a-z, 0-9 and _", pipeline, maxPipeline))
	}
	if slot == "" {
		slot = namePrefix + pipeline
	} else if !validSlot.MatchString(slot) {
		errs = append(errs, fmt.Errorf("slot %q: want 1 to %d of a-z, 0-9 and _", slot, maxName))
	}
	if publication == "" {
		publication = namePrefix + pipeline
	} else if len(publication) > maxName {
		errs = append(errs, fmt.Errorf("publication %q: want at most %d bytes", publication, maxName))
	}
	return Identity{Pipeline: pipeline, Slot: slot, Publication: publication, Schema: schema, Name: name}, errors.Join(errs...)
}

func splitTable(table string) (schema, name string, err error) {
	if table == "" {
		table = DefaultTable
	}
	schema, name, qualified := strings.Cut(table, ".")
	if !qualified {
		schema, name = "public", table
	}
	if schema == "" || name == "" || strings.ContainsAny(table, "\"\x00") || strings.Contains(name, ".") {
		return schema, name, fmt.Errorf("table %q: want schema.name or name, without quotes", table)
	}
	return schema, name, nil
}

// pipelineName is database_table, or database_schema_table outside of public.
// Where that had to be changed to be a legal name, a hash keeps two names
// apart that were changed to the same.
func pipelineName(database, schema, table string) string {
	parts := []string{database, schema, table}
	if schema == "public" {
		parts = []string{database, table}
	}
	plain := strings.Join(parts, "_")
	legal := notInNames.ReplaceAllString(strings.ToLower(plain), "_")
	if legal == plain && len(legal) <= maxPipeline {
		return legal
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{database, schema, table}, "\x00")))
	return legal[:min(len(legal), maxPipeline-hashLength-1)] + "_" + hex.EncodeToString(sum[:])[:hashLength]
}
