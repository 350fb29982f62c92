// Command mautrix-bridge is a small bridge built with mautrix-go. It relays messages between Matrix rooms and channels of
// a remote network, which the scenarios play. The channel of a room has the room's id as its name.
//
// It prints "ready" once the server can reach it, and ends in order on SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/appservice"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/sqlstatestore"
)

const (
	ghostPrefix = "mautrix_"
	// A request that failed, because the other side is down, is repeated after this time.
	retryInterval = 200 * time.Millisecond
)

type options struct {
	registration string
	homeserver   string
	domain       string
	listen       string
	network      string
	database     string
}

func main() {
	var opts options
	flag.StringVar(&opts.registration, "registration", "", "the registration file")
	flag.StringVar(&opts.homeserver, "homeserver", "", "the URL of the homeserver")
	flag.StringVar(&opts.domain, "domain", "", "the name of the homeserver")
	flag.StringVar(&opts.listen, "listen", "", "the address on which the bridge receives transactions")
	flag.StringVar(&opts.network, "network", "", "the URL of the remote network")
	flag.StringVar(&opts.database, "database", "", "the SQLite database of the bridge")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true, TimeFormat: time.StampMilli}).
		With().Timestamp().Logger()
	zerolog.DefaultContextLogger = &log
	if err := run(log.WithContext(ctx), opts, log); err != nil {
		log.Err(err).Msg("The bridge failed")
		os.Exit(1)
	}
}

type bridge struct {
	as      *appservice.AppService
	bot     *appservice.IntentAPI
	crypto  *cryptohelper.CryptoHelper
	network network
}

func run(ctx context.Context, opts options, log zerolog.Logger) error {
	as, db, err := createAppService(ctx, opts, log)
	if err != nil {
		return err
	}
	defer db.Close()
	go as.Start()
	if err := waitUntilListening(ctx, opts.listen); err != nil {
		return err
	}

	b := &bridge{as: as, bot: as.BotIntent(), network: network{url: opts.network}}
	if err := b.bot.EnsureRegistered(ctx); err != nil {
		return fmt.Errorf("register the bot: %w", err)
	}
	processor := appservice.NewEventProcessor(as)
	processor.ExecMode = appservice.Sync
	if err := b.initCrypto(ctx, db, processor); err != nil {
		return fmt.Errorf("set up encryption: %w", err)
	}
	processor.On(event.StateMember, b.acceptInvitation)
	processor.On(event.EventMessage, b.relayMessage)
	processor.On(event.EphemeralEventTyping, b.relayTyping)
	processor.On(event.EphemeralEventReceipt, b.relayReceipts)
	processor.Start(ctx)
	defer processor.Stop()
	// The listener closes before the processor stops, so that the events of accepted transactions are still processed.
	defer as.Stop()

	if !b.bot.EnsureAppserviceConnection(ctx) {
		return errors.New("the server cannot reach the bridge")
	}
	fmt.Println("ready")
	b.sendPosts(ctx)
	return nil
}

func createAppService(
	ctx context.Context, opts options, log zerolog.Logger,
) (*appservice.AppService, *dbutil.Database, error) {
	registration, err := appservice.LoadRegistration(opts.registration)
	if err != nil {
		return nil, nil, fmt.Errorf("read the registration: %w", err)
	}
	db, err := dbutil.NewWithDialect("file:"+opts.database+"?_txlock=immediate", "sqlite3-fk-wal")
	if err != nil {
		return nil, nil, fmt.Errorf("open the database: %w", err)
	}
	stateStore := sqlstatestore.NewSQLStateStore(db, dbutil.NoopLogger, false)
	if err := stateStore.Upgrade(ctx); err != nil {
		return nil, nil, fmt.Errorf("create the tables of the state store: %w", err)
	}
	host, portText, err := net.SplitHostPort(opts.listen)
	if err != nil {
		return nil, nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, nil, err
	}
	as, err := appservice.CreateFull(appservice.CreateOpts{
		Registration:     registration,
		HomeserverDomain: opts.domain,
		HomeserverURL:    opts.homeserver,
		HostConfig:       appservice.HostConfig{Hostname: host, Port: uint16(port)},
		StateStore:       stateStore,
	})
	if err != nil {
		return nil, nil, err
	}
	as.Log = log
	// The bridge itself repeats requests that failed, at shorter intervals than the framework.
	as.DefaultHTTPRetries = 0
	return as, db, nil
}

func waitUntilListening(ctx context.Context, address string) error {
	for ctx.Err() == nil {
		connection, err := net.Dial("tcp", address)
		if err == nil {
			return connection.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return ctx.Err()
}

// initCrypto creates the bot's device (MSC4190). Everything that encryption needs arrives in transactions (MSC3202,
// MSC4203).
func (b *bridge) initCrypto(ctx context.Context, db *dbutil.Database, processor *appservice.EventProcessor) error {
	client := b.as.BotClient()
	// The helper needs to know before it creates the device that this client does not sync.
	client.SetAppServiceDeviceID = true
	helper, err := cryptohelper.NewCryptoHelper(client, []byte("pickle key"), db)
	if err != nil {
		return err
	}
	helper.MSC4190 = true
	helper.LoginAs = &mautrix.ReqLogin{InitialDeviceDisplayName: "mautrix-bridge"}
	helper.ASEventProcessor = processor
	if err := helper.Init(ctx); err != nil {
		return err
	}
	b.crypto = helper
	return nil
}

// isOwnUser returns whether a user is the bot or a ghost.
func (b *bridge) isOwnUser(userID id.UserID) bool {
	return userID == b.bot.UserID || strings.HasPrefix(userID.Localpart(), ghostPrefix)
}

func (b *bridge) acceptInvitation(ctx context.Context, evt *event.Event) {
	invitee := id.UserID(evt.GetStateKey())
	if evt.Content.AsMember().Membership != event.MembershipInvite || !b.isOwnUser(invitee) || b.isOwnUser(evt.Sender) {
		return
	}
	retry(ctx, "join the room", func() error {
		return b.as.Intent(invitee).EnsureJoined(ctx, evt.RoomID, appservice.EnsureJoinedParams{IgnoreCache: true})
	})
	// The state from before the invitation is in no transaction. The client stores it: the members, and whether the
	// room is encrypted.
	retry(ctx, "read the state of the room", func() error {
		_, err := b.as.Intent(invitee).State(ctx, evt.RoomID)
		return err
	})
}

func (b *bridge) relayMessage(ctx context.Context, evt *event.Event) {
	if b.isOwnUser(evt.Sender) {
		return
	}
	b.deliver(ctx, delivery{
		Kind:      "message",
		Channel:   evt.RoomID.String(),
		Sender:    evt.Sender.String(),
		Text:      evt.Content.AsMessage().Body,
		Encrypted: evt.Mautrix.WasEncrypted,
	})
}

func (b *bridge) relayTyping(ctx context.Context, evt *event.Event) {
	for _, userID := range evt.Content.AsTyping().UserIDs {
		if !b.isOwnUser(userID) {
			b.deliver(ctx, delivery{Kind: "typing", Channel: evt.RoomID.String(), Sender: userID.String()})
		}
	}
}

func (b *bridge) relayReceipts(ctx context.Context, evt *event.Event) {
	for eventID, receipts := range *evt.Content.AsReceipt() {
		for userID := range receipts[event.ReceiptTypeRead] {
			if !b.isOwnUser(userID) {
				b.deliver(ctx, delivery{
					Kind:    "receipt",
					Channel: evt.RoomID.String(),
					Sender:  userID.String(),
					Text:    eventID.String(),
				})
			}
		}
	}
}

func (b *bridge) deliver(ctx context.Context, d delivery) {
	retry(ctx, "deliver to the network", func() error { return b.network.deliver(ctx, d) })
}

// sendPosts sends the posts of the remote network into their rooms, one by one, until the bridge ends.
func (b *bridge) sendPosts(ctx context.Context) {
	for ctx.Err() == nil {
		var next post
		retry(ctx, "read the next post", func() (err error) {
			next, err = b.network.nextPost(ctx)
			return err
		})
		retry(ctx, "send the post", func() error { return b.sendPost(ctx, next) })
		retry(ctx, "remove the post", func() error { return b.network.removePost(ctx, next.Number) })
	}
}

// sendPost sends a post as the ghost of its author. The transaction id makes a repeated request harmless.
func (b *bridge) sendPost(ctx context.Context, next post) error {
	roomID := id.RoomID(next.Channel)
	ghost := b.as.Intent(id.NewUserID(ghostPrefix+next.Author, b.as.HomeserverDomain))
	if err := ghost.EnsureRegistered(ctx); err != nil {
		return err
	}
	if err := ghost.SetDisplayName(ctx, next.Author+" (network)"); err != nil {
		return err
	}
	if err := ghost.EnsureJoined(ctx, roomID); err != nil {
		return err
	}
	switch next.Kind {
	case "typing":
		_, err := ghost.UserTyping(ctx, roomID, true, 30*time.Second)
		return err
	case "receipt":
		return ghost.SendReceipt(ctx, roomID, id.EventID(next.Text), event.ReceiptTypeRead, nil)
	}
	return b.sendMessage(ctx, ghost, roomID, next)
}

// sendMessage sends a message as a ghost. In an encrypted room, the bot's device encrypts it.
func (b *bridge) sendMessage(ctx context.Context, ghost *appservice.IntentAPI, roomID id.RoomID, next post) error {
	eventType := event.EventMessage
	var content any = &event.MessageEventContent{MsgType: event.MsgText, Body: next.Text}
	isEncrypted, err := b.as.StateStore.IsEncrypted(ctx, roomID)
	if err != nil {
		return err
	}
	if isEncrypted {
		eventType = event.EventEncrypted
		if content, err = b.crypto.Encrypt(ctx, roomID, event.EventMessage, content); err != nil {
			return err
		}
	}
	_, err = ghost.SendMessageEvent(ctx, roomID, eventType, content, mautrix.ReqSendEvent{
		TransactionID: fmt.Sprintf("network-%d", next.Number),
		Timestamp:     next.Timestamp,
	})
	return err
}

// retry repeats an action until it succeeds or the bridge ends.
func retry(ctx context.Context, what string, action func() error) {
	for ctx.Err() == nil {
		err := action()
		if err == nil {
			return
		}
		zerolog.Ctx(ctx).Warn().Err(err).Msg("Could not " + what)
		select {
		case <-ctx.Done():
		case <-time.After(retryInterval):
		}
	}
}
