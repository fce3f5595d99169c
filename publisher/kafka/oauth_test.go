package kafka_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/outboxd/outboxd/publisher"
	"github.com/outboxd/outboxd/publisher/kafka"
)

// tokenCluster takes logins with OAUTHBEARER, which the fake cluster does not
// know, as a broker does: a token that is not among valid is answered with a
// document. The keys of seen are the tokens that it was shown.
func tokenCluster(t *testing.T, valid ...string) (brokers []string, seen *sync.Map) {
	t.Helper()
	seen = new(sync.Map)
	cluster := fakeCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "events"))
	cluster.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if got := req.(*kmsg.SASLHandshakeRequest).Mechanism; got != "OAUTHBEARER" {
			t.Errorf("mechanism %s", got)
		}
		return req.ResponseKind(), nil, true
	})
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		login := string(req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes)
		for _, token := range valid {
			if login == "n,,\x01auth=Bearer "+token+"\x01\x01" {
				seen.Store(token, true)
				return resp, nil, true
			}
		}
		resp.SASLAuthBytes = []byte(`{"status":"invalid_token","scope":"` + login[len("n,,\x01auth=Bearer "):len(login)-2] + `"}`)
		return resp, nil, true
	})
	return cluster.ListenAddrs(), seen
}

func secretFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestTokenFile: the token is read at each login, and one that the broker
// refuses is not shown.
func TestTokenFile(t *testing.T) {
	brokers, seen := tokenCluster(t, "canary-1", "canary-2")
	file := secretFile(t, "canary-1\n")
	cfg := kafka.Config{Brokers: brokers, SASL: "oauthbearer", OAuthTokenFile: file}
	for _, token := range []string{"canary-1", "canary-2"} {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := publishOne(t, cfg); err != nil {
			t.Fatalf("%s: %v", token, err)
		}
		if _, ok := seen.Load(token); !ok {
			t.Errorf("the broker has not seen %s", token)
		}
	}
	for content, f := range map[string]struct{ code, text string }{
		"canary-expired":    {"auth", "kafka refuses the token"},
		"":                  {"config", "must hold one token"},
		"canary-1 canary-2": {"config", "must hold one token"},
		"canary\x01host=x":  {"config", "must hold one token"},
	} {
		cfg.OAuthTokenFile = secretFile(t, content)
		err := publishOne(t, cfg)
		wantConfigError(t, err, f.code, f.text)
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("the error shows the token: %v", err)
		}
	}
	cfg.OAuthTokenFile = "/no/such"
	wantConfigError(t, publishOne(t, cfg), "config", "read ?oauth_token_file=: open /no/such")
}

// endpoint answers requests for tokens with what was set last, and counts them.
type endpoint struct {
	*httptest.Server
	status  atomic.Int64
	body    atomic.Value
	request atomic.Value
	asked   atomic.Int64
}

func newEndpoint(t *testing.T, status int, body string) *endpoint {
	e := new(endpoint)
	e.answer(status, body)
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.asked.Add(1)
		user, secret, _ := r.BasicAuth()
		e.request.Store(fmt.Sprint(r.Method, " ", user, " ", secret, " ", r.FormValue("grant_type"), " ", r.FormValue("scope")))
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(e.status.Load()))
		_, _ = w.Write([]byte(e.body.Load().(string)))
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) answer(status int, body string) {
	e.status.Store(int64(status))
	e.body.Store(body)
}

// TestClientCredentials: one token serves all connections of a session while it
// is good, and the next session has its own.
func TestClientCredentials(t *testing.T) {
	brokers, _ := tokenCluster(t, "granted")
	e := newEndpoint(t, 200, "")
	cfg := kafka.Config{Brokers: brokers, SASL: "oauthbearer", OAuthEndpoint: e.URL, OAuthClientID: "relay/1",
		OAuthClientSecretFile: secretFile(t, "s%cret\n"), OAuthScope: "kafka write"}
	for _, f := range []struct {
		answer string
		once   bool // the token is asked for
	}{
		{`{"access_token":"granted","token_type":"Bearer","expires_in":3600}`, true},
		{`{"access_token":"granted","expires_in":"3600"}`, true},
		{`{"access_token":"granted","expires_in":0}`, false},
		{`{"access_token":"granted","expires_in":null}`, false},
		{`{"access_token":"granted"}`, false},
	} {
		e.answer(200, f.answer)
		before := e.asked.Load()
		if err := publishOne(t, cfg); err != nil {
			t.Fatalf("%s: %v", f.answer, err)
		}
		if n := e.asked.Load() - before; f.once != (n == 1) {
			t.Errorf("%s: asked %d times for a session with several connections", f.answer, n)
		}
	}
	if got, want := e.request.Load(), "POST relay%2F1 s%25cret client_credentials kafka write"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestTokenEndpointRefuses(t *testing.T) {
	brokers, _ := tokenCluster(t)
	e := newEndpoint(t, 200, "")
	cfg := kafka.Config{Brokers: brokers, SASL: "oauthbearer", OAuthEndpoint: e.URL, OAuthClientID: "relay", OAuthClientSecretFile: secretFile(t, "canary")}
	for _, f := range []struct {
		status           int
		body, code, text string
	}{
		{401, `{"error":"invalid_client","error_description":"canary"}`, "auth", "answers 401: check oauth_endpoint, oauth_client_id, the secret and oauth_scope: invalid_client"},
		{400, `{"error":"no such secret: canary"}`, "auth", "no reason given"},
		{404, "<html>canary", "auth", "answers 404"},
		{307, "", "", "answers 307"},
		{429, `{"error":"slow_down"}`, "", "answers 429"},
		{503, "canary", "", "answers 503"},
		{200, "canary", "", "holds none"},
		{200, `{"access_token":""}`, "", "holds none"},
		{200, `{"access_token":"canary","expires_in":"soon"}`, "", "holds none"},
		{200, `{"access_token":"canary\u0001host=x"}`, "", "holds none"},
	} {
		e.answer(f.status, f.body)
		err := publishOne(t, cfg)
		var config *publisher.ConfigError
		code := ""
		if errors.As(err, &config) {
			code = config.Code
		}
		if err == nil || code != f.code || !strings.Contains(err.Error(), f.text) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%d %s: %v, want the code %q and %q, and no secret", f.status, f.body, err, f.code, f.text)
		}
	}
	e.Close()
	if err := publishOne(t, cfg); err == nil || errors.As(err, new(*publisher.ConfigError)) {
		t.Errorf("no endpoint: %v, want an error that is worth another try", err)
	}
}

// TestTokenEndpointIsChecked: an endpoint that nobody vouches for does not get to
// see the secret.
func TestTokenEndpointIsChecked(t *testing.T) {
	brokers, _ := tokenCluster(t)
	var asked atomic.Int64
	impostor := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	impostor.Config.ErrorLog = log.New(io.Discard, "", 0) // it says that we hang up
	impostor.StartTLS()
	t.Cleanup(impostor.Close)
	err := publishOne(t, kafka.Config{Brokers: brokers, SASL: "oauthbearer", OAuthEndpoint: impostor.URL, OAuthClientID: "relay",
		OAuthClientSecretFile: secretFile(t, "canary")})
	wantConfigError(t, err, "config", "verify the token endpoint's certificate")
	if asked.Load() > 0 || strings.Contains(err.Error(), "?ca=") {
		t.Errorf("%v, asked %d times", err, asked.Load())
	}
}

func TestOAuthOptions(t *testing.T) {
	const credentials = "&oauth_endpoint=https://idp/token&oauth_client_id=c&oauth_client_secret_file=/s"
	for options, want := range map[string]string{
		"sasl=oauthbearer&oauth_token_file=/t":               "",
		"sasl=oauthbearer" + credentials:                     "",
		"sasl=oauthbearer" + credentials + "&oauth_scope=s":  "",
		"sasl=oauthbearer":                                   "needs either oauth_token_file",
		"sasl=oauthbearer&oauth_token_file=/t" + credentials: "needs either oauth_token_file",
		"sasl=oauthbearer&oauth_endpoint=https://idp":        "given together",
		"sasl=oauthbearer&oauth_token_file=/t&user=u":        "takes no user",
		"sasl=plain&user=u&oauth_token_file=/t":              "add sasl=oauthbearer",
		"oauth_scope=s":                                      "add sasl=oauthbearer",
		"sasl=oauthbearer&oauth_client_id=c&oauth_client_secret_file=/s&oauth_endpoint=http://idp":        "is not https://",
		"sasl=oauthbearer&oauth_client_id=c&oauth_client_secret_file=/s&oauth_endpoint=https://u:p@idp":   "is not https://",
		"sasl=oauthbearer&oauth_client_id=c&oauth_client_secret_file=/s&oauth_endpoint=http://[::1]:8080": "",
	} {
		c, err := kafka.ParseURL("kafka://h?" + options)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", options, err)
		case want != "":
			wantConfigError(t, err, "config", want)
		default:
			if again, err := kafka.ParseURL(c.String()); err != nil || again.String() != c.String() {
				t.Errorf("%s: does not survive String: %v", options, err)
			}
		}
	}
}
