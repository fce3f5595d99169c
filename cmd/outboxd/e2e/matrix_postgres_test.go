//go:build !embedded

package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outboxd/outboxd/internal/checker"
	"github.com/outboxd/outboxd/outbox"
)

// TestMatrixPostgres breaks PostgreSQL, or changes under the relay what it
// stands on.
func TestMatrixPostgres(t *testing.T) {
	runMatrix(t, "PostgreSQL", slices.Concat(serverRows(), slotRows(), tableRows(), transactionRows(), rightRows(), otherRows(), lockRows()))
}

// serverRows are about sessions, crashes and restarts.
func serverRows() []fault {
	fsync := map[string]string{"fsync": "on"}
	return []fault{
		{id: "F11", name: "walsender terminated", how: "`pg_terminate_backend` of the walsender, three times",
			expect: "the next session begins within seconds; nothing comes twice", inject: terminated("backend_type = 'walsender'")},
		{id: "F11b", name: "both sessions terminated", how: "`pg_terminate_backend` of all backends of the relay's role, three times",
			expect: "as F11; it is not taken for a shutdown of the server", inject: terminated("true")},
		{id: "F12", name: "crash of a backend", how: "SIGKILL of the walsender: the server ends all sessions and recovers from WAL",
			expect: "the relay waits for the recovery; what the server sends again is not published again", arrange: ownServer("", fsync), inject: func(f *faultRun) {
				f.signalWalsender(syscall.SIGKILL)
			}},
		{id: "F12b", name: "crash of the server, 15", how: "immediate shutdown and start, three times", expect: "as F12", arrange: ownServer("15", fsync), inject: restarted("immediate")},
		{id: "F12c", name: "crash of the server, 17", how: "immediate shutdown and start, three times", expect: "as F12", arrange: ownServer("17", fsync), inject: restarted("immediate")},
		{id: "F13", name: "restart of the server, 15", how: "fast shutdown and start, three times",
			expect: "the shutdown is not held up; as F12", arrange: ownServer("15", fsync), inject: restarted("fast")},
		{id: "F13b", name: "restart of the server, 17", how: "fast shutdown and start, three times", expect: "as F13", arrange: ownServer("17", fsync), inject: restarted("fast")},
		{id: "F13c", name: "fast shutdown with the slot 1 GB behind", elsewhere: "TestFastShutdownFarBehind"},
		{id: "F14", name: "frozen walsender", how: "SIGSTOP of the walsender for longer than `wal_sender_timeout`, then SIGCONT",
			expect: "found within the timeout; the relay waits for the slot, which the frozen process holds, and goes on when it is free", inject: frozenWalsender},
	}
}

// slotRows are about the slot and the publication.
func slotRows() []fault {
	return []fault{
		{id: "F19", name: "slot held by another client", how: "somebody streams from the slot when the relay comes",
			expect: "`/readyz` says standby and names the process that holds the slot; the relay takes over when it is free", inject: heldSlot},
		{id: "F20", name: "slot dropped while running", how: "walsender terminated, slot dropped",
			expect: "exit 78, `slot_missing`, with the commands that mend it; the slot is not made again by itself", inject: slotDropped},
		{id: "F21", name: "slot lost", how: "`max_slot_wal_keep_size`, and a relay that is frozen meanwhile",
			expect: "exit 78, `slot_lost`, with the commands that mend it", arrange: ownServer("", map[string]string{"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"}), inject: slotLost},
		{id: "F22", name: "publication dropped, 17", how: "`DROP PUBLICATION` while events flow",
			expect: "exit 78, `publication_missing`, with the commands that mend it", arrange: ownServer("17", nil), inject: publicationDropped},
		{id: "F22b", name: "publication dropped, 18", how: "the same on a server that goes on without it", expect: "as F22", arrange: ownServer("18", nil), inject: publicationDropped},
		{id: "F22c", name: "publication made after the slot", elsewhere: "TestPublicationWithoutTable"},
		{id: "F23", name: "table leaves the publication", how: "`ALTER PUBLICATION … DROP TABLE` while events flow",
			expect: "exit 78, `publication_gap`, within seconds; `adopt` accepts the gap once the table is back", duplicates: mostRepeated, inject: func(f *faultRun) {
				f.gapOf("publication_gap", "ALTER PUBLICATION "+f.publication()+" DROP TABLE outbox", f.adopt("ALTER PUBLICATION "+f.publication()+" ADD TABLE outbox"))
			}},
		{id: "F23b", name: "row filter added", how: "`ALTER PUBLICATION … SET TABLE … WHERE` while events flow", expect: "as F23", duplicates: mostRepeated, inject: func(f *faultRun) {
			f.gapOf("publication_gap", "ALTER PUBLICATION "+f.publication()+" SET TABLE outbox WHERE (aggregatetype = 'order')", f.adopt("ALTER PUBLICATION "+f.publication()+" SET TABLE outbox"))
		}},
		{id: "F23c", name: "table out of the publication for a while", elsewhere: "TestTableOutOfPublicationForAWhile"},
	}
}

// tableRows are about the event table's columns.
func tableRows() []fault {
	return []fault{
		{id: "F24", name: "columns added, renamed and dropped", how: "`ALTER TABLE` of a column that is not ours, in a loop",
			expect: "nothing happens", inject: undisturbed(columnsChanged)},
		{id: "F24b", name: "needed column retyped or dropped", how: "`ALTER TABLE … ALTER payload TYPE`, `DROP payload`",
			expect: "refused by PostgreSQL, because the publication lists the column", inject: func(f *faultRun) {
				f.undisturbed(func() {
					for _, change := range []string{"ALTER payload TYPE text", "DROP payload"} {
						if err := f.site.tryExec("ALTER TABLE outbox " + change); err == nil {
							f.t.Errorf("%s was not refused", change)
						}
					}
				})
			}},
		{id: "F24c", name: "needed column retyped, 14", how: "`ALTER TABLE … ALTER payload TYPE text`, which rewrites the table, on a server without column lists",
			expect: "nothing happens: rewritten rows are no new events, and the bytes stay as they are", arrange: ownServer("14", nil), inject: func(f *faultRun) {
				f.undisturbed(func() { f.site.exec("ALTER TABLE outbox ALTER payload TYPE text") })
			}},
		{id: "F24d", name: "needed column renamed and named back", how: "`ALTER TABLE … RENAME payload`, between events",
			expect: "nothing happens", inject: func(f *faultRun) {
				f.undisturbed(func() {
					f.quiet()
					f.site.exec("ALTER TABLE outbox RENAME payload TO body")
					f.site.exec("ALTER TABLE outbox RENAME body TO payload")
					f.startLoad()
				})
			}},
		{id: "F24e", name: "needed column missing at the start", elsewhere: "TestTableLacksColumns"},
	}
}

// transactionRows are about transactions.
func transactionRows() []fault {
	return []fault{
		{id: "F25", name: "huge transaction", how: "100,000 events in one transaction, beside others",
			expect: "in order, confirmed at its end; memory as ever", inject: func(f *faultRun) { writeBig(f.t, f.site.app, f.end, &f.history, 0, 100_000) }},
		{id: "F25b", name: "1,000,000 events in one transaction", elsewhere: "TestMemoryOfOneHugeTransaction"},
		{id: "F26", name: "interleaved transactions, rollbacks, savepoints", elsewhere: "TestEndToEndKafka", how: "and the load of every row here"},
		{id: "F27", name: "transaction left open", how: "an event in a transaction that stays open while others commit",
			expect: "the others flow; the event comes with its commit", inject: transactionLeftOpen},
		{id: "F28", name: "prepared transaction left open", how: "the same with PREPARE TRANSACTION",
			expect: "as F27", arrange: ownServer("", map[string]string{"max_prepared_transactions": "5"}), inject: func(f *faultRun) {
				f.leaveOpen(func(conn *pgx.Conn) {
					if _, err := conn.Exec(f.t.Context(), "PREPARE TRANSACTION 'left'"); err != nil {
						f.t.Fatal(err)
					}
					f.flows()
				}, "COMMIT PREPARED 'left'")
			}},
	}
}

// rightRows are about rights and limits.
func rightRows() []fault {
	return []fault{
		{id: "F29", name: "REPLICATION taken away", how: "`ALTER ROLE … NOREPLICATION`, walsender terminated",
			expect: "exit 77, `privilege`, with the ALTER ROLE that mends it; repeats what was acked behind what was not, as a crash", duplicates: mostRepeated, inject: replicationTakenAway},
		{id: "F29b", name: "right on the witness taken away", how: "`REVOKE ALL ON outboxd.witness` while events flow",
			expect: "exit 77, `privilege`; nothing is confirmed that the witness does not know", duplicates: mostRepeated, inject: witnessTakenAway},
		{id: "F30", name: "no connection left for the role", how: "`ALTER ROLE … CONNECTION LIMIT 0`, sessions terminated",
			expect: "retried; `/readyz` says why", inject: noConnectionForRole},
		{id: "F30b", name: "no walsender left", how: "all of `max_wal_senders` in use when the relay comes back",
			expect: "retried; `/readyz` says why", arrange: ownServer("", map[string]string{"max_wal_senders": "2"}), inject: noWalsender},
		{id: "F30c", name: "no connection left at all", how: "sessions terminated, all of `max_connections` taken",
			expect: "retried; `/readyz` says why", arrange: ownServer("", map[string]string{"max_connections": "25"}), inject: noConnection},
		{id: "F31", name: "disk of the server full", left: "needs a file system of its own, which only root can mount. What keeps the relay from being the cause is F21"},
	}
}

// otherRows are about neighbours, and about what is no event.
func otherRows() []fault {
	return []fault{
		{id: "F32", name: "standby promoted", elsewhere: "TestFailover, TestAsynchronousFailover, TestFailoverWithoutSlot"},
		{id: "F33", name: "idle table beside a busy one", elsewhere: "TestIdleOutboxBesideBusyTable"},
		{id: "F34", name: "rows removed before they are published", how: "relay down, events written, `TRUNCATE outbox`",
			expect: "all are published: they are in the WAL", inject: rowsRemoved},
		{id: "F35", name: "message outside of any transaction", how: "`pg_logical_emit_message(false, …)` with our prefix and a valid event, in a transaction that is rolled back",
			expect: "ignored: it would survive the rollback", inject: func(f *faultRun) {
				f.undisturbed(func() {
					f.strayMessage("SELECT pg_logical_emit_message(false, $1, $2)", outbox.MessagePrefix, "ROLLBACK")
				})
			}},
		{id: "F36", name: "message with another prefix", how: "`pg_logical_emit_message(true, …)` with a valid event, committed",
			expect: "ignored and counted", inject: func(f *faultRun) {
				before := f.relay.metric("outboxd_messages_ignored_total")
				f.undisturbed(func() {
					f.strayMessage("SELECT pg_logical_emit_message(true, $1, $2)", "somebody", "COMMIT")
				})
				if n := f.relay.metric("outboxd_messages_ignored_total"); n != before+1 {
					f.t.Errorf("%v messages counted as ignored, want 1", n-before)
				}
			}},
	}
}

// lockRows are about locks, and a role that may not write.
func lockRows() []fault {
	return []fault{
		{id: "L1", name: "witness locked", how: "`LOCK TABLE outboxd.witness` for longer than `wal_sender_timeout`",
			expect: "`/readyz` says `witness_unwritable`, nothing is confirmed meanwhile; goes on when the lock is gone", inject: witnessLocked},
		{id: "L2", name: "event table locked", how: "`LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`",
			expect: "writers wait, the relay does not: emitted events flow", inject: undisturbed(tableLocked)},
		{id: "L3", name: "relay's role made read-only", how: "`ALTER ROLE … SET default_transaction_read_only`, sessions terminated",
			expect: "retried; `/readyz` says why", inject: roleReadOnly},
	}
}

func terminated(condition string) func(*faultRun) {
	return func(f *faultRun) {
		for range 3 {
			f.again(func() { f.terminate(condition) })
			f.healed()
		}
	}
}

// restarted stops and starts the row's server.
func restarted(mode string) func(*faultRun) {
	return func(f *faultRun) {
		for range 3 {
			if err := f.server.Stop(f.t.Context(), mode); err != nil {
				f.t.Fatal(err)
			}
			if err := f.server.Start(f.t.Context()); err != nil {
				f.t.Fatal(err)
			}
			f.healed()
		}
	}
}

func frozenWalsender(f *faultRun) {
	f.shortTimeout()
	before := f.sessions()
	pid := f.signalWalsender(syscall.SIGSTOP)
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	eventually(f.t, 30*time.Second, "the silence is noticed", func() bool { return f.sessions() > before })
	f.relay.says(http.StatusOK, "standby", fmt.Sprintf("server process %d", pid))
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		f.t.Fatal(err)
	}
}

// heldSlot streams from the slot before the relay does, and confirms nothing.
func heldSlot(f *faultRun) {
	f.relay.term()
	var conn *pgconn.PgConn
	eventually(f.t, 30*time.Second, "the slot is free", func() (ok bool) {
		conn, ok = f.stream()
		return ok
	})
	f.start().says(http.StatusOK, "standby", f.site.slot(), fmt.Sprintf("server process %d", conn.PID()))
	if err := conn.Conn().Close(); err != nil {
		f.t.Fatal(err)
	}
}

// stream begins to stream from the slot, unless somebody else still does.
func (f *faultRun) stream() (*pgconn.PgConn, bool) {
	f.t.Helper()
	conn, err := pgconn.Connect(f.t.Context(), f.site.relay+"&replication=database&application_name=stranger")
	if err != nil {
		f.t.Fatal(err)
	}
	frontend := conn.Frontend()
	frontend.SendQuery(&pgproto3.Query{String: "START_REPLICATION SLOT " + f.site.slot() + " LOGICAL 0/0 (proto_version '1', publication_names '" + f.publication() + "')"})
	if err := frontend.Flush(); err != nil {
		f.t.Fatal(err)
	}
	for {
		m, err := conn.ReceiveMessage(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		switch m.(type) {
		case *pgproto3.CopyBothResponse:
			return conn, true
		case *pgproto3.ErrorResponse:
			_ = conn.Close(f.t.Context())
			return nil, false
		}
	}
}

func slotDropped(f *faultRun) {
	const drop = `DO $$ BEGIN LOOP
		PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'NAME';
		BEGIN PERFORM pg_drop_replication_slot('NAME'); EXIT; EXCEPTION WHEN object_in_use THEN NULL; END;
	END LOOP; END $$`
	f.gapOf("slot_missing", strings.ReplaceAll(drop, "NAME", f.site.slot()), func() {
		if n := f.site.value("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = '" + f.site.slot() + "'"); n != "0" {
			f.t.Error("the slot was made again by itself")
		}
		f.setUpAgain()
	})
}

func publicationDropped(f *faultRun) {
	f.gapOf("publication_missing", "DROP PUBLICATION "+f.publication(), f.setUpAgain)
}

// slotLost writes more WAL than the slot may keep while the relay is frozen.
func slotLost(f *faultRun) {
	from := f.quiet()
	signal := func(s syscall.Signal) {
		if err := f.relay.cmd.Process.Signal(s); err != nil {
			f.t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	f.startLoad()
	f.site.exec("CREATE TABLE busy ()")
	eventually(f.t, 30*time.Second, "the slot is lost", func() bool {
		f.site.exec("INSERT INTO busy DEFAULT VALUES")
		f.site.exec("SELECT pg_switch_wal()")
		f.site.exec("CHECKPOINT")
		return f.site.value("SELECT wal_status FROM pg_replication_slots") == "lost"
	})
	signal(syscall.SIGCONT)
	f.stops(78, "slot_lost", f.site.slot(), "outboxd adopt --pipeline "+f.site.pipeline)
	f.stopLoad()
	f.setUpAgain()
	f.gap(from)
	f.start().ready()
	f.startLoad()
}

func noWalsender(f *faultRun) {
	f.relay.term()
	var taken []*pgconn.PgConn
	eventually(f.t, 30*time.Second, "the walsenders are taken", func() bool {
		conn, err := pgconn.Connect(f.t.Context(), f.site.relay+"&replication=true")
		if err == nil {
			taken = append(taken, conn)
		}
		return len(taken) == 2
	})
	f.start().says(http.StatusServiceUnavailable, "database_unreachable", "max_wal_senders")
	for _, conn := range taken {
		if err := conn.Close(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
	}
}

// noConnection takes every connection that is not reserved for superusers, also
// those that somebody gives up meanwhile, until the relay has none.
func noConnection(f *faultRun) {
	var taken []*pgconn.PgConn
	eventually(f.t, 30*time.Second, "the relay says that it gets no connection", func() bool {
		f.terminate("true")
		for {
			conn, err := pgconn.Connect(f.t.Context(), f.site.app)
			if err != nil {
				break
			}
			taken = append(taken, conn)
		}
		status, body := f.relay.get("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "database_unreachable") && strings.Contains(body, "53300")
	})
	for _, conn := range taken {
		if err := conn.Close(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
	}
}

// strayMessage writes a logical message with an event that must not be
// published.
func (f *faultRun) strayMessage(sql, prefix, end string) {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.site.admin)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	content := `{"v": 1, "events": [{"id": "` + outbox.NewID().String() + `", "aggregatetype": "order", "aggregateid": "stray", "type": "stray", "payload": {}}]}`
	for _, step := range []func() error{
		func() error { _, err := conn.Exec(f.t.Context(), "BEGIN"); return err },
		func() error { _, err := conn.Exec(f.t.Context(), sql, prefix, content); return err },
		func() error { _, err := conn.Exec(f.t.Context(), end); return err },
	} {
		if err := step(); err != nil {
			f.t.Fatal(err)
		}
	}
}

func witnessLocked(f *faultRun) {
	f.shortTimeout()
	f.lock("LOCK TABLE outboxd.witness", func() {
		f.relay.says(http.StatusServiceUnavailable, "witness_unwritable")
	})
}

// tableLocked lets an emitted event pass those that wait for the table.
func tableLocked(f *faultRun) {
	f.lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE", func() {
		conn, err := pgx.Connect(f.t.Context(), f.site.app)
		if err != nil {
			f.t.Fatal(err)
		}
		defer conn.Close(context.Background())
		event, written := f.event()
		err = pgx.BeginFunc(f.t.Context(), conn, func(tx pgx.Tx) error {
			_, err := outbox.Emit(f.t.Context(), tx, event)
			return err
		})
		if err != nil {
			f.t.Fatal(err)
		}
		f.history.Add([]checker.Written{written})
		f.arrives(written.ID)
	})
}

func columnsChanged(f *faultRun) {
	for range 10 {
		f.site.exec("ALTER TABLE outbox ADD COLUMN extra text DEFAULT 'x'")
		f.site.exec("ALTER TABLE outbox RENAME COLUMN extra TO more")
		f.site.exec("ALTER TABLE outbox DROP COLUMN more")
	}
}

func transactionLeftOpen(f *faultRun) {
	f.leaveOpen(func(*pgx.Conn) { f.flows() }, "COMMIT")
}

func rowsRemoved(f *faultRun) {
	f.relay.term()
	f.probe()
	f.site.exec("TRUNCATE outbox")
	f.start()
}

func replicationTakenAway(f *faultRun) {
	f.site.exec("ALTER ROLE " + f.role() + " NOREPLICATION")
	f.terminate("backend_type = 'walsender'")
	f.stops(77, "privilege", `ALTER ROLE "`+f.role()+`" REPLICATION`)
	f.site.exec("ALTER ROLE " + f.role() + " REPLICATION")
	f.start()
}

func witnessTakenAway(f *faultRun) {
	f.site.exec("REVOKE ALL ON outboxd.witness FROM " + f.role())
	f.stops(77, "privilege", "write the witness", "outboxd setup --relay-role")
	f.site.exec("GRANT SELECT, INSERT, UPDATE ON outboxd.witness TO " + f.role())
	f.start()
}

func noConnectionForRole(f *faultRun) {
	f.site.exec("ALTER ROLE " + f.role() + " CONNECTION LIMIT 0")
	f.terminate("true")
	f.relay.says(http.StatusServiceUnavailable, "database_unreachable", "too many connections")
	f.site.exec("ALTER ROLE " + f.role() + " CONNECTION LIMIT -1")
}

func roleReadOnly(f *faultRun) {
	f.site.exec("ALTER ROLE " + f.role() + " SET default_transaction_read_only = on")
	f.terminate("true")
	f.relay.says(http.StatusServiceUnavailable, "write the witness", "read-only transaction")
	f.site.exec("ALTER ROLE " + f.role() + " RESET default_transaction_read_only")
}
