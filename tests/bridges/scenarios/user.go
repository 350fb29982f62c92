package main

import (
	"context"
	"fmt"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// user is someone with an ordinary client of mautrix-go, which syncs and decrypts.
type user struct {
	*mautrix.Client
	crypto *cryptohelper.CryptoHelper
	// The messages that syncs returned, decrypted.
	messages *record[*event.Event]
	// All other events that syncs returned: members, typing, receipts.
	others *record[*event.Event]

	stopSync context.CancelFunc
	synced   chan struct{}
}

// retryingSyncer syncs again shortly after a failure, because scenarios restart the server.
type retryingSyncer struct {
	*mautrix.DefaultSyncer
}

func (retryingSyncer) OnFailedSync(*mautrix.RespSync, error) (time.Duration, error) {
	return 100 * time.Millisecond, nil
}

// logIn logs in with a new device and starts to sync.
func logIn(ctx context.Context, server *homeserver, localpart, password string) (*user, error) {
	client, err := mautrix.NewClient(server.url, "", "")
	if err != nil {
		return nil, err
	}
	syncer := retryingSyncer{mautrix.NewDefaultSyncer()}
	client.Syncer = syncer
	client.StateStore = mautrix.NewMemoryStateStore()
	if _, err := client.Login(ctx, &mautrix.ReqLogin{
		Type:             mautrix.AuthTypePassword,
		Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: localpart},
		Password:         password,
		StoreCredentials: true,
	}); err != nil {
		return nil, fmt.Errorf("log in as %s: %w", localpart, err)
	}
	helper, err := cryptohelper.NewCryptoHelper(client, []byte("pickle key"), crypto.NewMemoryStore(nil))
	if err != nil {
		return nil, err
	}
	syncer.OnEvent(client.StateStoreSyncHandler)
	if err := helper.Init(ctx); err != nil {
		return nil, fmt.Errorf("set up encryption of %s: %w", localpart, err)
	}
	client.Crypto = helper
	u := &user{
		Client:   client,
		crypto:   helper,
		messages: newRecord[*event.Event](),
		others:   newRecord[*event.Event](),
		synced:   make(chan struct{}),
	}
	syncer.OnEvent(func(_ context.Context, evt *event.Event) {
		if evt.Type == event.EventMessage {
			u.messages.add(evt)
		} else {
			u.others.add(evt)
		}
	})
	syncContext, stopSync := context.WithCancel(ctx)
	u.stopSync = stopSync
	go func() {
		defer close(u.synced)
		_ = client.SyncWithContext(syncContext)
	}()
	return u, nil
}

// close ends the syncs.
func (u *user) close() {
	u.stopSync()
	<-u.synced
}

// sends sends a message, and repeats the request while the server is down.
func (u *user) sends(ctx context.Context, roomID id.RoomID, text string) error {
	content := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	transaction := mautrix.ReqSendEvent{TransactionID: u.TxnID()}
	return repeatUntil(ctx, startTimeout+waitTimeout, fmt.Sprintf("send %q", text), func(ctx context.Context) error {
		_, err := u.SendMessageEvent(ctx, roomID, event.EventMessage, content, transaction)
		return err
	})
}

// waitForMessage waits until a sync returned a message with a text.
func (u *user) waitForMessage(ctx context.Context, roomID id.RoomID, text string) (*event.Event, error) {
	return u.messages.wait(ctx, fmt.Sprintf("the message %q in the room", text), isMessage(roomID, text))
}

func isMessage(roomID id.RoomID, text string) func(*event.Event) bool {
	return func(evt *event.Event) bool { return evt.RoomID == roomID && evt.Content.AsMessage().Body == text }
}

// waitForMember waits until a sync returned that someone has joined a room, and returns the event.
func (u *user) waitForMember(ctx context.Context, roomID id.RoomID, userID id.UserID) (*event.Event, error) {
	return u.others.wait(ctx, fmt.Sprintf("the join of %s", userID), func(evt *event.Event) bool {
		return evt.RoomID == roomID && evt.Type == event.StateMember && evt.GetStateKey() == userID.String() &&
			evt.Content.AsMember().Membership == event.MembershipJoin
	})
}
