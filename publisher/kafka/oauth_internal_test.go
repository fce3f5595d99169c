package kafka

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// FuzzOAuthAnswers: whatever an endpoint or a broker answers, a token is what
// can be one, and an error repeats at most one short word of it.
func FuzzOAuthAnswers(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `null`, `[]`, `{"access_token":"t","expires_in":"60"}`, `{"access_token":"t","expires_in":-1e999}`, `{"access_token":"t\u0001"}`,
		`{"access_token":["t"]}`, `{"error":"invalid_client"}`, `{"error":"see the secret"}`, `{"status":"invalid_token"}`, `{"status":7}`, "\xff",
	} {
		f.Add(200, body)
		f.Add(401, body)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		grant, err := readGrant(&http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))})
		if err == nil && (status != http.StatusOK || grant.Token == "" || strings.ContainsFunc(grant.Token, notOfToken)) {
			t.Errorf("%d %q gives the token %q", status, body, grant.Token)
		}
		_, _, refused := bearerSession{}.Challenge([]byte(body))
		if refused == nil != (body == "") {
			t.Errorf("%q refuses by %v", body, refused)
		}
		for _, err := range []error{err, refused} {
			if err != nil && len(err.Error()) > 200 {
				t.Errorf("%q is repeated: %v", body, err)
			}
		}
	})
}
