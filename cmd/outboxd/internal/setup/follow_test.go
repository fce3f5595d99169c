package setup_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// follower streams from the slot of the database's only pipeline.
type follower struct {
	conn *pgconn.PgConn
}

func (d *database) follow(t *testing.T, databaseURL string) *follower {
	t.Helper()
	config, err := pgconn.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["replication"] = "database"
	config.RuntimeParams["application_name"] = "a relay of the test"
	conn, err := pgconn.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{conn}
	t.Cleanup(func() { f.stop(t) })
	start := fmt.Sprintf(`START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names '"%s"')`,
		d.text(t, "SELECT slot FROM outboxd.witness"), d.text(t, "SELECT publication FROM outboxd.witness"))
	conn.Frontend().SendQuery(&pgproto3.Query{String: start})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	if m := f.receive(t); m == nil {
		t.Fatal("no stream")
	}
	return f
}

func (f *follower) receive(t *testing.T) pgproto3.BackendMessage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	m, err := f.conn.ReceiveMessage(ctx)
	if err != nil {
		t.Fatalf("receive from the slot: %v", err)
	}
	if e, ok := m.(*pgproto3.ErrorResponse); ok {
		t.Fatalf("stream: %s", e.Message)
	}
	return m
}

// insert waits for the next row and returns it, with the description of its
// relation, as the server sent them.
func (f *follower) insert(t *testing.T) (relation, row []byte) {
	t.Helper()
	described := make(map[string][]byte) // by OID
	for {
		data, ok := f.receive(t).(*pgproto3.CopyData)
		if !ok || len(data.Data) < 30 || data.Data[0] != 'w' {
			continue
		}
		switch body := bytes.Clone(data.Data[25:]); body[0] {
		case 'R':
			described[string(body[1:5])] = body
		case 'I':
			return described[string(body[1:5])], body
		}
	}
}

func (f *follower) stop(t *testing.T) {
	if err := f.conn.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
