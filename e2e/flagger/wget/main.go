// wget stands in for the one that Flagger's probes call in its image, which is Alpine's: it asks for the URL, its last
// argument, and exits 0 when the answer is a good one. Its flags do not matter here.
package main

import (
	"net/http"
	"os"
	"time"
)

func main() {
	client := http.Client{Timeout: 4 * time.Second}
	response, err := client.Get(os.Args[len(os.Args)-1])
	if err != nil || response.StatusCode >= 400 {
		os.Exit(1)
	}
}
