// Command report reads what `go test -json` prints, and reports which tests passed.
//
// With -write it writes the results, one JSON object a line, sorted by name. With -expect it reads such a file
// and fails when a test that is listed there as passing did not pass. With -names it only prints, for
// `go test -run`, the pattern of the top-level tests of such a file that have something passing.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is one line of `go test -json`.
type event struct {
	Action string
	Test   string
	Output string
}

// result is one line of results.jsonl.
type result struct {
	Action string
	Test   string
}

// outcomes says of each test "pass", "fail" or "skip".
type outcomes map[string]string

func main() {
	write := flag.String("write", "", "file to write the results to")
	expect := flag.String("expect", "", "file of results of which none may be lost")
	names := flag.String("names", "", "file of results whose tests to print as a pattern")
	log := flag.String("log", "", "file for everything that the tests print")
	flag.Parse()

	if err := run(*write, *expect, *names, *log); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(write, expect, names, logFile string) error {
	if names != "" {
		known, err := readResults(names)
		if err != nil {
			return err
		}
		fmt.Println(pattern(known))
		return nil
	}
	log, err := openLog(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	seen, err := readEvents(os.Stdin, os.Stdout, log)
	if err != nil {
		return err
	}
	fmt.Println(summary(seen))
	if write != "" {
		if err := os.WriteFile(write, render(seen), 0o644); err != nil {
			return err
		}
	}
	if expect != "" {
		known, err := readResults(expect)
		if err != nil {
			return err
		}
		if lost := lost(known, seen); len(lost) > 0 {
			return fmt.Errorf("%d tests that passed before do not pass:\n  %s", len(lost), strings.Join(lost, "\n  "))
		}
	}
	return nil
}

func openLog(file string) (io.WriteCloser, error) {
	if file == "" {
		file = os.DevNull
	}
	return os.Create(file)
}

// readEvents gathers the outcomes, copies what the tests print to log, and names each finished top-level test.
func readEvents(in io.Reader, progress, log io.Writer) (outcomes, error) {
	seen := outcomes{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			note(line, seen, progress, log)
		}
		if err == io.EOF {
			return seen, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func note(line []byte, seen outcomes, progress, log io.Writer) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		// Not an event: what the compiler says, for example.
		progress.Write(line)
		return
	}
	switch e.Action {
	case "output", "build-output":
		io.WriteString(log, e.Output)
		if e.Action == "build-output" {
			io.WriteString(progress, e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			return
		}
		// Two packages may have a test of one name: what fails in one of them fails.
		if seen[e.Test] != "fail" {
			seen[e.Test] = e.Action
		}
		if !strings.Contains(e.Test, "/") {
			fmt.Fprintln(progress, e.Action, e.Test)
		}
	}
}

func readResults(file string) (outcomes, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	known := outcomes{}
	for line := range bytes.Lines(text) {
		var r result
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		known[r.Test] = r.Action
	}
	return known, nil
}

// render gives the text of results.jsonl.
func render(seen outcomes) []byte {
	var text bytes.Buffer
	for _, test := range sorted(seen) {
		line, err := json.Marshal(result{Action: seen[test], Test: test})
		if err != nil {
			panic(err) // two strings can always be written as JSON
		}
		text.Write(line)
		text.WriteByte('\n')
	}
	return text.Bytes()
}

// pattern matches the top-level tests of which something passes.
func pattern(known outcomes) string {
	var tests []string
	for _, test := range sorted(known) {
		top, _, _ := strings.Cut(test, "/")
		if known[test] == "pass" && !slices.Contains(tests, top) {
			tests = append(tests, top)
		}
	}
	return "^(" + strings.Join(tests, "|") + ")$"
}

// lost names the tests that passed before and do not now.
func lost(known, seen outcomes) []string {
	var lost []string
	for _, test := range sorted(known) {
		if known[test] == "pass" && seen[test] != "pass" {
			lost = append(lost, test)
		}
	}
	return lost
}

func summary(seen outcomes) string {
	var top, all [3]int
	kinds := []string{"pass", "fail", "skip"}
	for test, action := range seen {
		kind := slices.Index(kinds, action)
		all[kind]++
		if !strings.Contains(test, "/") {
			top[kind]++
		}
	}
	return fmt.Sprintf("top-level tests: %d passed, %d failed, %d skipped; with subtests: %d passed, %d failed, %d skipped",
		top[0], top[1], top[2], all[0], all[1], all[2])
}

func sorted(tests outcomes) []string {
	var names []string
	for test := range tests {
		names = append(names, test)
	}
	slices.Sort(names)
	return names
}
