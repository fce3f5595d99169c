// Package imports holds a test only: it keeps to their rooms the packages that
// a stranger would look for there.
package imports
