package kafka

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/outboxd/outboxd/publisher"
)

// tlsConfig reads the certificate files. It returns nil without TLS.
func (c Config) tlsConfig() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil
	}
	t, err := publisher.Certificates{CA: c.CAFile, Cert: c.CertFile, Key: c.KeyFile}.TLS()
	if err != nil {
		return nil, err
	}
	t.ServerName, t.InsecureSkipVerify = c.ServerName, c.Insecure
	return t, nil
}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer connects, asks guard before every write to the socket, and puts TLS
// above that: a write that the guard refuses has not left this host. A client
// lives for long and connects anew when a broker restarts, so certificates are
// read for each connection: those of the day when the client was made may have
// expired.
func (c Config) dialer(guard publisher.Guard) dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		t, err := c.tlsConfig()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, DialTimeout)
		defer cancel()
		conn, err := c.Dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conn = publisher.GuardConn(conn, guard)
		if t == nil {
			return conn, nil
		}
		if t.ServerName == "" {
			t.ServerName, _, _ = net.SplitHostPort(addr)
		}
		secure := tls.Client(conn, t)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("tls handshake with %s: %w", addr, err)
		}
		return secure, nil
	}
}
