package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// buyers use the shop as its customers do: over HTTP.
type buyers struct {
	shop   string // URL
	client http.Client

	placed  atomic.Int64
	refused atomic.Int64 // rolled back by the shop
}

const (
	// patience is how long a buyer waits for an answer.
	patience = 10 * time.Second
	// crowd is how many buyers there are at once at most.
	crowd = 16
)

func newBuyers(shop string) *buyers {
	return &buyers{shop: shop, client: http.Client{
		Timeout:   patience,
		Transport: &http.Transport{MaxIdleConnsPerHost: crowd},
	}}
}

// run sends rate buyers a second until ctx ends, and returns when they are all
// done. A buyer who has begun is not interrupted.
func (b *buyers) run(ctx context.Context, rate int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer b.client.CloseIdleConnections()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	room := make(chan struct{}, crowd)
	var wg sync.WaitGroup
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			continue
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			if err := b.buy(n); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != context.DeadlineExceeded && err != context.Canceled {
		return err
	}
	return nil
}

// wish is the body of a request.
type wish struct {
	Customer string `json:"customer,omitempty"`
	SKU      string `json:"sku,omitempty"`
	Quantity int    `json:"quantity,omitempty"`
}

// buy is the n-th buyer's visit. One in ten is dan, who has no money. One in
// seven wants samovars, which are soon sold out. One in three changes his mind
// at once, one in four gives up: those events follow each other within
// milliseconds, and their order matters.
func (b *buyers) buy(n int) error {
	w := wish{Customer: [...]string{"ada", "ben", "cleo"}[n%3], SKU: [...]string{"tea", "cup"}[n%2], Quantity: 1 + n%5}
	if n%10 == 9 {
		w.Customer = "dan"
	}
	if n%7 == 6 {
		w.SKU = "samovar"
	}
	id, ok, err := b.ask(http.MethodPost, "/orders", w)
	if !ok || err != nil {
		return err
	}
	b.placed.Add(1)
	order := fmt.Sprintf("/orders/%d", id)
	if n%3 == 0 {
		if _, _, err := b.ask(http.MethodPut, order, wish{Quantity: 2 + n%5}); err != nil {
			return err
		}
	}
	if n%4 == 0 {
		_, _, err = b.ask(http.MethodDelete, order, wish{})
	}
	return err
}

// ask sends a wish. It returns the number of the order, and false when the shop
// refused because of the customer's credit.
func (b *buyers) ask(method, path string, w wish) (id int64, ok bool, err error) {
	body, err := json.Marshal(w)
	if err != nil {
		return 0, false, err
	}
	req, err := http.NewRequest(method, b.shop+path, bytes.NewReader(body))
	if err != nil {
		return 0, false, err
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, false, fmt.Errorf("%s %s: %w", method, path, err)
	}
	var order struct {
		ID int64 `json:"id"`
	}
	switch resp.StatusCode {
	case http.StatusPaymentRequired:
		b.refused.Add(1)
		return 0, false, nil
	case http.StatusOK, http.StatusCreated:
		if err := json.Unmarshal(answer, &order); err != nil {
			return 0, false, fmt.Errorf("%s %s: %w", method, path, err)
		}
		return order.ID, true, nil
	}
	return 0, false, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(answer))
}
