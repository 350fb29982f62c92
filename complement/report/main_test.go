package main

import (
	"io"
	"strings"
	"testing"
)

const events = `{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA","Output":"hello\n"}
{"Action":"pass","Test":"TestA/second"}
{"Action":"fail","Test":"TestA/first"}
{"Action":"fail","Test":"TestA"}
{"Action":"skip","Test":"TestB"}
{"Action":"pass","Test":"TestC"}
{"Action":"fail"}
`

func read(t *testing.T, text string) outcomes {
	t.Helper()
	seen, err := readEvents(strings.NewReader(text), io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestResultsAreSortedAndIncludeSubtests(t *testing.T) {
	want := `{"Action":"fail","Test":"TestA"}
{"Action":"fail","Test":"TestA/first"}
{"Action":"pass","Test":"TestA/second"}
{"Action":"skip","Test":"TestB"}
{"Action":"pass","Test":"TestC"}
`
	if got := string(render(read(t, events))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestThePatternNamesWhatHasSomethingPassing(t *testing.T) {
	if got, want := pattern(read(t, events)), "^(TestA|TestC)$"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWhatPassedBeforeAndIsMissingIsLost(t *testing.T) {
	now := read(t, `{"Action":"pass","Test":"TestA/second"}`)
	if got := lost(read(t, events), now); len(got) != 1 || got[0] != "TestC" {
		t.Errorf("got %v, want [TestC]", got)
	}
}

func TestATestThatFailsInOnePackageFails(t *testing.T) {
	seen := read(t, `{"Action":"fail","Test":"TestA"}
{"Action":"pass","Test":"TestA"}`)
	if seen["TestA"] != "fail" {
		t.Errorf("got %s, want fail", seen["TestA"])
	}
}
