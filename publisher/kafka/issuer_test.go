//go:build !embedded

package kafka_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// issuer gives signed tokens for the credentials of a client, as an identity
// provider does, and the key by which a broker checks them.
type issuer struct {
	*httptest.Server
	key   *rsa.PrivateKey
	asked atomic.Int64
}

const (
	keysPath    = "/keys"
	tokenPath   = "/token"
	tokenSecret = "canary-of-the-client"
	tokenLife   = 10 * time.Second
	audience    = "kafka.test"
)

func newIssuer(t testing.TB) *issuer {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc(keysPath, func(w http.ResponseWriter, _ *http.Request) {
		encode := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
		fmt.Fprintf(w, `{"keys":[{"kty":"RSA","kid":"1","use":"sig","alg":"RS256","n":%q,"e":%q}]}`,
			encode(key.N), encode(big.NewInt(int64(key.E))))
	})
	mux.HandleFunc("POST "+tokenPath, func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		if user, secret, _ := r.BasicAuth(); user != "relay" || secret != tokenSecret {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		// A broker takes no new login within a second, so that a token must be
		// changed for another while it is good for some.
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":"4"}`, i.token(audience, tokenLife))
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

// token is one for an audience that ends after life from now.
func (i *issuer) token(audience string, life time.Duration) string {
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	end := time.Now().Add(life)
	signed := part(map[string]string{"alg": "RS256", "typ": "JWT", "kid": "1"}) + "." +
		part(map[string]any{"sub": "relay", "aud": audience, "iss": "issuer.test", "iat": end.Add(-time.Hour).Unix(), "exp": end.Unix()})
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, digest[:])
	if err != nil {
		panic(err) // only for a key that is too short
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}
