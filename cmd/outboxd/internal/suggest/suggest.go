// Package suggest finds the word that somebody meant who wrote another.
package suggest

// Nearest returns the candidate that differs from name in the fewest letters,
// "" when all of them differ in too many to be meant.
func Nearest(name string, candidates []string) string {
	best, found := 2+len(name)/4, ""
	for _, c := range candidates {
		if d := distance(name, c); d < best {
			best, found = d, c
		}
	}
	return found
}

// distance counts the letters to insert, remove or replace to make b of a.
func distance(a, b string) int {
	previous := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			row[j+1] = min(previous[j+1], row[j]) + 1
			if replace := previous[j]; a[i] == b[j] {
				row[j+1] = min(row[j+1], replace)
			} else {
				row[j+1] = min(row[j+1], replace+1)
			}
		}
		previous = row
	}
	return previous[len(b)]
}
