// Package audit keeps what happened to every order. Its trilateral API:
//
//	synchronous  api.go       GET /audit/{order}
//	published    nothing
//	consumed     consumes.go  everything
package audit

import "github.com/jackc/pgx/v5/pgxpool"

// Audit is the context. Its methods may be called at once.
type Audit struct {
	db *pgxpool.Pool
}

// New returns the context on the database.
func New(db *pgxpool.Pool) *Audit { return &Audit{db} }
