package audit

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

// Entry is one event of a trail.
type Entry struct {
	Type     string          `json:"type"`
	Time     time.Time       `json:"time"`
	Position string          `json:"position"`
	Content  json.RawMessage `json:"content"`
}

// Routes adds the synchronous API to mux:
//
//	GET /audit/{order}
func (a *Audit) Routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /audit/{order}", a.trail)
}

// trail answers with all that happened to an order. The topics of orders and
// reservations were read independently; the position, which rises with the
// commits of the one database, tells what was first.
func (a *Audit) trail(w http.ResponseWriter, r *http.Request) {
	order, err := strconv.ParseInt(r.PathValue("order"), 10, 64)
	if err != nil {
		http.Error(w, "no such order", http.StatusNotFound)
		return
	}
	// Query's error comes back from CollectRows.
	rows, _ := a.db.Query(r.Context(), `SELECT type, happened_at, position, content FROM audit_trail WHERE order_id = $1 ORDER BY position`, order)
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case len(entries) == 0:
		http.Error(w, "no such order", http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(entries) // a client that went away has no use for an error
	}
}
