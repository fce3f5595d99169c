package demo

import (
	"bufio"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// askTimeout bounds the question for the metrics: they are for the view, and
// the view is redrawn.
const askTimeout = time.Second

// ask notes what the relay has published so far. When it does not answer, what
// it said last stays.
func (r *relay) ask() {
	r.mu.Lock()
	cmd, metrics := r.cmd, r.metrics
	r.mu.Unlock()
	if cmd == nil || metrics == "" {
		return
	}
	client := http.Client{Timeout: askTimeout}
	resp, err := client.Get(metrics)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	found := readPublished(resp.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == cmd { // it may have been killed and started again meanwhile
		r.current = found
	}
}

// published is a line of the metric that counts published events.
var published = regexp.MustCompile(`^outboxd_events_published_total\{destination="([^"]*)",pipeline="([^"]*)"\} (\S+)`)

// readPublished reads the counters of published events.
func readPublished(metrics io.Reader) counts {
	found := counts{}
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		if m := published.FindStringSubmatch(lines.Text()); m != nil {
			n, _ := strconv.ParseFloat(m[3], 64) // large counts are written as 1e+06
			found[target{m[2], m[1]}] = int(n)
		}
	}
	return found
}
