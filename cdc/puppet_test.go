package cdc

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// puppet is a server that answers what a test wants: what a real one says only
// at moments that no test can choose, at any time of a synctest bubble.
type puppet struct {
	t *testing.T
	// answer is given each statement. It returns the values of its only row,
	// nil for none, or an SQLSTATE.
	answer  func(sql string) (row []any, sqlstate string)
	timeout time.Duration // of its walsenders; 0: 10 s
	left    atomic.Bool   // a walsender connection was taken leave of: CopyDone
}

// pid is the server process of every connection to a puppet.
const pid = 7

// connect returns an open connection, which the end of the test closes.
func (p *puppet) connect() *pgx.Conn {
	p.t.Helper()
	config, err := pgx.ParseConfig("postgres://puppet:secret@127.0.0.1:1/puppet?sslmode=disable")
	if err != nil {
		p.t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go p.serve(server)
		return unbuffered(client), nil
	}
	conn, err := pgx.ConnectConfig(p.t.Context(), config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (p *puppet) serve(conn net.Conn) {
	defer conn.Close()
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.BackendKeyData{ProcessID: pid, SecretKey: make([]byte, 4)})
	ready(b)
	var sql string
	for {
		message, err := b.Receive()
		if err != nil {
			return
		}
		switch message := message.(type) {
		case *pgproto3.Parse:
			sql = message.Query
		case *pgproto3.Sync:
			b.Send(&pgproto3.ParseComplete{})
			b.Send(&pgproto3.BindComplete{})
			p.reply(b, sql)
		case *pgproto3.Query:
			p.reply(b, message.String)
		case *pgproto3.CopyDone:
			p.left.Store(true)
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")})
			_ = b.Flush()
		}
	}
}

func (p *puppet) reply(b *pgproto3.Backend, sql string) {
	if strings.HasPrefix(sql, "START_REPLICATION") {
		b.Send(&pgproto3.CopyBothResponse{})
		_ = b.Flush()
		return
	}
	row, sqlstate := p.answer(sql)
	switch {
	case sqlstate != "":
		b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: sqlstate, Message: "the puppet says no"})
	case strings.HasPrefix(sql, "UPDATE"):
		b.Send(&pgproto3.CommandComplete{CommandTag: []byte("UPDATE 1")})
	default:
		sendRow(b, row)
	}
	ready(b)
}

func ready(b *pgproto3.Backend) {
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	_ = b.Flush()
}

// sendRow knows the types that the package asks for; arrays must be empty.
func sendRow(b *pgproto3.Backend, row []any) {
	var described pgproto3.RowDescription
	var data pgproto3.DataRow
	for _, v := range row {
		oid, text := uint32(pgtype.TextOID), fmt.Sprint(v)
		switch v.(type) {
		case int:
			oid = pgtype.Int8OID
		case bool:
			oid = pgtype.BoolOID
		case []string:
			oid, text = pgtype.TextArrayOID, "{}"
		case []uint32:
			oid, text = pgtype.OIDArrayOID, "{}"
		}
		described.Fields = append(described.Fields, pgproto3.FieldDescription{Name: []byte("x"), DataTypeOID: oid, DataTypeSize: -1, TypeModifier: -1})
		data.Values = append(data.Values, []byte(text))
	}
	b.Send(&described)
	if row != nil {
		b.Send(&data)
	}
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
}

// keeper returns one that is on its own: the rest of its session does not run.
func (p *puppet) keeper() *keeper {
	p.t.Helper()
	s := newScripted(p.t, nil)
	return &keeper{s: s, conn: p.connect(), floorAt: s.started}
}
