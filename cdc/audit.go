package cdc

import (
	"context"
	"fmt"
)

// deed is what an operator did to a pipeline, or had done, for outboxd.audit. Time and name
// are the server's to give.
type deed struct {
	action   string // "adopt", "replay", "skip", "drop-slot"
	from, to string // positions, LSNs or xids
	reason   string
}

// audit adds d to the pipeline's record.
func audit(ctx context.Context, conn execer, cfg *Config, d deed) error {
	_, err := conn.Exec(ctx, "INSERT INTO outboxd.audit (pipeline, action, from_position, to_position, reason) VALUES ($1, $2, $3, $4, $5)",
		cfg.Pipeline, d.action, d.from, d.to, d.reason)
	if err != nil {
		return schemaError(fmt.Sprintf("audit %s of pipeline %s", d.action, cfg.Pipeline), cfg.Pipeline, err)
	}
	return nil
}
