package replay

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Resume is where a replay goes on: everything that Snapshot saw with a seq
// below Seq was published. The zero Resume is the beginning.
type Resume struct {
	Seq      int64
	Snapshot string // pg_snapshot
}

// validSnapshot is xmin:xmax:list.
var validSnapshot = regexp.MustCompile(`^[0-9]+:[0-9]+:[0-9,]*$`)

// ParseResume reads what String wrote.
func ParseResume(text string) (Resume, error) {
	seq, snapshot, _ := strings.Cut(text, "/")
	n, err := strconv.ParseInt(seq, 10, 64)
	if err != nil || !validSnapshot.MatchString(snapshot) {
		return Resume{}, fmt.Errorf("parse %q: want what a replay that stopped has printed, as 4711/790:801:790,795", text)
	}
	return Resume{n, snapshot}, nil
}

// String is SEQ/SNAPSHOT, empty for the zero Resume.
func (r Resume) String() string {
	if r == (Resume{}) {
		return ""
	}
	return fmt.Sprintf("%d/%s", r.Seq, r.Snapshot)
}

// after returns where to go on when an attempt that began at r has published
// everything that snapshot saw, up to the seq last.
//
// When it has not yet come to r.Seq it has published rows that were committed
// late, and not all of them: they are published again.
func (r Resume) after(last int64, snapshot string) Resume {
	if last < r.Seq {
		return r
	}
	return Resume{last + 1, snapshot}
}
