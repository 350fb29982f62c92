package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"
)

// scenario is something that has to work with a bridge framework.
type scenario struct {
	name string
	play func(context.Context) error
}

// inConversation returns a scenario's steps that need a conversation which an earlier scenario started.
func inConversation(
	c **conversation, play func(context.Context, *conversation) error,
) func(context.Context) error {
	return func(ctx context.Context) error {
		if *c == nil {
			return errors.New("an earlier scenario could not start the conversation that this one needs")
		}
		return play(ctx, *c)
	}
}

// suite is what the scenarios of one bridge have in common.
type suite struct {
	framework string
	server    *homeserver
	network   *network
	bridge    *process
	alice     *user
}

const (
	aliceLocalpart = "alice"
	alicePassword  = "password of alice"
)

// startBridge starts the bridge, unless it runs already, and waits until the server can reach it.
func (s *suite) startBridge(ctx context.Context) error {
	if s.bridge.isRunning() {
		return nil
	}
	if err := s.bridge.start(); err != nil {
		return err
	}
	return s.bridge.waitForLine(ctx, "ready")
}

// play runs scenarios one by one, prints a line for each, and returns how many passed and failed.
func (s *suite) play(ctx context.Context, scenarios []scenario) (passed, failed int) {
	for _, scenario := range scenarios {
		began := time.Now()
		err := s.playOne(ctx, scenario)
		seconds := time.Since(began).Seconds()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failed++
			fmt.Printf("FAILED  %s: %s (%.1f s)\n        %s\n", s.framework, scenario.name, seconds, err)
		} else {
			passed++
			fmt.Printf("ok  %s: %s (%.1f s)\n", s.framework, scenario.name, seconds)
		}
	}
	return passed, failed
}

// playOne runs a scenario after it has started again what an earlier one left stopped.
func (s *suite) playOne(ctx context.Context, scenario scenario) error {
	if err := s.server.run(ctx); err != nil {
		return err
	}
	if err := s.startBridge(ctx); err != nil {
		return err
	}
	return scenario.play(ctx)
}

func (s *suite) restartsBridgeOnly(ctx context.Context, c *conversation) error {
	return s.restartsBridge(ctx, c, "while the bridge is down", func() error { return nil })
}

func (s *suite) restartsServerOnly(ctx context.Context, c *conversation) error {
	return s.restartsServer(ctx, c, "while the server is down")
}

func (s *suite) restartsServerAndBridge(ctx context.Context, c *conversation) error {
	return s.restartsBridge(ctx, c, "before both restart", func() error { return s.restartServer(ctx) })
}

// restartsBridge checks that the messages of both sides that are sent while the bridge is down arrive once each.
// It calls whileDown while the bridge is down, after the messages are sent.
func (s *suite) restartsBridge(
	ctx context.Context, c *conversation, occasion string, whileDown func() error,
) error {
	if err := s.bridge.stop(); err != nil {
		return err
	}
	toNetwork, toRoom := numberedTexts("to the network "+occasion), numberedTexts("to the room "+occasion)
	for i := range toNetwork {
		if err := s.alice.sends(ctx, c.roomID, toNetwork[i]); err != nil {
			return err
		}
		s.network.publishMessage(c.channel, author, toRoom[i])
	}
	if err := whileDown(); err != nil {
		return err
	}
	if err := s.startBridge(ctx); err != nil {
		return err
	}
	return c.arrivesOnceEach(ctx, toNetwork, toRoom)
}

// restartsServer checks that the messages of both sides that are sent while the server is down arrive once each.
func (s *suite) restartsServer(ctx context.Context, c *conversation, occasion string) error {
	if err := s.server.stop(); err != nil {
		return err
	}
	toNetwork, toRoom := numberedTexts("to the network "+occasion), numberedTexts("to the room "+occasion)
	for _, text := range toRoom {
		s.network.publishMessage(c.channel, author, text)
	}
	sent := make(chan error, 1)
	go func() {
		for _, text := range toNetwork {
			if err := s.alice.sends(ctx, c.roomID, text); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	if err := s.server.run(ctx); err != nil {
		return err
	}
	if err := <-sent; err != nil {
		return err
	}
	return c.arrivesOnceEach(ctx, toNetwork, toRoom)
}

// crashesServer checks that the messages of both sides that are sent right before a crash of the server arrive once each.
func (s *suite) crashesServer(ctx context.Context, c *conversation) error {
	toNetwork, toRoom := numberedTexts("to the network before the crash"), numberedTexts("to the room before the crash")
	for i := range toNetwork {
		s.network.publishMessage(c.channel, author, toRoom[i])
		if err := s.alice.sends(ctx, c.roomID, toNetwork[i]); err != nil {
			return err
		}
	}
	if err := s.server.kill(); err != nil {
		return err
	}
	if err := s.server.run(ctx); err != nil {
		return err
	}
	return c.arrivesOnceEach(ctx, toNetwork, toRoom)
}

func (s *suite) restartServer(ctx context.Context) error {
	if err := s.server.stop(); err != nil {
		return err
	}
	return s.server.run(ctx)
}

func numberedTexts(text string) []string {
	return []string{text + ", first", text + ", second", text + ", third"}
}

func userID(localpart string) id.UserID {
	return id.NewUserID(localpart, serverName)
}
