package reservation

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// Routes adds the synchronous API to mux:
//
//	GET /stock/{sku}
func (r *Reservation) Routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /stock/{sku}", r.stock)
}

func (r *Reservation) stock(w http.ResponseWriter, req *http.Request) {
	answer := struct {
		SKU       string `json:"sku"`
		Available int    `json:"available"`
	}{SKU: req.PathValue("sku")}
	err := r.db.QueryRow(req.Context(), `SELECT available FROM stock WHERE sku = $1`, answer.SKU).Scan(&answer.Available)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		http.Error(w, "no such goods", http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // a client that went away has no use for an error
	}
}
