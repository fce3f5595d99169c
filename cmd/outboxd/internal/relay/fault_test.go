package relay

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"
	"time"

	"github.com/outboxd/outboxd/cdc"
	"github.com/outboxd/outboxd/publisher"
)

var (
	fresh  = history{}
	proven = history{source: true, broker: true}
)

// codes says what each code of the read side means at the start and later.
var codes = map[cdc.Code]struct {
	start, later Class
	exit         int
}{
	cdc.CodeUnreachable:     {Retry, Retry, 69},
	cdc.CodeServerStopping:  {Retry, Retry, 69},
	cdc.CodeLostLead:        {Retry, Retry, 69},
	cdc.CodeWitness:         {Retry, Retry, 69},
	cdc.CodeRetainedWAL:     {Retry, Retry, 69},
	cdc.CodeColumnTypes:     {Retry, Retry, 69},
	cdc.CodeSlotActive:      {Standby, Standby, 69},
	cdc.CodeSyncStandby:     {RetryLate, RetryLate, 78},
	cdc.CodeAuth:            {Fatal, RetryLate, 77},
	cdc.CodeNotPrimary:      {Fatal, RetryLate, 78},
	cdc.CodePrivilege:       {Fatal, Fatal, 77},
	cdc.CodeConfig:          {Fatal, RetryLate, 78},
	cdc.CodeDatabaseMissing: {Fatal, Fatal, 78},
	cdc.CodeWALLevel:        {Fatal, Fatal, 78},
	cdc.CodeVersion:         {Fatal, Fatal, 78},
	cdc.CodeNotSetUp:        {Fatal, Fatal, 78},
	cdc.CodeConfigMismatch:  {Fatal, Fatal, 78},
	cdc.CodeSlotMissing:     {Fatal, Fatal, 78},
	cdc.CodeSlotWrong:       {Fatal, Fatal, 78},
	cdc.CodePublication:     {Fatal, Fatal, 78},
	cdc.CodeColumns:         {Fatal, Fatal, 78},
	cdc.CodePublicationGap:  {Fatal, Fatal, 78},
	cdc.CodeSlotLost:        {Fatal, Fatal, 78},
	cdc.CodeSlotDropped:     {Fatal, Fatal, 78},
	cdc.CodeSlotForeign:     {Fatal, Fatal, 78},
	cdc.CodeSystemChanged:   {Fatal, Fatal, 78},
	cdc.CodeRestored:        {Fatal, Fatal, 78},
	cdc.CodeMalformedStream: {Fatal, Fatal, 70},
	cdc.CodeNoGap:           {Fatal, Fatal, 78},
	cdc.CodeSkipped:         {Fatal, Fatal, 78},
}

func TestClassifySource(t *testing.T) {
	for code, want := range codes {
		err := fmt.Errorf("open session: %w", &cdc.Error{Code: code, Fix: "mend it"})
		start, later := classify(err, fresh), classify(err, proven)
		if start != (Fault{Class: want.start, Code: string(code), Exit: want.exit, Fix: "mend it"}) {
			t.Errorf("%s at the start: %+v", code, start)
		}
		if later.Class != want.later || later.Exit != want.exit {
			t.Errorf("%s later: %+v", code, later)
		}
	}
}

// TestCodesAreComplete: a code that is added to cdc must be thought about here.
func TestCodesAreComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../../../cdc/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "Code" {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		found++
		if _, ok := codes[cdc.Code(value)]; !ok {
			t.Errorf("%s (%q) is not in the table", spec.Names[0], value)
		}
		return true
	})
	if found != len(codes) {
		t.Errorf("cdc has %d codes, the table %d", found, len(codes))
	}
}

func TestClassifyPublisher(t *testing.T) {
	poison := &publisher.PoisonError{Reason: "too_large", Detail: "2 MB"}
	held := &publisher.HeldError{Reason: "missing_topic", Target: "orders", Fix: "create it"}
	pending := &poisonPending{&failure{err: poison}}
	tests := []struct {
		name   string
		err    error
		worked history
		want   Fault
	}{
		{"unknown error", errors.New("EOF"), proven, Fault{Class: Retry, Code: "broker_unreachable", Exit: 69, Fix: "check the address in --broker and whether the broker runs"}},
		{"outcome unknown", publisher.ErrUnknown, proven, Fault{Class: Retry, Code: "broker_unreachable", Exit: 69, Fix: "check the address in --broker and whether the broker runs"}},
		{"aborted", publisher.ErrAborted, proven, Fault{Class: Retry, Code: "broker_unreachable", Exit: 69, Fix: "check the address in --broker and whether the broker runs"}},
		{"closed", publisher.ErrClosed, proven, Fault{Class: Retry, Code: "broker_unreachable", Exit: 69, Fix: "check the address in --broker and whether the broker runs"}},
		{"held", held, proven, Fault{Class: Held, Code: "missing_topic", Target: "orders", Exit: 69, Fix: "create it"}},
		{"held at the start", held, fresh, Fault{Class: Held, Code: "missing_topic", Target: "orders", Exit: 69, Fix: "create it"}},
		{"poison", &PoisonEvent{Err: poison}, proven, Fault{Class: Poison, Code: "poison", Target: "too_large", Exit: 1, Fix: poisonFix}},
		{"poison pending is no stop", pending, proven, Fault{Class: Retry, Code: "poison_pending", Exit: 1}},
		{"poison beside a lost connection", errors.Join(&cdc.Error{Code: cdc.CodeUnreachable}, poison), proven, Fault{Class: Poison, Code: "poison", Target: "too_large", Exit: 1, Fix: poisonFix}},
		{"the guard's error", fmt.Errorf("write to broker refused: %w", &cdc.Error{Code: cdc.CodeLostLead}), proven, Fault{Class: Retry, Code: "lost_lead", Exit: 69}},
		{"a file that cannot be read for a while", &publisher.ConfigError{Code: "config", Detail: "x"}, proven, Fault{Class: RetryLate, Code: "broker_config", Exit: 78, Fix: "correct --broker"}},
		{"configuration", &publisher.ConfigError{Code: "config", Detail: "x"}, fresh, Fault{Class: Fatal, Code: "broker_config", Exit: 78, Fix: "correct --broker"}},
		{"broker's password at the start", &publisher.ConfigError{Code: "auth"}, history{source: true}, Fault{Class: Fatal, Code: "broker_authentication", Exit: 77, Fix: "correct the login of --broker: user and password, or token"}},
		{"broker's password later", &publisher.ConfigError{Code: "auth"}, proven, Fault{Class: RetryLate, Code: "broker_authentication", Exit: 77, Fix: "correct the login of --broker: user and password, or token"}},
		{"invariant", fmt.Errorf("x: %w", &invariantError{"order", "y"}), proven, Fault{Class: Fatal, Code: "invariant", Exit: 70, Fix: "report this with the log: it is a defect of outboxd"}},
		{"columns", &MissingColumnsError{}, proven, Fault{Class: Fatal, Code: "missing_columns", Exit: 78, Fix: (&MissingColumnsError{}).Fix()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := classify(tt.err, tt.worked); got != tt.want {
				t.Errorf("%+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// TestLive: a loop that has not ticked for long is dead, one that has not begun
// is not.
func TestLive(t *testing.T) {
	r := &Relay{}
	if err := r.Live(); err != nil {
		t.Errorf("before Run: %v", err)
	}
	r.ticks.Store(time.Now().Add(-deadAfter / 2).UnixNano())
	if err := r.Live(); err != nil {
		t.Errorf("alive: %v", err)
	}
	r.ticks.Store(time.Now().Add(-2 * deadAfter).UnixNano())
	if err := r.Live(); err == nil {
		t.Error("no tick for long, and alive")
	}
}

func TestPause(t *testing.T) {
	tests := []struct {
		class       Class
		attempts    int
		least, most time.Duration
	}{
		{Retry, 1, 50 * time.Millisecond, 100 * time.Millisecond},
		{Retry, 4, 400 * time.Millisecond, 800 * time.Millisecond},
		{Held, 7, 2500 * time.Millisecond, 5 * time.Second},
		{Retry, 1 << 40, 2500 * time.Millisecond, 5 * time.Second},
		{RetryLate, 1, 30 * time.Second, 45 * time.Second},
		{Standby, 0, time.Second, 2 * time.Second},
	}
	for _, tt := range tests {
		different := map[time.Duration]bool{}
		for range 100 {
			d := pause(tt.class, tt.attempts)
			different[d] = true
			if d < tt.least || d >= tt.most {
				t.Errorf("pause(%d, %d) is %s, want %s to %s", tt.class, tt.attempts, d, tt.least, tt.most)
			}
		}
		if len(different) < 2 {
			t.Errorf("pause(%d, %d) is always the same", tt.class, tt.attempts)
		}
	}
}
