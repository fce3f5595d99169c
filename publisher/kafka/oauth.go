package kafka

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"

	"github.com/outboxd/outboxd/publisher"
)

// TokenTimeout bounds one request to a token endpoint.
const TokenTimeout = 10 * time.Second

// bearer logs in with a token that is asked for anew each time.
type bearer struct {
	token func(context.Context) (string, error)
}

func (bearer) Name() string { return "OAUTHBEARER" }

// Authenticate implements sasl.Mechanism.
func (b bearer) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	token, err := b.token(ctx)
	if err != nil {
		return nil, nil, err
	}
	_, first, err := oauth.Auth{Token: token}.AsMechanism().Authenticate(ctx, host)
	return bearerSession{}, first, err
}

type bearerSession struct{}

// Challenge implements sasl.Session. A broker that refuses the token does not
// say so by an error code: it sends a document that says why (RFC 7628), and
// waits for an answer before it hangs up.
func (bearerSession) Challenge(answer []byte) (done bool, _ []byte, err error) {
	if len(answer) == 0 {
		return true, nil, nil
	}
	var refusal struct {
		Status string `json:"status"`
	}
	_ = json.Unmarshal(answer, &refusal)
	return false, nil, tokenError("kafka refuses the token", word(refusal.Status))
}

func tokenError(detail, reason string) error {
	return &publisher.ConfigError{Code: "auth", Detail: detail + ": check that it is current, its audience and its scope", Err: errors.New(reason)}
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,40}$`)

// word is a status or error of a server's, if it is the short word that it
// should be: an answer may hold what it was sent, and the token is a secret.
func word(s string) string {
	if !plainWord.MatchString(s) {
		return "no reason given"
	}
	return s
}

func (c Config) bearer() bearer {
	if c.OAuthEndpoint != "" {
		return bearer{(&tokenSource{config: c}).token}
	}
	return bearer{func(context.Context) (string, error) { return readToken(c.OAuthTokenFile) }}
}

func readToken(file string) (string, error) {
	token, err := readSecret("oauth_token_file", file)
	if token = strings.TrimSpace(token); err == nil && (token == "" || strings.ContainsFunc(token, notOfToken)) {
		err = &publisher.ConfigError{Code: "config", Detail: fmt.Sprintf("read ?oauth_token_file=: %q must hold one token and nothing else", file)}
	}
	return token, err
}

// notOfToken is what would end the token in the middle of the login.
func notOfToken(r rune) bool { return r <= ' ' || r > '~' }

// tokenSource gets tokens with client credentials (RFC 6749, section 4.4). It
// serves all clients of a publisher, at once.
type tokenSource struct {
	config Config

	mu      sync.Mutex
	current string
	renew   time.Time
}

// token returns the one it has for four fifths of its life, then another.
func (s *tokenSource) token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.current != "" && now.Before(s.renew) {
		return s.current, nil
	}
	grant, err := s.fetch(ctx)
	if err != nil {
		return "", err
	}
	seconds, _ := grant.Life.Float64() // not given: the token serves once
	s.current, s.renew = grant.Token, now.Add(time.Duration(seconds*0.8*float64(time.Second)))
	return s.current, nil
}

// grant is the endpoint's answer, of either kind.
type grant struct {
	Token string      `json:"access_token"`
	Life  json.Number `json:"expires_in"` // seconds; some endpoints quote them
	Error string      `json:"error"`
}

func (s *tokenSource) fetch(ctx context.Context) (grant, error) {
	c := s.config
	secret, err := readSecret("oauth_client_secret_file", c.OAuthClientSecretFile)
	if err != nil {
		return grant{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, TokenTimeout)
	defer cancel()
	form := url.Values{"grant_type": {"client_credentials"}}
	if c.OAuthScope != "" {
		form.Set("scope", c.OAuthScope)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.OAuthEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return grant{}, fmt.Errorf("ask for a token: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Close = true // the next one is due in minutes at the earliest
	request.SetBasicAuth(url.QueryEscape(c.OAuthClientID), url.QueryEscape(secret))
	// A redirect could lead the secret elsewhere.
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return grant{}, endpointError(err)
	}
	defer response.Body.Close()
	return readGrant(response)
}

// endpointError hides the cause: what TLS says of the endpoint would pass for
// what it says of the broker.
func endpointError(err error) error {
	var certificate *tls.CertificateVerificationError
	hidden := fmt.Errorf("ask for a token: %v", err)
	if errors.As(err, &certificate) {
		return &publisher.ConfigError{Code: "config", Err: hidden,
			Detail: "verify the token endpoint's certificate (its authority must be one of the system's or in SSL_CERT_FILE)"}
	}
	return hidden
}

// readGrant takes 4xx for a mistake in the configuration, and all else that is
// no token for an endpoint to be asked again.
func readGrant(response *http.Response) (grant, error) {
	var g grant
	err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&g)
	switch {
	case response.StatusCode >= 400 && response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests:
		return grant{}, &publisher.ConfigError{Code: "auth",
			Detail: fmt.Sprintf("the token endpoint answers %d: check oauth_endpoint, oauth_client_id, the secret and oauth_scope", response.StatusCode), Err: errors.New(word(g.Error))}
	case response.StatusCode != http.StatusOK:
		return grant{}, fmt.Errorf("ask for a token: the endpoint answers %d", response.StatusCode)
	case err != nil || g.Token == "" || strings.ContainsFunc(g.Token, notOfToken):
		return grant{}, errors.New("ask for a token: the endpoint's answer holds none")
	}
	return g, nil
}

// safeEndpoint says whether the client's secret may be sent to raw: encrypted,
// or not beyond this host.
func safeEndpoint(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip != nil && ip.IsLoopback())
}

// checkOAuth returns what is wrong with the fields for OAUTHBEARER.
func (c Config) checkOAuth(bad func(broken bool, format string, args ...any)) {
	credentials := c.OAuthEndpoint + c.OAuthClientID + c.OAuthClientSecretFile + c.OAuthScope
	if c.SASL != oauthBearer {
		bad(c.OAuthTokenFile+credentials != "", "an oauth_ option is given: add sasl=oauthbearer")
		return
	}
	bad(c.User+c.Password+c.PasswordFile != "", "sasl oauthbearer takes no user and no password")
	bad((c.OAuthTokenFile == "") == (credentials == ""),
		"sasl oauthbearer needs either oauth_token_file, or oauth_endpoint with oauth_client_id and oauth_client_secret_file")
	bad(credentials != "" && (c.OAuthEndpoint == "" || c.OAuthClientID == "" || c.OAuthClientSecretFile == ""),
		"oauth_endpoint, oauth_client_id and oauth_client_secret_file are given together")
	bad(c.OAuthEndpoint != "" && !safeEndpoint(c.OAuthEndpoint), "oauth_endpoint is not https://host…")
}
