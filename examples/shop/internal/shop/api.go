package shop

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
)

// Routes adds the synchronous API to mux:
//
//	POST   /orders       {"customer": "ada", "sku": "tea", "quantity": 2}
//	GET    /orders/{id}
//	PUT    /orders/{id}  {"quantity": 3}
//	DELETE /orders/{id}
func (s *Shop) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /orders", s.place)
	mux.HandleFunc("GET /orders/{id}", s.get)
	mux.HandleFunc("PUT /orders/{id}", s.change)
	mux.HandleFunc("DELETE /orders/{id}", s.cancel)
}

func (s *Shop) place(w http.ResponseWriter, r *http.Request) {
	wanted, ok := body(w, r)
	if !ok {
		return
	}
	o, err := s.Place(r.Context(), Order{Customer: wanted.Customer, SKU: wanted.SKU, Quantity: wanted.Quantity})
	answer(w, http.StatusCreated, o, err)
}

func (s *Shop) get(w http.ResponseWriter, r *http.Request) {
	o, err := s.Get(r.Context(), number(r))
	answer(w, http.StatusOK, o, err)
}

func (s *Shop) change(w http.ResponseWriter, r *http.Request) {
	wanted, ok := body(w, r)
	if !ok {
		return
	}
	o, err := s.Change(r.Context(), number(r), wanted.Quantity)
	answer(w, http.StatusOK, o, err)
}

func (s *Shop) cancel(w http.ResponseWriter, r *http.Request) {
	o, err := s.Cancel(r.Context(), number(r))
	answer(w, http.StatusOK, o, err)
}

// number is the order that the path names; 0, which no order has, if it names
// none.
func number(r *http.Request) int64 {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	return id
}

// request is the body of POST and PUT.
type request struct {
	Customer string `json:"customer"`
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

const (
	maxBody     = 4 << 10
	maxQuantity = 1000
)

// body reads the request, or answers that it cannot be read.
func body(w http.ResponseWriter, r *http.Request) (request, bool) {
	var wanted request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&wanted); err != nil {
		http.Error(w, "want a JSON object: "+err.Error(), http.StatusBadRequest)
		return wanted, false
	}
	if wanted.Quantity < 1 || wanted.Quantity > maxQuantity {
		http.Error(w, "quantity: want 1 to "+strconv.Itoa(maxQuantity), http.StatusUnprocessableEntity)
		return wanted, false
	}
	return wanted, true
}

func answer(w http.ResponseWriter, status int, o Order, err error) {
	switch {
	case errors.Is(err, ErrNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, ErrNoCredit):
		http.Error(w, err.Error(), http.StatusPaymentRequired)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(o) // a client that went away has no use for an error
	}
}
