package kafka

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/outboxd/outboxd/publisher"
)

// ParseURL reads kafka://[user[:password]@]host[:port][,host[:port]…][?options].
// The scheme kafka+tls sets tls. The error is a *publisher.ConfigError and
// never holds the password.
func ParseURL(s string) (Config, error) {
	var c Config
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case ok && scheme == "kafka":
	case ok && scheme == "kafka+tls":
		c.TLS = true
	default:
		return Config{}, configErrorf("a kafka URL begins with kafka:// or kafka+tls://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	// The standard parser takes one host only, and prints the password in its
	// errors.
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, password, _ := strings.Cut(rest[:i], ":")
		var err1, err2 error
		c.User, err1 = url.PathUnescape(user)
		c.Password, err2 = url.PathUnescape(password)
		if err1 != nil || err2 != nil {
			return Config{}, configErrorf("user or password in the kafka URL is not percent-encoded")
		}
		rest = rest[i+1:]
	}
	for b := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), ",") {
		addr, err := brokerAddress(b)
		if err != nil {
			return Config{}, err
		}
		c.Brokers = append(c.Brokers, addr)
	}
	if err := c.parseQuery(query); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

func brokerAddress(b string) (string, error) {
	host, port, err := net.SplitHostPort(b)
	if err != nil {
		host, port = strings.Trim(b, "[]"), DefaultPort
		if strings.HasPrefix(b, "[") != strings.Contains(host, ":") {
			return "", configErrorf("broker address %q is not host or host:port", b)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if host == "" || err != nil || n == 0 || strings.ContainsAny(host, "/ @") {
		return "", configErrorf("broker address %q is not host or host:port", b)
	}
	return net.JoinHostPort(host, port), nil
}

func (c *Config) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return configErrorf("the options of the kafka URL are not key=value&…: %v", err)
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		i := slices.IndexFunc(parameters, func(p parameter) bool { return p.name == name })
		if i < 0 {
			return unknownParameter(name)
		}
		if len(values[name]) > 1 {
			return configErrorf("kafka option %q is given more than once", name)
		}
		if err := parameters[i].set(c, values[name][0]); err != nil {
			return configErrorf("kafka option %s=%q: %v", name, values[name][0], err)
		}
	}
	return nil
}

// parameter is one option of the URL.
type parameter struct {
	name string
	set  func(c *Config, value string) error
	get  func(c *Config) string
}

// parameters are all that ParseURL knows.
var parameters = []parameter{
	text("ca", func(c *Config) *string { return &c.CAFile }),
	text("cert", func(c *Config) *string { return &c.CertFile }),
	text("client_id", func(c *Config) *string { return &c.ClientID }),
	text("compression", func(c *Config) *string { return &c.Compression }),
	boolean("create_topics", func(c *Config) *bool { return &c.CreateTopics }),
	boolean("insecure", func(c *Config) *bool { return &c.Insecure }),
	text("key", func(c *Config) *string { return &c.KeyFile }),
	number("lanes", func(c *Config) *int { return &c.Lanes }),
	number("max_message_bytes", func(c *Config) *int { return &c.MaxMessageBytes }),
	number("max_request_bytes", func(c *Config) *int { return &c.MaxRequestBytes }),
	text("oauth_client_id", func(c *Config) *string { return &c.OAuthClientID }),
	text("oauth_client_secret_file", func(c *Config) *string { return &c.OAuthClientSecretFile }),
	text("oauth_endpoint", func(c *Config) *string { return &c.OAuthEndpoint }),
	text("oauth_scope", func(c *Config) *string { return &c.OAuthScope }),
	text("oauth_token_file", func(c *Config) *string { return &c.OAuthTokenFile }),
	number("partitions", func(c *Config) *int { return &c.Partitions }),
	text("password_file", func(c *Config) *string { return &c.PasswordFile }),
	number("replication_factor", func(c *Config) *int { return &c.ReplicationFactor }),
	text("sasl", func(c *Config) *string { return &c.SASL }),
	text("server_name", func(c *Config) *string { return &c.ServerName }),
	boolean("tls", func(c *Config) *bool { return &c.TLS }),
	text("user", func(c *Config) *string { return &c.User }),
	number("window_bytes", func(c *Config) *int { return &c.WindowBytes }),
	number("window_records", func(c *Config) *int { return &c.WindowRecords }),
}

func text(name string, field func(*Config) *string) parameter {
	return parameter{
		name: name,
		set:  func(c *Config, v string) error { *field(c) = v; return nil },
		get:  func(c *Config) string { return *field(c) },
	}
}

func boolean(name string, field func(*Config) *bool) parameter {
	return parameter{
		name: name,
		set: func(c *Config, v string) error {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("want true or false")
			}
			*field(c) = b
			return nil
		},
		get: func(c *Config) string {
			if *field(c) {
				return "true"
			}
			return ""
		},
	}
}

func number(name string, field func(*Config) *int) parameter {
	return parameter{
		name: name,
		set: func(c *Config, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n <= 0 {
				return fmt.Errorf("want a whole number above zero")
			}
			*field(c) = n
			return nil
		},
		get: func(c *Config) string {
			if n := *field(c); n != 0 {
				return strconv.Itoa(n)
			}
			return ""
		},
	}
}

func unknownParameter(name string) error {
	known := make([]string, len(parameters))
	best, distance := "", 3 // more changes than two are no slip of the finger
	for i, p := range parameters {
		known[i] = p.name
		if d := editDistance(name, p.name); d < distance {
			best, distance = p.name, d
		}
	}
	hint := ""
	if best != "" {
		hint = fmt.Sprintf("did you mean %q? ", best)
	}
	return configErrorf("unknown kafka option %q: %sknown are %s", name, hint, strings.Join(known, ", "))
}

// editDistance counts the insertions, deletions and replacements between a
// and b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func configErrorf(format string, args ...any) error {
	return &publisher.ConfigError{Code: "config", Detail: fmt.Sprintf(format, args...)}
}
