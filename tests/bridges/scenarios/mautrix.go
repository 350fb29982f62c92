package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

const (
	mautrixBot         = "mautrix_bot"
	mautrixGhostPrefix = "mautrix_"
	// The framework keeps at most this many one-time keys of a device on the server.
	maxOneTimeKeys = 100
)

func mautrixBridge(program string) *bridge {
	return &bridge{
		framework: "mautrix-go",
		register:  mautrixRegistration,
		command: func(b *bridge, server *homeserver, network *network) []string {
			return []string{
				program,
				"-registration", b.registration,
				"-homeserver", server.url,
				"-domain", serverName,
				"-listen", b.address,
				"-network", network.url,
				"-database", b.files + ".db",
			}
		},
		scenarios: func(s *suite) []scenario { return (&mautrixSuite{suite: s}).scenarios() },
	}
}

func mautrixRegistration(address string) *appservice.Registration {
	registration := appservice.CreateRegistration()
	registration.ID = "mautrix-bridge"
	registration.URL = "http://" + address
	registration.SenderLocalpart = mautrixBot
	registration.RateLimited = new(bool)
	registration.Namespaces.UserIDs = appservice.NamespaceList{
		{Regex: "^@" + mautrixGhostPrefix + ".*:bridges\\.test$", Exclusive: true},
	}
	registration.EphemeralEvents = true
	registration.SoruEphemeralEvents = true
	registration.MSC3202 = true
	registration.MSC4190 = true
	return registration
}

type mautrixSuite struct {
	*suite
	// Rooms that several scenarios use.
	plain     *conversation
	encrypted *conversation
}

func (s *mautrixSuite) scenarios() []scenario {
	scenarios := []scenario{
		{
			"the bot joins a room by invitation, and messages are relayed both ways",
			s.relaysInPlainRoom,
		},
		{
			"a ghost has its name, and its messages have the time of the network",
			inConversation(&s.plain, s.ghostHasNameAndTime),
		},
		{
			"typing and read receipts are relayed both ways",
			inConversation(&s.plain, s.relaysEphemeralEvents),
		},
		{
			"messages that are sent while the bridge is down arrive after its restart, once each",
			inConversation(&s.plain, s.restartsBridgeOnly),
		},
		{
			"messages that are sent while the server is down arrive after its restart, once each",
			inConversation(&s.plain, s.restartsServerOnly),
		},
		{
			"encrypted messages are relayed both ways",
			s.relaysInEncryptedRoom,
		},
		{
			"encrypted messages and their keys arrive after a restart of the bridge, once each",
			inConversation(&s.encrypted, s.restartsBridgeWithNewSession),
		},
		{
			"the bridge encrypts for a device that a user adds",
			inConversation(&s.encrypted, s.encryptsForNewDevice),
		},
		{
			"the bridge uploads new one-time keys when others have claimed them",
			inConversation(&s.encrypted, s.uploadsOneTimeKeys),
		},
	}
	if s.server.keepsUnsentEvents {
		scenarios = append(scenarios, scenario{
			"messages arrive although the server restarts before the bridge is up again, once each",
			inConversation(&s.plain, s.restartsServerAndBridge),
		}, scenario{
			"messages that are sent right before a crash of the server arrive, once each",
			inConversation(&s.plain, s.crashesServer),
		}, scenario{
			"encrypted messages and their keys arrive although the server restarts before the bridge is up again",
			inConversation(&s.encrypted, s.restartsServerAndBridgeWithNewSession),
		})
	}
	return scenarios
}

// createConversation creates a room, invites the bot and waits until it has joined.
func (s *mautrixSuite) createConversation(ctx context.Context, encrypted bool) (*conversation, error) {
	request := &mautrix.ReqCreateRoom{Preset: "private_chat", Invite: []id.UserID{userID(mautrixBot)}}
	if encrypted {
		request.InitialState = []*event.Event{{
			Type:    event.StateEncryption,
			Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}},
		}}
	}
	room, err := s.alice.CreateRoom(ctx, request)
	if err != nil {
		return nil, err
	}
	if _, err := s.alice.waitForMember(ctx, room.RoomID, userID(mautrixBot)); err != nil {
		return nil, err
	}
	return &conversation{
		user:      s.alice,
		network:   s.network,
		roomID:    room.RoomID,
		channel:   room.RoomID.String(),
		ghost:     userID(mautrixGhostPrefix + author),
		encrypted: encrypted,
	}, nil
}

func (s *mautrixSuite) relaysInPlainRoom(ctx context.Context) (err error) {
	if s.plain, err = s.createConversation(ctx, false); err != nil {
		return err
	}
	return s.plain.relaysBothWays(ctx, "at first")
}

func (s *mautrixSuite) ghostHasNameAndTime(ctx context.Context, c *conversation) error {
	sentAt := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC).UnixMilli()
	s.network.publish(post{
		Kind: "message", Channel: c.channel, Author: "dave", Text: "an old message", Timestamp: sentAt,
	})
	evt, err := s.alice.waitForMessage(ctx, c.roomID, "an old message")
	if err != nil {
		return err
	}
	if evt.Timestamp != sentAt {
		return fmt.Errorf("the message has the timestamp %d, expected %d", evt.Timestamp, sentAt)
	}
	ghost := userID(mautrixGhostPrefix + "dave")
	member, err := s.alice.waitForMember(ctx, c.roomID, ghost)
	if err != nil {
		return err
	}
	if name := member.Content.AsMember().Displayname; name != "dave (network)" {
		return fmt.Errorf("the ghost has the name %q in the room", name)
	}
	return nil
}

func (s *mautrixSuite) relaysEphemeralEvents(ctx context.Context, c *conversation) error {
	if err := s.relaysEphemeralEventsToNetwork(ctx, c); err != nil {
		return err
	}
	return s.relaysEphemeralEventsToRoom(ctx, c)
}

func (s *mautrixSuite) relaysEphemeralEventsToNetwork(ctx context.Context, c *conversation) error {
	s.network.publishMessage(c.channel, author, "please read this")
	message, err := s.alice.waitForMessage(ctx, c.roomID, "please read this")
	if err != nil {
		return err
	}
	if _, err := s.alice.UserTyping(ctx, c.roomID, true, 30*time.Second); err != nil {
		return err
	}
	if err := s.alice.SendReceipt(ctx, c.roomID, message.ID, event.ReceiptTypeRead, nil); err != nil {
		return err
	}
	for _, expected := range []delivery{
		{Kind: "typing", Channel: c.channel, Sender: s.alice.UserID.String()},
		{Kind: "receipt", Channel: c.channel, Sender: s.alice.UserID.String(), Text: message.ID.String()},
	} {
		isExpected := func(d delivery) bool { return d == expected }
		if _, err := s.network.deliveries.wait(ctx, "the "+expected.Kind+" at the network", isExpected); err != nil {
			return err
		}
	}
	_, err = s.alice.UserTyping(ctx, c.roomID, false, 0)
	return err
}

func (s *mautrixSuite) relaysEphemeralEventsToRoom(ctx context.Context, c *conversation) error {
	sent, err := s.alice.SendText(ctx, c.roomID, "read this, too")
	if err != nil {
		return err
	}
	if _, err := s.network.waitForMessage(ctx, "read this, too"); err != nil {
		return err
	}
	s.network.publish(post{Kind: "typing", Channel: c.channel, Author: author})
	s.network.publish(post{Kind: "receipt", Channel: c.channel, Author: author, Text: sent.EventID.String()})
	if _, err := s.alice.others.wait(ctx, "the typing of the ghost", func(evt *event.Event) bool {
		return evt.Type == event.EphemeralEventTyping && evt.RoomID == c.roomID &&
			slices.Contains(evt.Content.AsTyping().UserIDs, c.ghost)
	}); err != nil {
		return err
	}
	_, err = s.alice.others.wait(ctx, "the receipt of the ghost", func(evt *event.Event) bool {
		if evt.Type != event.EphemeralEventReceipt {
			return false
		}
		_, found := (*evt.Content.AsReceipt())[sent.EventID][event.ReceiptTypeRead][c.ghost]
		return found
	})
	return err
}

func (s *mautrixSuite) relaysInEncryptedRoom(ctx context.Context) (err error) {
	if s.encrypted, err = s.createConversation(ctx, true); err != nil {
		return err
	}
	return s.encrypted.relaysBothWays(ctx, "with encryption")
}

func (s *mautrixSuite) restartsBridgeWithNewSession(ctx context.Context, c *conversation) error {
	const text = "with a new session while the bridge is down"
	if err := s.restartsBridge(ctx, c, "with encryption while the bridge is down", func() error {
		return s.sendsWithNewSession(ctx, c, text)
	}); err != nil {
		return err
	}
	return c.arrivesOnceEach(ctx, []string{text}, nil)
}

func (s *mautrixSuite) restartsServerAndBridgeWithNewSession(ctx context.Context, c *conversation) error {
	const text = "with a new session before both restart"
	if err := s.restartsBridge(ctx, c, "with encryption before both restart", func() error {
		if err := s.sendsWithNewSession(ctx, c, text); err != nil {
			return err
		}
		return s.restartServer(ctx)
	}); err != nil {
		return err
	}
	return c.arrivesOnceEach(ctx, []string{text}, nil)
}

// sendsWithNewSession sends a message whose session the bridge does not have yet. Its key is in a to-device event.
func (s *mautrixSuite) sendsWithNewSession(ctx context.Context, c *conversation, text string) error {
	if err := s.alice.crypto.Machine().CryptoStore.RemoveOutboundGroupSession(ctx, c.roomID); err != nil {
		return err
	}
	return s.alice.sends(ctx, c.roomID, text)
}

// encryptsForNewDevice logs in with a second device. The server has to report the change of the device list to the
// bridge (MSC3202); the bridge encrypts the next message for the new device. Nothing reports when the bridge has
// processed the change, so it sends messages until the new device can decrypt one.
func (s *mautrixSuite) encryptsForNewDevice(ctx context.Context, c *conversation) error {
	device, err := logIn(ctx, s.server, aliceLocalpart, alicePassword)
	if err != nil {
		return err
	}
	defer device.close()
	number := 0
	return repeatUntil(ctx, waitTimeout, "encrypt for a new device", func(ctx context.Context) error {
		number++
		text := fmt.Sprintf("for the new device, %d", number)
		s.network.publishMessage(c.channel, author, text)
		evt, err := device.messages.waitAtMost(ctx, 2*time.Second, text, isMessage(c.roomID, text))
		if err != nil {
			return err
		}
		return c.checkMessage(evt)
	})
}

// uploadsOneTimeKeys claims the one-time keys of the bot's device, until none are left or so many were claimed that the
// bridge must have uploaded new ones. A transaction has to say how many are left (MSC3202): at once, or with the next
// event.
func (s *mautrixSuite) uploadsOneTimeKeys(ctx context.Context, c *conversation) error {
	deviceID, err := s.botDevice(ctx)
	if err != nil {
		return err
	}
	for range 2 * maxOneTimeKeys {
		hasKeys, err := s.claimBotKey(ctx, deviceID)
		if err != nil {
			return err
		}
		if !hasKeys {
			return s.uploadsOneTimeKeysWithNextEvent(ctx, c, deviceID)
		}
	}
	return c.relaysBothWays(ctx, "after keys are claimed")
}

func (s *mautrixSuite) uploadsOneTimeKeysWithNextEvent(ctx context.Context, c *conversation, deviceID id.DeviceID) error {
	if err := c.relaysBothWays(ctx, "after all keys are claimed"); err != nil {
		return err
	}
	return repeatUntil(ctx, waitTimeout, "claim a new key", func(ctx context.Context) error {
		hasKeys, err := s.claimBotKey(ctx, deviceID)
		if err == nil && !hasKeys {
			err = errors.New("there are no one-time keys")
		}
		return err
	})
}

// botDevice returns the only device of the bot.
func (s *mautrixSuite) botDevice(ctx context.Context) (id.DeviceID, error) {
	bot := userID(mautrixBot)
	response, err := s.alice.QueryKeys(ctx, &mautrix.ReqQueryKeys{DeviceKeys: mautrix.DeviceKeysRequest{bot: {}}})
	if err != nil {
		return "", err
	}
	devices := slices.Collect(maps.Keys(response.DeviceKeys[bot]))
	if len(devices) != 1 {
		return "", fmt.Errorf("the bot has the devices %v, expected one", devices)
	}
	return devices[0], nil
}

// claimBotKey claims a one-time key of the bot's device and returns whether there was one.
func (s *mautrixSuite) claimBotKey(ctx context.Context, deviceID id.DeviceID) (bool, error) {
	response, err := s.alice.ClaimKeys(ctx, &mautrix.ReqClaimKeys{
		OneTimeKeys: mautrix.OneTimeKeysRequest{userID(mautrixBot): {deviceID: id.KeyAlgorithmSignedCurve25519}},
	})
	if err != nil {
		return false, err
	}
	for _, key := range response.OneTimeKeys[userID(mautrixBot)][deviceID] {
		if !key.Fallback {
			return true, nil
		}
	}
	return false, nil
}
