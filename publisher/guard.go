package publisher

import (
	"fmt"
	"net"
)

// GuardConn returns conn with a Write that asks guard first. When guard
// refuses, conn is closed: a client library that retries on the same
// connection would otherwise send later what must not be sent at all. A nil
// guard returns conn itself.
func GuardConn(conn net.Conn, guard Guard) net.Conn {
	if guard == nil {
		return conn
	}
	return &guardedConn{Conn: conn, guard: guard}
}

type guardedConn struct {
	net.Conn
	guard Guard
}

func (c *guardedConn) Write(p []byte) (int, error) {
	if err := c.guard(); err != nil {
		_ = c.Conn.Close()
		return 0, fmt.Errorf("write to broker refused: %w", err)
	}
	return c.Conn.Write(p)
}
