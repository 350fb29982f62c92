package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/id"
)

const (
	ircBot    = "_irc_bot"
	ircPrefix = "_irc_"
)

func appserviceBridge(script string) *bridge {
	return &bridge{
		framework: "matrix-appservice-bridge",
		register:  appserviceBridgeRegistration,
		command: func(b *bridge, server *homeserver, network *network) []string {
			state := b.files + ".json"
			return []string{"node", script, b.registration, server.url, serverName, b.address, network.url, state}
		},
		scenarios: func(s *suite) []scenario { return (&appserviceBridgeSuite{suite: s}).scenarios() },
	}
}

func appserviceBridgeRegistration(address string) *appservice.Registration {
	registration := appservice.CreateRegistration()
	registration.ID = "appservice-bridge"
	registration.URL = "http://" + address
	registration.SenderLocalpart = ircBot
	registration.RateLimited = new(bool)
	registration.Namespaces.UserIDs = appservice.NamespaceList{{Regex: "@" + ircPrefix + ".*", Exclusive: true}}
	registration.Namespaces.RoomAliases = appservice.NamespaceList{{Regex: "#" + ircPrefix + ".*", Exclusive: true}}
	registration.Protocols = []string{"irc"}
	registration.SoruEphemeralEvents = true
	return registration
}

type appserviceBridgeSuite struct {
	*suite
	// The private chat with a ghost, which several scenarios use.
	private *conversation
}

func (s *appserviceBridgeSuite) scenarios() []scenario {
	scenarios := []scenario{
		{
			"a user query creates a ghost that somebody invites, and messages are relayed both ways",
			s.invitesGhost,
		},
		{
			"an alias query creates a room that somebody joins, and messages are relayed both ways",
			s.joinsAlias,
		},
		{
			"an alias that the bridge does not know is not found",
			s.joinsUnknownAlias,
		},
		{
			"typing arrives at the bridge",
			inConversation(&s.private, s.relaysTyping),
		},
		{
			"the server asks the bridge for third-party protocols, locations and users",
			s.looksUpThirdParties,
		},
		{
			"messages that are sent while the bridge is down arrive after its restart, once each",
			inConversation(&s.private, s.restartsBridgeOnly),
		},
		{
			"messages that are sent while the server is down arrive after its restart, once each",
			inConversation(&s.private, s.restartsServerOnly),
		},
	}
	if s.server.keepsUnsentEvents {
		scenarios = append(scenarios, scenario{
			"messages arrive although the server restarts before the bridge is up again, once each",
			inConversation(&s.private, s.restartsServerAndBridge),
		}, scenario{
			"messages that are sent right before a crash of the server arrive, once each",
			inConversation(&s.private, s.crashesServer),
		})
	}
	return scenarios
}

func (s *appserviceBridgeSuite) invitesGhost(ctx context.Context) error {
	ghost := userID(ircPrefix + author)
	room, err := s.alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset:   "trusted_private_chat",
		IsDirect: true,
		Invite:   []id.UserID{ghost},
	})
	if err != nil {
		return err
	}
	member, err := s.alice.waitForMember(ctx, room.RoomID, ghost)
	if err != nil {
		return err
	}
	if name := member.Content.AsMember().Displayname; name != author+" (IRC)" {
		return fmt.Errorf("the ghost has the name %q in the room", name)
	}
	s.private = &conversation{
		user: s.alice, network: s.network, roomID: room.RoomID, channel: author, ghost: ghost,
	}
	return s.private.relaysBothWays(ctx, "in private")
}

func (s *appserviceBridgeSuite) joinsAlias(ctx context.Context) error {
	joined, err := s.alice.JoinRoom(ctx, "#"+ircPrefix+"general:"+serverName, nil)
	if err != nil {
		return err
	}
	public := &conversation{
		user: s.alice, network: s.network, roomID: joined.RoomID, channel: "general", ghost: userID(ircPrefix + author),
	}
	return public.relaysBothWays(ctx, "in public")
}

func (s *appserviceBridgeSuite) joinsUnknownAlias(ctx context.Context) error {
	_, err := s.alice.JoinRoom(ctx, "#"+ircPrefix+"unknown:"+serverName, nil)
	if !errors.Is(err, mautrix.MNotFound) {
		return fmt.Errorf("the server answered %v, expected M_NOT_FOUND", err)
	}
	return nil
}

func (s *appserviceBridgeSuite) relaysTyping(ctx context.Context, c *conversation) error {
	if _, err := s.alice.UserTyping(ctx, c.roomID, true, 30*time.Second); err != nil {
		return err
	}
	expected := delivery{Kind: "typing", Channel: c.channel, Sender: s.alice.UserID.String()}
	if _, err := s.network.deliveries.wait(ctx, "the typing at the network", func(d delivery) bool {
		return d == expected
	}); err != nil {
		return err
	}
	_, err := s.alice.UserTyping(ctx, c.roomID, false, 0)
	return err
}

// thirdParty is a location or a user of a third-party network.
type thirdParty struct {
	Alias    string            `json:"alias"`
	UserID   string            `json:"userid"`
	Protocol string            `json:"protocol"`
	Fields   map[string]string `json:"fields"`
}

// thirdPartyLookup is a request for locations or users, and the only one that it has to find.
type thirdPartyLookup struct {
	path     []any
	query    map[string]string
	expected thirdParty
}

func (s *appserviceBridgeSuite) looksUpThirdParties(ctx context.Context) error {
	if err := s.looksUpProtocols(ctx); err != nil {
		return err
	}
	alias, ghost := "#"+ircPrefix+"general:"+serverName, "@"+ircPrefix+author+":"+serverName
	general := thirdParty{Alias: alias, Protocol: "irc", Fields: map[string]string{"channel": "general"}}
	carol := thirdParty{UserID: ghost, Protocol: "irc", Fields: map[string]string{"nickname": author}}
	lookups := []thirdPartyLookup{
		{[]any{"location", "irc"}, map[string]string{"channel": "general"}, general},
		{[]any{"user", "irc"}, map[string]string{"nickname": author}, carol},
	}
	if s.server.looksUpThirdPartyIDs {
		lookups = append(lookups,
			thirdPartyLookup{[]any{"location"}, map[string]string{"alias": alias}, general},
			thirdPartyLookup{[]any{"user"}, map[string]string{"userid": ghost}, carol},
		)
	}
	for _, lookup := range lookups {
		var found []thirdParty
		if err := s.lookUp(ctx, lookup.query, &found, lookup.path...); err != nil {
			return err
		}
		if len(found) != 1 || fmt.Sprint(found[0]) != fmt.Sprint(lookup.expected) {
			return fmt.Errorf("the lookup of %v with %v found %+v", lookup.path, lookup.query, found)
		}
	}
	return nil
}

func (s *appserviceBridgeSuite) looksUpProtocols(ctx context.Context) error {
	type protocol struct {
		UserFields []string `json:"user_fields"`
		Instances  []struct {
			NetworkID string `json:"network_id"`
		} `json:"instances"`
	}
	isExpected := func(p protocol) bool {
		return len(p.UserFields) == 1 && p.UserFields[0] == "nickname" &&
			len(p.Instances) == 1 && p.Instances[0].NetworkID == "bridges"
	}
	var protocols map[string]protocol
	if err := s.lookUp(ctx, nil, &protocols, "protocols"); err != nil {
		return err
	}
	if len(protocols) != 1 || !isExpected(protocols["irc"]) {
		return fmt.Errorf("the protocols are %+v", protocols)
	}
	var irc protocol
	if err := s.lookUp(ctx, nil, &irc, "protocol", "irc"); err != nil {
		return err
	}
	if !isExpected(irc) {
		return fmt.Errorf("the protocol is %+v", irc)
	}
	return nil
}

// lookUp asks the server at /thirdparty/….
func (s *appserviceBridgeSuite) lookUp(
	ctx context.Context, query map[string]string, response any, path ...any,
) error {
	full := append(mautrix.ClientURLPath{"v3", "thirdparty"}, path...)
	_, err := s.alice.MakeRequest(ctx, http.MethodGet, s.alice.BuildURLWithQuery(full, query), nil, response)
	return err
}
