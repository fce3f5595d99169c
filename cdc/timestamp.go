package cdc

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// errInfinite says that a timestamp is PostgreSQL's infinity or -infinity.
var errInfinite = errors.New("read time: it is infinite")

// epoch2000 is PostgreSQL's epoch, 2000-01-01 UTC, in Unix seconds.
const epoch2000 = 946_684_800

// timeOf converts microseconds since 2000 to a time in UTC.
func timeOf(micros int64) time.Time {
	return time.Unix(epoch2000+micros/1_000_000, micros%1_000_000*1_000).UTC()
}

// appendTimestamp appends microseconds since 2000 as the server writes a
// timestamp in ISO style, with zone behind the time of day.
func appendTimestamp(dst []byte, micros int64, zone string) []byte {
	switch micros {
	case math.MaxInt64:
		return append(dst, "infinity"...)
	case math.MinInt64:
		return append(dst, "-infinity"...)
	}
	t := timeOf(micros)
	dst = appendYearMonthDay(dst, t)
	hour, minute, second := t.Clock()
	dst = appendTwoDigits(append(dst, ' '), hour)
	dst = appendTwoDigits(append(dst, ':'), minute)
	dst = appendTwoDigits(append(dst, ':'), second)
	dst = appendFraction(dst, t.Nanosecond()/1000)
	return appendEra(append(dst, zone...), t)
}

// appendDate appends days since 2000 as the server writes a date in ISO style.
func appendDate(dst []byte, days int32) []byte {
	switch days {
	case math.MaxInt32:
		return append(dst, "infinity"...)
	case math.MinInt32:
		return append(dst, "-infinity"...)
	}
	t := time.Unix(epoch2000+int64(days)*86_400, 0).UTC()
	return appendEra(appendYearMonthDay(dst, t), t)
}

// appendYearMonthDay appends the date with a year of at least four digits.
// There is no year 0: what time.Time calls year 0 is 1 BC.
func appendYearMonthDay(dst []byte, t time.Time) []byte {
	year, month, day := t.Date()
	if year <= 0 {
		year = 1 - year
	}
	for limit := 1000; limit > 1 && year < limit; limit /= 10 {
		dst = append(dst, '0')
	}
	dst = strconv.AppendInt(dst, int64(year), 10)
	dst = appendTwoDigits(append(dst, '-'), int(month))
	return appendTwoDigits(append(dst, '-'), day)
}

func appendEra(dst []byte, t time.Time) []byte {
	if t.Year() <= 0 {
		return append(dst, " BC"...)
	}
	return dst
}

func appendTwoDigits(dst []byte, n int) []byte {
	return append(dst, byte('0'+n/10), byte('0'+n%10))
}

// appendFraction appends the microseconds of a second without trailing zeroes.
func appendFraction(dst []byte, micros int) []byte {
	if micros == 0 {
		return dst
	}
	dst = append(dst, '.')
	for unit := 100_000; micros > 0; unit /= 10 {
		dst = append(dst, byte('0'+micros/unit))
		micros %= unit
	}
	return dst
}

// parseTimestamp reads a timestamp in ISO style: with an offset from UTC if
// zoned, without one otherwise. time.Parse knows neither BC nor years beyond
// 9999.
func parseTimestamp(b []byte, zoned bool) (time.Time, error) {
	if s := string(b); s == "infinity" || s == "-infinity" {
		return time.Time{}, errInfinite
	}
	s := scanner{rest: b, ok: true}
	year := s.number(4, 6)
	month := s.after('-')
	day := s.after('-')
	hour := s.after(' ')
	minute := s.after(':')
	second := s.after(':')
	micros := s.fraction()
	var offset int
	if zoned {
		offset = s.offset()
	}
	if string(s.rest) == " BC" {
		s.rest = nil
		year = 1 - year
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, micros*1000, time.UTC)
	// time.Date normalizes what no clock or calendar has; the server never
	// writes it.
	if !s.ok || len(s.rest) > 0 || t.Month() != time.Month(month) || t.Day() != day || t.Minute() != minute || t.Second() != second {
		return time.Time{}, fmt.Errorf("%w: %.40q is not a timestamp in ISO style (DateStyle must be ISO)", errMalformed, b)
	}
	return t.Add(-time.Duration(offset) * time.Second), nil
}

// scanner takes numbers off the front of rest. ok turns false when one is not
// there, and stays so.
type scanner struct {
	rest []byte
	ok   bool
}

// skip takes c off and says whether it was there.
func (s *scanner) skip(c byte) bool {
	if len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// number takes off at least low and at most high digits.
func (s *scanner) number(low, high int) int {
	n, digits := 0, 0
	for digits < high && digits < len(s.rest) && '0' <= s.rest[digits] && s.rest[digits] <= '9' {
		n = n*10 + int(s.rest[digits]-'0')
		digits++
	}
	s.rest = s.rest[digits:]
	s.ok = s.ok && digits >= low
	return n
}

// after takes off c and two digits.
func (s *scanner) after(c byte) int {
	if !s.skip(c) {
		s.ok = false
	}
	return s.number(2, 2)
}

// fraction takes off the fraction of a second, if any, in microseconds.
func (s *scanner) fraction() int {
	if !s.skip('.') {
		return 0
	}
	before := len(s.rest)
	n := s.number(1, 6)
	for range 6 - (before - len(s.rest)) {
		n *= 10
	}
	return n
}

// offset takes off an offset from UTC, ±hh[:mm[:ss]], in seconds.
func (s *scanner) offset() int {
	sign := 1
	if s.skip('-') {
		sign = -1
	} else if !s.skip('+') {
		s.ok = false
	}
	seconds := s.number(2, 2) * 3600
	if s.skip(':') {
		seconds += s.number(2, 2) * 60
	}
	if s.skip(':') {
		seconds += s.number(2, 2)
	}
	return sign * seconds
}
