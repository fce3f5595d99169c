package main

import (
	"fmt"
	"strconv"
	"strings"
)

// bytesValue is a flag for a number of bytes, more than 0.
type bytesValue int64

// units are what may stand behind the number.
var units = [...]struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}}

// String implements pflag.Value: the largest unit that divides the number.
func (v *bytesValue) String() string {
	text := strconv.FormatInt(int64(*v), 10)
	for _, u := range units {
		if *v != 0 && int64(*v)%u.bytes == 0 {
			text = strconv.FormatInt(int64(*v)/u.bytes, 10) + u.name
		}
	}
	return text
}

// Set implements pflag.Value.
func (v *bytesValue) Set(text string) error {
	number, factor := text, int64(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(text, u.name); ok {
			number, factor = n, u.bytes
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)/factor {
		return fmt.Errorf("want a number of bytes above 0, with KiB, MiB or GiB behind it if wanted")
	}
	*v = bytesValue(n * factor)
	return nil
}

// Type implements pflag.Value.
func (v *bytesValue) Type() string { return "bytes" }
