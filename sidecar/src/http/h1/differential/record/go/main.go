// Records what Go's net/http server makes of each input: go run main.go INPUTS > ../../recorded/go.txt
// The format is described in ../../recorded.rs. The server reads ahead, so where a message ends is not known.
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"math/bits"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"
)

// conn is a client that has sent everything and then ends.
type conn struct {
	in     *bytes.Reader
	mu     sync.Mutex
	items  []string
	out    bytes.Buffer
	closed chan struct{}
	once   sync.Once
}

func (c *conn) Read(b []byte) (int, error)         { return c.in.Read(b) }
func (c *conn) Write(b []byte) (int, error)        { return c.out.Write(b) }
func (c *conn) Close() error                       { c.once.Do(func() { close(c.closed) }); return nil }
func (c *conn) LocalAddr() net.Addr                { return addr{c} }
func (c *conn) RemoteAddr() net.Addr               { return addr{c} }
func (c *conn) SetDeadline(t time.Time) error      { return nil }
func (c *conn) SetReadDeadline(t time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { return nil }

type addr struct{ c *conn }

func (addr) Network() string { return "memory" }
func (addr) String() string  { return "memory" }

type listener struct {
	conns chan net.Conn
}

func (l *listener) Accept() (net.Conn, error) { return <-l.conns, nil }
func (l *listener) Close() error              { return nil }
func (l *listener) Addr() net.Addr            { return addr{} }

func encode(text string) string {
	var out strings.Builder
	for _, b := range []byte(text) {
		if b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("/?&=._*-", b) >= 0 {
			out.WriteByte(b)
		} else {
			fmt.Fprintf(&out, "%%%02x", b)
		}
	}
	return out.String()
}

func digest(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

func fields(h http.Header) string {
	var names []string
	for name := range h {
		switch strings.ToLower(name) {
		case "content-length", "host", "trailer", "transfer-encoding":
		default:
			names = append(names, name)
		}
	}
	sort.Slice(names, func(a, b int) bool { return strings.ToLower(names[a]) < strings.ToLower(names[b]) })
	var lines bytes.Buffer
	for _, name := range names {
		for _, value := range h[name] {
			fmt.Fprintf(&lines, "%s:%s\n", strings.ToLower(name), value)
		}
	}
	if lines.Len() == 0 {
		return "-"
	}
	return fmt.Sprintf("%016x", digest(lines.Bytes()))
}

// What varies in a reason is left out.
var particular = regexp.MustCompile(`"[^"]*"|: [^ ]*[^a-z ,.'-].*$`)

func reason(text string) string {
	return strings.TrimSpace(particular.ReplaceAllString(text, ""))
}

func serve(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(http.LocalAddrContextKey).(addr).c
	body, err := io.ReadAll(r.Body)
	read := fmt.Sprintf("%d.%016x", len(body), digest(body))
	if len(body) == 0 {
		read = "0"
	}
	if err != nil {
		read = "!" + encode(reason(err.Error()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items = append(c.items, fmt.Sprintf("-:-:%d.%d:%s:%s:%s:%s:%s", r.ProtoMajor, r.ProtoMinor, encode(r.Method),
		encode(r.RequestURI), encode(r.Host), fields(r.Header), read))
}

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var inputs [][]byte
	all := uint64(0xcbf29ce484222325)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		input, err := hex.DecodeString(lines.Text())
		if err != nil {
			log.Fatal(err)
		}
		inputs = append(inputs, input)
		all = bits.RotateLeft64(all, 7) ^ digest(input)
	}
	l := &listener{conns: make(chan net.Conn)}
	server := &http.Server{
		Handler:                      http.HandlerFunc(serve),
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
	}
	go server.Serve(l)
	conns := make([]*conn, len(inputs))
	for i, input := range inputs {
		conns[i] = &conn{in: bytes.NewReader(input), closed: make(chan struct{})}
		l.conns <- conns[i]
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "%s %016x\n", runtime.Version(), all)
	for _, c := range conns {
		<-c.closed
		stop := "~"
		// The server answers what it refuses by itself; the handler's answers are all 200.
		for rest := c.out.String(); ; {
			at := strings.Index(rest, "HTTP/1.1 ")
			if at < 0 {
				break
			}
			rest = rest[at+len("HTTP/1.1 "):]
			if strings.HasPrefix(rest, "200 ") || strings.HasPrefix(rest, "100 ") {
				continue
			}
			line, tail, _ := strings.Cut(rest, "\r\n")
			_, body, _ := strings.Cut(tail, "\r\n\r\n")
			if body == "" {
				body = line
			}
			stop = "!" + encode(reason(strings.TrimPrefix(body, "400 Bad Request: ")))
			break
		}
		c.mu.Lock()
		fmt.Fprintln(out, strings.Join(append(c.items, stop), " "))
		c.mu.Unlock()
	}
	out.Flush()
}
