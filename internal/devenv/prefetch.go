package devenv

import "context"

// Prefetch fills the cache with all that a later start would have to download:
// the PostgreSQL versions that are named and, if kafka is set, the jars of
// Kafka. It says on standard error what it fetches.
func Prefetch(ctx context.Context, postgres []string, kafka bool) error {
	for _, version := range postgres {
		if _, err := install(ctx, version); err != nil {
			return err
		}
	}
	if kafka {
		if _, err := kafkaJars(ctx); err != nil {
			return err
		}
	}
	return nil
}
