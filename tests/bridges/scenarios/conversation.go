package main

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// author is the person in the remote network who writes the messages of the scenarios.
const author = "carol"

// conversation is a room in which a user talks with the people of a channel of the remote network.
type conversation struct {
	user    *user
	network *network
	roomID  id.RoomID
	channel string
	ghost   id.UserID
	// Whether the messages have to be encrypted in the room.
	encrypted bool
}

// relaysBothWays checks that one message of each side arrives at the other.
func (c *conversation) relaysBothWays(ctx context.Context, occasion string) error {
	toNetwork, toRoom := "to the network "+occasion, "to the room "+occasion
	if err := c.user.sends(ctx, c.roomID, toNetwork); err != nil {
		return err
	}
	c.network.publishMessage(c.channel, author, toRoom)
	if err := c.arrivesAtNetwork(ctx, toNetwork); err != nil {
		return err
	}
	return c.arrivesInRoom(ctx, toRoom)
}

// arrivesAtNetwork waits for a message of the user, and checks who sent it.
func (c *conversation) arrivesAtNetwork(ctx context.Context, text string) error {
	d, err := c.network.waitForMessage(ctx, text)
	if err != nil {
		return err
	}
	expected := delivery{
		Kind:      "message",
		Channel:   c.channel,
		Sender:    c.user.UserID.String(),
		Text:      text,
		Encrypted: c.encrypted,
	}
	if d != expected {
		return fmt.Errorf("the network received %+v, expected %+v", d, expected)
	}
	return nil
}

// arrivesInRoom waits for a message of the network, and checks that the ghost sent it.
func (c *conversation) arrivesInRoom(ctx context.Context, text string) error {
	evt, err := c.user.waitForMessage(ctx, c.roomID, text)
	if err != nil {
		return err
	}
	return c.checkMessage(evt)
}

func (c *conversation) checkMessage(evt *event.Event) error {
	if evt.Sender != c.ghost {
		return fmt.Errorf("%s sent the message to the room, expected %s", evt.Sender, c.ghost)
	}
	if evt.Mautrix.WasEncrypted != c.encrypted {
		return fmt.Errorf("whether the message in the room was encrypted: %t", evt.Mautrix.WasEncrypted)
	}
	return nil
}

// arrivesOnceEach waits for messages of both sides and checks that none of them arrives twice. A message that follows
// them shows that everything before it has arrived.
func (c *conversation) arrivesOnceEach(ctx context.Context, toNetwork, toRoom []string) error {
	for _, text := range toNetwork {
		if err := c.arrivesAtNetwork(ctx, text); err != nil {
			return err
		}
	}
	for _, text := range toRoom {
		if err := c.arrivesInRoom(ctx, text); err != nil {
			return err
		}
	}
	if err := c.relaysBothWays(ctx, "after all: "+fmt.Sprint(toNetwork, toRoom)); err != nil {
		return err
	}
	for _, text := range toNetwork {
		if count := c.network.deliveries.count(isDeliveryOf(text)); count != 1 {
			return fmt.Errorf("the message %q arrived %d times at the network", text, count)
		}
	}
	for _, text := range toRoom {
		if count := c.user.messages.count(isMessage(c.roomID, text)); count != 1 {
			return fmt.Errorf("the message %q arrived %d times in the room", text, count)
		}
	}
	return nil
}
