package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const (
		passes = `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- PASS: TestA (0.00s)\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.01s\n"}
{"Action":"pass","Package":"p"}
`
		fails = `{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: wrong\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- FAIL: TestB (0.00s)\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.01s\n"}
{"Action":"fail","Package":"p"}
`
		skips = `{"Action":"output","Package":"p","Test":"TestC/sub","Output":"    c_test.go:1: no broker\n"}
{"Action":"skip","Package":"p","Test":"TestC/sub"}
{"Action":"pass","Package":"p","Test":"TestC"}
`
		panics = `{"Action":"output","Package":"p","Test":"TestD","Output":"panic: boom\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.01s\n"}
{"Action":"fail","Package":"p"}
`
		noTests = `{"Action":"output","Package":"q","Output":"?   \tq\t[no test files]\n"}
{"Action":"skip","Package":"q"}
`
		noBuild = `{"ImportPath":"q","Action":"build-output","Output":"q.go:1: syntax error\n"}
{"ImportPath":"q","Action":"build-fail"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","FailedBuild":"q"}
`
	)
	tests := []struct {
		name, stream, want string
		good               bool
	}{
		{"pass", passes, "ok  \tp\t0.01s\n1 passed, 0 failed, 0 skipped\n", true},
		{"fail", passes + fails, "ok  \tp\t0.01s\n    b_test.go:1: wrong\n--- FAIL: TestB (0.00s)\nFAIL\tp\t0.01s\n" +
			"failed:  p.TestB\n1 passed, 1 failed, 0 skipped\n", false},
		{"skip", skips, "    c_test.go:1: no broker\nskipped: p.TestC/sub\n1 passed, 0 failed, 1 skipped\n", false},
		{"panic", panics, "panic: boom\nFAIL\tp\t0.01s\nfailed:  p.TestD\n0 passed, 1 failed, 0 skipped\n", false},
		{"no test files", passes + noTests, "ok  \tp\t0.01s\n?   \tq\t[no test files]\n1 passed, 0 failed, 0 skipped\n", true},
		{"no build", noBuild, "q.go:1: syntax error\nFAIL\tq [build failed]\nfailed:  q\n0 passed, 1 failed, 0 skipped\n", false},
		{"nothing", "", "0 passed, 0 failed, 0 skipped\n", false},
		{"no event", "go: cannot find main module", "go: cannot find main module0 passed, 0 failed, 0 skipped\n", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(tt.stream)); err != nil {
				t.Fatal(err)
			}
			r.summarise()
			if out.String() != tt.want {
				t.Errorf("printed:\n%s\nwant:\n%s", out.String(), tt.want)
			}
			if r.good() != tt.good {
				t.Errorf("good() = %v, want %v", r.good(), tt.good)
			}
		})
	}
}
