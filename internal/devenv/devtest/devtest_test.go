package devtest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outboxd/outboxd/internal/devenv/devtest"
)

func TestMain(m *testing.M) { devtest.Main(m) }

func TestDatabase(t *testing.T) {
	conn, err := pgx.Connect(context.Background(), devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var level string
	if err := conn.QueryRow(context.Background(), "SHOW wal_level").Scan(&level); err != nil || level != "logical" {
		t.Errorf("wal_level = %q, %v; want logical", level, err)
	}
}
