// Go's net/http. Follows the plan on its standard input, which `it/senders.rs` describes.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

func post(client *http.Client, words []string) string {
	target, credentials, name := words[0], words[1], words[2]
	options := " " + strings.Join(words[3:], " ") + " "
	has := func(option string) bool { return strings.Contains(options, " "+option+" ") }

	content, err := os.ReadFile(name)
	if err != nil {
		panic(err)
	}
	var body io.Reader = bytes.NewReader(content)
	if has("chunked") {
		// A reader of another type, so that its length is unknown.
		body = bufio.NewReader(body)
	}
	request, err := http.NewRequest("POST", target, body)
	if err != nil {
		panic(err)
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	if has("text") {
		request.Header.Set("Content-Type", "text/plain")
	}
	if has("gzip") {
		request.Header.Set("Content-Encoding", "gzip")
	}
	if has("expect") {
		request.Header.Set("Expect", "100-continue")
	}
	switch credentials {
	case "once":
		request.SetBasicAuth("mx", "secret")
	case "wrong":
		request.SetBasicAuth("mx", "wrong")
	}
	client.Timeout = 30 * time.Second
	if has("impatient") {
		client.Timeout = time.Second
	}
	answer, err := client.Do(request)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) && failed.Timeout() {
			return "timed out"
		}
		return err.Error()
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err.Error()
	}
	return fmt.Sprint(answer.StatusCode)
}

func main() {
	plan := bufio.NewScanner(os.Stdin)
	for plan.Scan() {
		session := strings.Split(plan.Text(), "\t")
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.Proxy = nil
		transport.ExpectContinueTimeout = 10 * time.Second
		client := &http.Client{Transport: transport}
		answers := []string{}
		for _, request := range session[1:] {
			answers = append(answers, post(client, strings.Split(request, " ")))
		}
		fmt.Printf("%s\t%s\n", session[0], strings.Join(answers, " "))
	}
}
