// A server that keeps values: PUT adds one, GET returns their number, their digest,
// and the connection's number.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
)

type key struct{}

var (
	lock        sync.Mutex
	connections int
	values      = map[int]string{}
)

func main() {
	journal, err := os.OpenFile("/data/journal", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	server := http.Server{Addr: ":8080", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		if r.Method == "PUT" {
			body, _ := io.ReadAll(r.Body)
			values[len(values)] = string(body)
			fmt.Fprintln(journal, string(body))
		}
		digest := sha256.New()
		for i := range len(values) {
			fmt.Fprintln(digest, values[i])
		}
		fmt.Fprintf(w, "connection %d values %d %x", r.Context().Value(key{}), len(values), digest.Sum(nil))
	})}
	server.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		lock.Lock()
		defer lock.Unlock()
		connections++
		return context.WithValue(ctx, key{}, connections)
	}
	log.Fatal(server.ListenAndServe())
}
