// Package notification writes to customers about their goods. Its trilateral
// API:
//
//	synchronous  none
//	published    nothing
//	consumed     consumes.go  reservation.confirmed, .rejected, .released
package notification

import "github.com/jackc/pgx/v5/pgxpool"

// Notification is the context. Its methods may be called at once.
type Notification struct {
	db *pgxpool.Pool
}

// New returns the context on the database.
func New(db *pgxpool.Pool) *Notification { return &Notification{db} }
