package cdc

import (
	"strings"
	"testing"
)

// A slot that can no longer give what it promised is named with the position up
// to which everything was published.
func TestSlotThatIsLost(t *testing.T) {
	good := slotState{plugin: "pgoutput", sameDatabase: true, confirmed: 0x100, walStatus: "reserved"}
	w := &witness{acked: progress{confirm: 0x200}, floor: "740"}
	tests := []struct {
		name    string
		change  func(*slotState)
		witness *witness
		code    Code
		want    string
	}{
		{"in order", func(*slotState) {}, w, "", ""},
		{"about to be lost", func(st *slotState) { st.walStatus = "unreserved" }, w, "", ""},
		{"lost", func(st *slotState) { st.walStatus = "lost" }, w, CodeSlotLost, "max_slot_wal_keep_size); events committed after 0/200"},
		{"lost, without a witness", func(st *slotState) { st.walStatus = "lost" }, nil, CodeSlotLost, "committed after 0/100"},
		{"invalidated", func(st *slotState) { st.invalidation = "idle_timeout" }, w, CodeSlotLost, "idle_timeout; events committed after 0/200"},
		{"of another database", func(st *slotState) { st.sameDatabase, st.database = false, "shop" }, w, CodeSlotWrong, `"shop"`},
		{"held", func(st *slotState) { st.activePID, st.holder = 5, "outboxd q" }, w, CodeSlotActive, "process 5 (outboxd q)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := good
			tt.change(&st)
			err := checkSlot(&Config{Pipeline: "p", Slot: "s", Table: "public.outbox"}, &st, tt.witness)
			if code(err) != tt.code || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q with %q", err, tt.code, tt.want)
			}
		})
	}
}
