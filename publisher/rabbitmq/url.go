package rabbitmq

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ParseURL reads amqp://user:password@host[:port][,host2…][/vhost][?options],
// or amqps:// for TLS. User, password and vhost are percent-encoded; no vhost
// is DefaultVHost. Its error is a *publisher.ConfigError that names every
// problem at once and never shows the password.
//
// The options are the fields of Config in small letters: exchange
// (DefaultExchange when absent, AMQP's default exchange when empty), ordering,
// unroutable, persistent (true or false), max_message_size, channels, window,
// window_bytes, heartbeat, connect_timeout, write_timeout,
// confirm_timeout, tls_ca, tls_cert, tls_key, tls_server_name. Sizes are bytes, or a number with KiB or MiB;
// durations as in 10s, a bare number is seconds.
func ParseURL(raw string) (Config, error) {
	c := Config{Exchange: DefaultExchange}
	scheme, rest, _ := strings.Cut(raw, "://")
	switch scheme {
	case "amqp":
	case "amqps":
		c.TLS = true
	default:
		return Config{}, configError([]error{errors.New("the URL begins neither with amqp:// nor with amqps://")})
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")

	var problems []error
	i := strings.LastIndexByte(authority, '@')
	if i < 0 && strings.Contains(path+query, "@") {
		// Nothing of it is shown: it may be half a password.
		return Config{}, configError([]error{errors.New("an @ stands behind the host: in user, password and options, @ / ? are percent-encoded")})
	}
	if i >= 0 {
		problems = append(problems, c.parseUser(authority[:i]))
		authority = authority[i+1:]
	}
	for host := range strings.SplitSeq(authority, ",") {
		problems = append(problems, c.parseHost(host))
	}
	vhost, err := url.PathUnescape(path)
	if err != nil || strings.Contains(path, "/") {
		problems = append(problems, fmt.Errorf("vhost %q is not percent-encoded (a slash is %%2F)", path))
	}
	c.VHost = vhost
	problems = append(problems, c.parseOptions(query)...)
	problems = slices.DeleteFunc(problems, func(err error) bool { return err == nil })
	if len(problems) == 0 {
		problems = c.withDefaults().problems()
	}
	if len(problems) > 0 {
		return Config{}, configError(problems)
	}
	return c, nil
}

func (c *Config) parseUser(userinfo string) error {
	user, password, _ := strings.Cut(userinfo, ":")
	var err1, err2 error
	c.User, err1 = url.PathUnescape(user)
	c.Password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		// The causes quote what they could not read.
		return errors.New("user or password is not percent-encoded")
	}
	return nil
}

func (c *Config) parseHost(host string) error {
	port := "5672"
	if c.TLS {
		port = "5671"
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port of host %q is not a number from 1 to 65535", host)
	}
	if host == "" || strings.ContainsAny(host, "[] ") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return errors.New("no host, or one that is not host:port")
	}
	c.Hosts = append(c.Hosts, net.JoinHostPort(host, port))
	return nil
}

func (c *Config) parseOptions(query string) []error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return []error{errors.New("the options behind ? are not percent-encoded name=value pairs")}
	}
	known := c.options()
	var problems []error
	for name, vs := range values {
		switch set := known[name]; {
		case set == nil:
			problems = append(problems, unknownOption(name, known))
		case len(vs) > 1:
			problems = append(problems, fmt.Errorf("option %s is given %d times", name, len(vs)))
		default:
			if err := set(vs[0]); err != nil {
				problems = append(problems, fmt.Errorf("option %s=%q: %w", name, vs[0], err))
			}
		}
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return problems
}

// options are the setters of the URL's options.
func (c *Config) options() map[string]func(string) error {
	text := func(field *string) func(string) error {
		return func(v string) error { *field = v; return nil }
	}
	number := func(field *int) func(string) error {
		return func(v string) (err error) { *field, err = parseSize(v); return err }
	}
	duration := func(field *time.Duration) func(string) error {
		return func(v string) (err error) { *field, err = parseDuration(v); return err }
	}
	return map[string]func(string) error{
		"exchange":         text(&c.Exchange),
		"ordering":         text((*string)(&c.Ordering)),
		"unroutable":       text((*string)(&c.Unroutable)),
		"persistent":       c.setPersistent,
		"max_message_size": number(&c.MaxMessageSize),
		"channels":         number(&c.Channels),
		"window":           number(&c.Window),
		"window_bytes":     number(&c.WindowBytes),
		"heartbeat":        duration(&c.Heartbeat),
		"connect_timeout":  duration(&c.ConnectTimeout),
		"write_timeout":    duration(&c.WriteTimeout),
		"confirm_timeout":  duration(&c.ConfirmTimeout),
		"tls_ca":           text(&c.CAFile),
		"tls_cert":         text(&c.CertFile),
		"tls_key":          text(&c.KeyFile),
		"tls_server_name":  text(&c.ServerName),
	}
}

func (c *Config) setPersistent(v string) error {
	if v != "true" && v != "false" {
		return errors.New("want true or false")
	}
	c.Transient = v == "false"
	return nil
}

// parseSize reads a positive number, with KiB or MiB behind it or not.
func parseSize(v string) (int, error) {
	digits, unit := v, 1
	if s, ok := strings.CutSuffix(v, "KiB"); ok {
		digits, unit = s, 1<<10
	} else if s, ok := strings.CutSuffix(v, "MiB"); ok {
		digits, unit = s, 1<<20
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n == 0 {
		return 0, errors.New("want a number from 1 to 2147483647, KiB and MiB allowed")
	}
	return int(n) * unit, nil
}

func parseDuration(v string) (time.Duration, error) {
	if n, err := strconv.ParseUint(v, 10, 31); err == nil && n > 0 {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, errors.New("want a duration such as 10s, or seconds")
	}
	return d, nil
}
