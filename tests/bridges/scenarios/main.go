// Command scenarios starts a homeserver and bridges that are built with real frameworks, and checks what has to work
// between them. tests/bridges/run calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

type options struct {
	server string
	only   string
	keep   bool

	// The script tests/bridges/run sets these.
	parlour          string
	synapsePython    string
	mautrixBridge    string
	appserviceBridge string
}

func main() {
	var opts options
	flag.StringVar(&opts.server, "server", "parlour", "the server: parlour or synapse")
	flag.StringVar(&opts.only, "only", "", "only the scenarios of one framework: mautrix-go or matrix-appservice-bridge")
	flag.BoolVar(&opts.keep, "keep", false, "keep the logs and databases if all scenarios passed")
	flag.StringVar(&opts.parlour, "parlour", "", "the program of Parlour")
	flag.StringVar(&opts.synapsePython, "synapse-python", "", "the Python interpreter that has Synapse")
	flag.StringVar(&opts.mautrixBridge, "mautrix-bridge", "", "the program of the bridge with mautrix-go")
	flag.StringVar(&opts.appserviceBridge, "appservice-bridge", "", "the script of the bridge with matrix-appservice-bridge")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	folder, err := os.MkdirTemp("", "bridges-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	passed, failed, err := playAll(ctx, opts, folder)
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if err == nil && passed == 0 {
		err = errors.New("there was nothing to do")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || failed > 0 || opts.keep {
		fmt.Fprintf(os.Stderr, "The logs and databases: %s\n", folder)
	} else {
		_ = os.RemoveAll(folder)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

// playAll starts the server, plays the scenarios of all frameworks, and returns how many passed and failed.
func playAll(ctx context.Context, opts options, folder string) (passed, failed int, err error) {
	bridges, err := prepareBridges(opts, folder)
	if err != nil {
		return 0, 0, err
	}
	var registrations []string
	for _, b := range bridges {
		registrations = append(registrations, b.registration)
	}
	server, err := newServer(opts, filepath.Join(folder, "server"), registrations)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	if err := server.run(ctx); err != nil {
		return 0, 0, err
	}
	if err := server.register(ctx, aliceLocalpart, alicePassword); err != nil {
		return 0, 0, fmt.Errorf("register a user: %w", err)
	}
	for _, b := range bridges {
		if opts.only != "" && opts.only != b.framework {
			continue
		}
		passedHere, failedHere, err := playSuite(ctx, server, b)
		passed, failed = passed+passedHere, failed+failedHere
		if err != nil {
			return passed, failed, err
		}
	}
	return passed, failed, ctx.Err()
}

// prepareBridges chooses the bridges' addresses and writes their registrations.
func prepareBridges(opts options, folder string) ([]*bridge, error) {
	bridges := []*bridge{mautrixBridge(opts.mautrixBridge), appserviceBridge(opts.appserviceBridge)}
	for _, b := range bridges {
		address, err := freePort(bridgeAddress)
		if err != nil {
			return nil, err
		}
		b.address = address
		b.files = filepath.Join(folder, b.framework)
		b.registration = b.files + ".yaml"
		if err := b.register(address).Save(b.registration); err != nil {
			return nil, err
		}
	}
	return bridges, nil
}

func newServer(opts options, folder string, registrations []string) (*homeserver, error) {
	switch opts.server {
	case "parlour":
		return newParlour(opts.parlour, folder, registrations)
	case "synapse":
		return newSynapse(opts.synapsePython, folder, registrations)
	}
	return nil, fmt.Errorf("there is no server %q", opts.server)
}
