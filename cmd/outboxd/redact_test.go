package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// canary is a password that nothing else contains. It needs percent-encoding,
// so that it has several forms.
const canary, encoded = "c4n@ry/pass word", "c4n%40ry%2Fpass%20word"

// TestNoSecretIsPrinted goes through the error paths of every command with the
// password in every place where one can be.
func TestNoSecretIsPrinted(t *testing.T) {
	const (
		refused  = "postgres://u:" + encoded + "@127.0.0.1:1/db?connect_timeout=2"
		bad      = "postgres://u:" + canary + "@127.0.0.1:port/db"
		keywords = "host=127.0.0.1 port=1 user=u dbname=db password='" + canary + "'"
		broken   = "host=127.0.0.1 port=1 password='" + canary + "' nonsense"
	)
	var calls [][]string
	for _, database := range []string{refused, bad, keywords, broken} {
		for _, command := range []string{"setup", "setup --print", "teardown --yes", "run --fail-fast --metrics off --broker jsonl:-", "run --setup --fail-fast --metrics off --broker jsonl:-"} {
			calls = append(calls, append(strings.Fields(command), "--database", database))
		}
	}
	for _, broker := range []string{
		"kafka://u:" + encoded + "@127.0.0.1:1?sasl=plain", "kafka://u:" + canary + "@h", "kafka://u:" + encoded + "@h?nonsense=1",
		"amqp://u:" + encoded + "@127.0.0.1:1/v", "amqp://u:" + canary + "@h", "amqps://u:" + encoded + "@h?x=y", "ampq://u:" + encoded + "@h",
		"jsonl://u:" + encoded + "@h",
	} {
		calls = append(calls, []string{"run", "--fail-fast", "--metrics", "off", "--database", refused, "--broker", broker})
	}
	// The same from files, which the program reads later and must learn of then.
	fromFlags := len(calls)
	t.Chdir(t.TempDir())
	for i, database := range []string{refused, bad, keywords, broken} {
		file, secret := fmt.Sprintf("%d.yaml", i), fmt.Sprintf("%d.txt", i)
		write(t, secret, database+"\n")
		write(t, file, "fail-fast: true\nmetrics: off\nbroker: 'jsonl:-'\ndatabase: "+strconv.Quote(database)+"\n")
		calls = append(calls, []string{"run", "--config", file}, []string{"setup", "--config", file}, []string{"teardown", "--yes", "--database-file", secret})
	}
	write(t, "broker.yaml", "fail-fast: true\nmetrics: off\nbroker: kafka://u:${SECRET}@h\ndatabase: "+refused+"\n")
	calls = append(calls, []string{"run", "--config", "broker.yaml"})
	for i, args := range calls {
		env := []string{"SECRET=" + encoded}
		if i < fromFlags {
			env = append(env, "PGPASSWORD="+canary)
		}
		for _, format := range []string{"text", "json"} {
			if args[0] == "run" {
				args = append(args, "--log-format", format)
			}
			r := call(t, env, args...)
			if r.exit == 0 && args[len(args)-1] == format {
				t.Errorf("%v: exit code 0; this is meant to fail", args)
			}
			for _, form := range []string{canary, encoded, "c4n", "ry/pass"} {
				if strings.Contains(r.err, form) || strings.Contains(r.out, form) {
					t.Errorf("%v: the password was printed:\n%s%s", args[:2], r.out, r.err)
				}
			}
		}
	}
}

// TestReadinessHidesSecrets: the library's error quotes the database's name,
// which here is the password too.
func TestReadinessHidesSecrets(t *testing.T) {
	b := start(t, []string{"PGPASSWORD=canary-database"}, "run", "--database", "postgres://u@127.0.0.1:1/canary-database",
		"--broker", "jsonl:-", "--metrics", "127.0.0.1:0", "--pipeline", "p")
	eventually(t, "a word on it", func() bool { return b.says("database_unreachable") })
	for _, path := range []string{"/readyz", "/metrics", "/livez"} {
		code, body := b.get(path)
		if strings.Contains(body, "canary") {
			t.Errorf("%s shows it: %s", path, body)
		}
		if path == "/readyz" && (code != 503 || !strings.Contains(body, "***")) {
			t.Errorf("%s: %d %s, want the reason without it", path, code, body)
		}
	}
}

func TestRedactor(t *testing.T) {
	env := map[string]string{
		"PGPASSWORD":       "from-the-environment",
		"OUTBOXD_BROKER":   "amqp://guest:guest@h",
		"OUTBOXD_DATABASE": "postgres://postgres:postgres@h/db?sslpassword=key-pass-phrase",
		"PGSSLPASSWORD":    "of-the-client-key",
		"HOME":             "postgres://x:not-ours-to-hide@h",
	}
	r := newRedactor([]string{"--broker", "kafka://u:a%20longer%20one@h?password_file=/run/secrets/kafka&oauth_token_file=/run/secrets/token",
		"--database", "host=h password=my_file_of_secrets"}, env)
	tests := []struct{ in, want string }{
		{"from-the-environment", "***"},
		{"key-pass-phrase", "***"},
		{"of-the-client-key", "***"},
		{"my_file_of_secrets", "***"},
		{"/run/secrets/token", "/run/secrets/token"},
		{"a%20longer%20one and a longer one", "*** and ***"},
		{"user guest at amqp://guest:guest@h", "user guest at amqp://guest:***@h"},
		{"user postgres, postgres://postgres:postgres@h, password=postgres", "user postgres, postgres://postgres:***@h, password=***"},
		{"/run/secrets/kafka", "/run/secrets/kafka"},
		{"not-ours-to-hide", "not-ours-to-hide"},
	}
	for _, tt := range tests {
		if got := r.text(tt.in); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.in, got, tt.want)
		}
	}
}
