package main

import (
	"context"
	"errors"

	"maunium.net/go/mautrix/appservice"
)

// bridge is an application service that is built with one framework.
type bridge struct {
	framework string
	// The bridge listens on this address.
	address string
	// The path of the registration, and the beginning of the paths of all other files of the bridge.
	registration string
	files        string

	register  func(address string) *appservice.Registration
	command   func(b *bridge, server *homeserver, network *network) []string
	scenarios func(s *suite) []scenario
}

// playSuite plays the scenarios of a bridge, and returns how many passed and failed.
func playSuite(ctx context.Context, server *homeserver, b *bridge) (passed, failed int, err error) {
	if err := server.run(ctx); err != nil {
		return 0, 0, err
	}
	network, err := startNetwork(networkAddress)
	if err != nil {
		return 0, 0, err
	}
	defer network.stop()
	alice, err := logIn(ctx, server, aliceLocalpart, alicePassword)
	if err != nil {
		return 0, 0, err
	}
	defer alice.close()
	program := &process{
		name:    "the bridge with " + b.framework,
		logPath: b.files + ".log",
		command: b.command(b, server, network),
	}
	defer func() { err = errors.Join(err, program.stop()) }()
	s := &suite{framework: b.framework, server: server, network: network, bridge: program, alice: alice}
	passed, failed = s.play(ctx, b.scenarios(s))
	return passed, failed, nil
}
