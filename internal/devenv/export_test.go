package devenv

// Dir is where a service keeps everything.
func (s *server) Dir() string { return s.box.dir }

var (
	Cached   = cached
	FreePort = freePort
)

// Launch is the shell program that waits for permission to become a service.
const Launch = launch
