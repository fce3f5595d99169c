package kafka

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/outboxd/outboxd/publisher"
)

// mechanism asks for the password or token at every login.
func (c Config) mechanism() sasl.Mechanism {
	scramAuth := func(context.Context) (scram.Auth, error) {
		password, err := c.password()
		return scram.Auth{User: c.User, Pass: password}, err
	}
	switch c.SASL {
	case "scram-sha-256":
		return scram.Sha256(scramAuth)
	case "scram-sha-512":
		return scram.Sha512(scramAuth)
	case oauthBearer:
		return c.bearer()
	}
	return plain.Plain(func(context.Context) (plain.Auth, error) {
		password, err := c.password()
		return plain.Auth{User: c.User, Pass: password}, err
	})
}

func (c Config) password() (string, error) {
	if c.PasswordFile == "" {
		return c.Password, nil
	}
	return readSecret("password_file", c.PasswordFile)
}

// checkFiles finds files that cannot be used before anything is dialed.
func (c Config) checkFiles() error {
	_, certificates := c.tlsConfig()
	_, password := c.password()
	var token error
	switch {
	case c.OAuthTokenFile != "":
		_, token = readToken(c.OAuthTokenFile)
	case c.OAuthClientSecretFile != "":
		_, token = readSecret("oauth_client_secret_file", c.OAuthClientSecretFile)
	}
	return errors.Join(certificates, password, token)
}

// readSecret returns what is in a file that option names, without the newline
// at its end.
func readSecret(option, file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", &publisher.ConfigError{Code: "config", Detail: "read ?" + option + "=", Err: err}
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
