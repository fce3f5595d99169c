package setup_test

import (
	"strings"
	"testing"

	"github.com/outboxd/outboxd/cmd/outboxd/internal/setup"
)

func TestNames(t *testing.T) {
	long := strings.Repeat("d", 60)
	for _, c := range []struct {
		database, table, pipeline, slot, publication string
		want                                         setup.Identity
	}{
		{"shop", "", "", "", "", setup.Identity{"shop_outbox", "outboxd_shop_outbox", "outboxd_shop_outbox", "public", "outbox"}},
		{"shop", "public.outbox", "", "", "", setup.Identity{"shop_outbox", "outboxd_shop_outbox", "outboxd_shop_outbox", "public", "outbox"}},
		{"shop", "events", "", "", "", setup.Identity{"shop_events", "outboxd_shop_events", "outboxd_shop_events", "public", "events"}},
		{"shop", "sales.outbox", "", "", "", setup.Identity{"shop_sales_outbox", "outboxd_shop_sales_outbox", "outboxd_shop_sales_outbox", "sales", "outbox"}},
		{"shop", "", "orders", "", "", setup.Identity{"orders", "outboxd_orders", "outboxd_orders", "public", "outbox"}},
		{"shop", "", "orders", "s1", "My Pub", setup.Identity{"orders", "s1", "My Pub", "public", "outbox"}},
		{"My-Shop", "", "", "", "", setup.Identity{"my_shop_outbox_b1877391", "outboxd_my_shop_outbox_b1877391", "outboxd_my_shop_outbox_b1877391", "public", "outbox"}},
		{long, "", "", "", "", setup.Identity{long[:46] + "_b4e4ed5e", "outboxd_" + long[:46] + "_b4e4ed5e", "outboxd_" + long[:46] + "_b4e4ed5e", "public", "outbox"}},
	} {
		got, err := setup.Names(c.database, c.table, c.pipeline, c.slot, c.publication)
		if err != nil || got != c.want {
			t.Errorf("Names(%q, %q, %q, %q, %q) = %+v, %v; want %+v", c.database, c.table, c.pipeline, c.slot, c.publication, got, err, c.want)
		}
		if len(got.Slot) > 63 || len(got.Publication) > 63 {
			t.Errorf("%q and %q must be at most 63 bytes", got.Slot, got.Publication)
		}
	}
}

// What was changed to be legal stays apart.
func TestNamesDistinct(t *testing.T) {
	seen := make(map[string]string)
	for _, database := range []string{"my_shop", "my-shop", "my.shop", "My_Shop", "MY_SHOP", "my shop", "mÿshop", strings.Repeat("x", 63), strings.Repeat("x", 62)} {
		n, err := setup.Names(database, "", "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[n.Slot]; ok {
			t.Errorf("databases %q and %q share slot %s", database, other, n.Slot)
		}
		seen[n.Slot] = database
	}
}

func TestNamesAllProblemsAtOnce(t *testing.T) {
	_, err := setup.Names("shop", "a.b.c", "My Pipeline", "my-slot", strings.Repeat("p", 64))
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range []string{"table", "pipeline", "slot", "publication"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not name the %s", err, word)
		}
	}
	for _, table := range []string{".outbox", "public.", `"a"."b"`, "."} {
		if _, err := setup.Names("shop", table, "", "", ""); err == nil {
			t.Errorf("table %q was accepted", table)
		}
	}
	if _, err := setup.Names("shop", "", strings.Repeat("p", 56), "", ""); err == nil {
		t.Error("a pipeline whose slot would be too long was accepted")
	}
}

func TestParseColumns(t *testing.T) {
	c, err := setup.ParseColumns("id=event_id, aggregatetype=kind,headers=meta")
	want := setup.Columns{ID: "event_id", AggregateType: "kind", Headers: "meta"}
	if err != nil || c != want {
		t.Errorf("got %+v, %v; want %+v", c, err, want)
	}
	if s := c.String(); s != "id=event_id,aggregatetype=kind,headers=meta" {
		t.Errorf("String() = %q", s)
	}
	if c, err := setup.ParseColumns(""); err != nil || c != (setup.Columns{}) {
		t.Errorf("empty: %+v, %v", c, err)
	}
	for text, word := range map[string]string{
		"idd=x":                   `no field "idd"`,
		"id":                      "want id=COLUMN",
		"id=":                     "want id=COLUMN",
		"id=a,id=b":               "given twice",
		"id=a,payload=a":          "both column",
		"payload=type":            "both column",
		"idd=x,id=a,id=b,payload": "want payload=COLUMN",
	} {
		if _, err := setup.ParseColumns(text); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: got %v, want %q", text, err, word)
		}
	}
}
