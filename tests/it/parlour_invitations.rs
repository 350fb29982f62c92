//! Tests invitations that expire.

use std::time::Duration;

use parlour::clock::Clock;
use serde_json::{Value, json};

use crate::{
    chat::{encoded, find, in_room, timeline},
    harness::{Answer, Server, User},
};

const START: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;
const YEAR: i64 = 366 * 24 * 60 * MINUTE;

struct Test {
    server: Server,
    clock: Clock,
    alice: User,
    bob: User,
    carol: User,
    room: String,
}

impl Test {
    async fn new() -> Self {
        Self::with_room(json!({})).await
    }

    async fn with_room(request: Value) -> Self {
        let clock = Clock::manual(START.unsigned_abs());
        let server = Server::with_clock(clock.clone(), |_| {}).await;
        let alice = server.register("alice").await;
        let (bob, carol) = (server.register("bob").await, server.register("carol").await);
        let room = alice.creates(request).await;
        Self {
            server,
            clock,
            alice,
            bob,
            carol,
            room,
        }
    }

    fn passes(&self, ms: i64) {
        self.clock.advance(Duration::from_millis(ms.unsigned_abs()));
    }

    async fn tries(&self, inviter: &User, body: Value) -> Answer {
        let path = format!("/_parlour/client/v1/rooms/{}/invite", encoded(&self.room));
        inviter.client.post(&path, body).await
    }

    /// Sends an invitation that expires `minutes` after the start of the test; returns the event ID.
    async fn invites(&self, inviter: &User, target: &User, minutes: i64) -> String {
        let until = START + minutes * MINUTE;
        let body = json!({ "user_id": target.id, "expires_at": until });
        let sent = self.tries(inviter, body).await.expect_ok();
        sent["event_id"].as_str().expect("an ID").to_owned()
    }

    /// Returns the member event of a user as Alice sees it.
    async fn member(&self, user: &User) -> Value {
        let members = self.alice.asks(&self.room, "members").await.expect_ok();
        find(&members["chunk"], "m.room.member", &user.id).clone()
    }

    /// Waits until a sync shows an invited user that the invitation was withdrawn; returns the event.
    async fn loses_invitation(&self, user: &User, sync: &Value) -> Value {
        let mut after = user.waits_after(sync).await;
        while after["rooms"]["leave"][&self.room].is_null() {
            after = user.waits_after(&after).await;
        }
        let events = &after["rooms"]["leave"][&self.room]["timeline"]["events"];
        find(events, "m.room.member", &user.id).clone()
    }
}

#[tokio::test]
async fn an_invitation_tells_until_when_it_stands_and_is_withdrawn_then() {
    let test = Test::new().await;
    let members = test.alice.syncs().await;
    let event_id = test.invites(&test.alice, &test.bob, 10).await;

    let sync = test.bob.syncs().await;
    let stripped = &sync["rooms"]["invite"][&test.room]["invite_state"]["events"];
    let invitation = find(stripped, "m.room.member", &test.bob.id);
    let until = START + 10 * MINUTE;
    assert_eq!(invitation["content"]["dev.parlour.expires_at"], until);
    let news = test.alice.syncs_after(&members).await;
    let event = find(timeline(&news, &test.room), "m.room.member", &test.bob.id);
    assert_eq!(event["event_id"], event_id);
    assert_eq!(event["content"]["membership"], "invite");
    assert_eq!(event["content"]["dev.parlour.expires_at"], until);
    test.passes(10 * MINUTE);
    let left = test.loses_invitation(&test.bob, &sync).await;

    assert_eq!(left["content"]["membership"], "leave");
    assert_eq!(left["content"]["reason"], "The invitation has expired");
    assert_eq!(left["sender"], test.alice.id);
    let refused = test.bob.tries(&test.room, "join", json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
    assert_eq!(test.member(&test.bob).await["event_id"], left["event_id"]);
}

#[tokio::test]
async fn nobody_joins_with_an_invitation_that_has_expired() {
    let test = Test::new().await;
    test.invites(&test.alice, &test.bob, 10).await;
    test.passes(10 * MINUTE);

    let refused = test.bob.tries(&test.room, "join", json!({})).await;
    let member = in_room(&test.room, &format!("state/m.room.member/{}", test.bob.id));
    let other = test
        .bob
        .client
        .put(&member, json!({ "membership": "join" }));

    refused.expect_error(403, "M_FORBIDDEN");
    other.await.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn whoever_needs_no_invitation_joins_though_it_has_expired() {
    let test = Test::with_room(json!({ "preset": "public_chat" })).await;
    test.invites(&test.alice, &test.bob, 10).await;
    test.passes(10 * MINUTE);

    test.bob.joins(&test.room).await;

    assert_eq!(
        test.member(&test.bob).await["content"]["membership"],
        "join"
    );
}

#[tokio::test]
async fn what_becomes_of_an_invitation_ends_its_time() {
    let test = Test::new().await;
    let dave = test.server.register("dave").await;
    for user in [&test.bob, &test.carol, &dave] {
        test.invites(&test.alice, user, 10).await;
    }
    test.bob.joins(&test.room).await;
    let again = json!({ "user_id": test.carol.id, "reason": "for good" });
    test.alice
        .tries(&test.room, "invite", again)
        .await
        .expect_ok();
    let declined = test.server.register("erin").await;
    test.invites(&test.alice, &declined, 10).await;
    declined
        .tries(&test.room, "leave", json!({}))
        .await
        .expect_ok();

    let sync = dave.syncs().await;
    test.passes(10 * MINUTE);
    // All invitations expire together: after this withdrawal no other can follow.
    test.loses_invitation(&dave, &sync).await;

    let membership = async |user| test.member(user).await["content"]["membership"].clone();
    assert_eq!(membership(&test.bob).await, "join");
    assert_eq!(membership(&test.carol).await, "invite");
    let left = test.member(&declined).await;
    assert_eq!(left["sender"], declined.id);
    test.carol.joins(&test.room).await;
}

#[tokio::test]
async fn a_new_invitation_has_a_time_of_its_own() {
    let test = Test::new().await;
    test.invites(&test.alice, &test.bob, 10).await;
    test.invites(&test.alice, &test.bob, 20).await;
    test.invites(&test.alice, &test.carol, 10).await;
    let (bobs, carols) = (test.bob.syncs().await, test.carol.syncs().await);

    test.passes(10 * MINUTE);
    test.loses_invitation(&test.carol, &carols).await;
    assert_eq!(
        test.member(&test.bob).await["content"]["membership"],
        "invite"
    );
    test.passes(10 * MINUTE);

    test.loses_invitation(&test.bob, &bobs).await;
}

#[tokio::test]
async fn an_invitation_that_expired_while_the_server_was_down_is_withdrawn_at_its_start() {
    let test = Test::new().await;
    test.invites(&test.alice, &test.bob, 10).await;
    test.invites(&test.alice, &test.carol, 30).await;
    let sync = test.bob.syncs().await;
    test.passes(10 * MINUTE);
    let carols = test.carol.syncs().await;

    let server = test.server.restart().await;
    let test = Test {
        alice: test.alice.at(&server),
        bob: test.bob.at(&server),
        carol: test.carol.at(&server),
        server,
        ..test
    };

    let left = test.loses_invitation(&test.bob, &sync).await;
    assert_eq!(left["content"]["membership"], "leave");
    assert_eq!(
        test.member(&test.carol).await["content"]["membership"],
        "invite"
    );
    test.passes(20 * MINUTE);
    test.loses_invitation(&test.carol, &carols).await;
}

#[tokio::test]
async fn another_member_withdraws_what_the_inviter_may_not() {
    let test = Test::new().await;
    test.invites(&test.alice, &test.bob, 1).await;
    test.bob.joins(&test.room).await;
    test.invites(&test.bob, &test.carol, 10).await;
    let sync = test.carol.syncs().await;

    test.passes(10 * MINUTE);

    let left = test.loses_invitation(&test.carol, &sync).await;
    assert_eq!(left["sender"], test.alice.id);
}

#[tokio::test]
async fn where_nobody_may_withdraw_it_the_invited_declines() {
    let test = Test::new().await;
    test.invites(&test.alice, &test.bob, 1).await;
    test.bob.joins(&test.room).await;
    test.invites(&test.bob, &test.carol, 10).await;
    test.alice
        .tries(&test.room, "leave", json!({}))
        .await
        .expect_ok();
    let sync = test.carol.syncs().await;

    test.passes(10 * MINUTE);

    let left = test.loses_invitation(&test.carol, &sync).await;
    assert_eq!(left["sender"], test.carol.id);
    assert_eq!(left["content"]["reason"], "The invitation has expired");
}

#[tokio::test]
async fn the_time_must_be_ahead_and_not_too_far() {
    let test = Test::new().await;
    let bob = &test.bob.id;

    for until in [START, START - 1, 0, START + YEAR + 1, i64::MAX] {
        let body = json!({ "user_id": bob, "expires_at": until });
        let refused = test.tries(&test.alice, body).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    for body in [
        json!({ "user_id": bob }),
        json!({ "user_id": bob, "expires_at": "soon" }),
        json!({ "user_id": "bob", "expires_at": START + MINUTE }),
        json!({ "expires_at": START + MINUTE }),
    ] {
        let refused = test.tries(&test.alice, body).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
    assert!(test.member(&test.bob).await.is_null());
    let body = json!({ "user_id": bob, "expires_at": START + YEAR, "reason": "tea" });
    test.tries(&test.alice, body).await.expect_ok();
    assert_eq!(test.member(&test.bob).await["content"]["reason"], "tea");
}

#[tokio::test]
async fn only_who_may_invite_does() {
    let levels = json!({ "invite": 50 });
    let request = json!({ "power_level_content_override": levels });
    let test = Test::with_room(request).await;
    let body = json!({ "user_id": test.carol.id, "expires_at": START + MINUTE });

    let stranger = test.tries(&test.bob, body.clone()).await;
    test.invites(&test.alice, &test.bob, 10).await;
    test.bob.joins(&test.room).await;
    let weak = test.tries(&test.bob, body.clone()).await;
    let path = "/_parlour/client/v1/rooms/!unknown:localhost/invite";
    let unknown = test.alice.client.post(path, body.clone()).await;
    let path = "/_parlour/client/v1/rooms/nonsense/invite";
    let nonsense = test.alice.client.post(path, body.clone()).await;
    let path = "/_parlour/client/v1/rooms/!unknown:localhost/invite";
    let nobody = test.server.post(path, body).await;

    stranger.expect_error(403, "M_FORBIDDEN");
    weak.expect_error(403, "M_FORBIDDEN");
    unknown.expect_error(403, "M_FORBIDDEN");
    nonsense.expect_error(400, "M_INVALID_PARAM");
    nobody.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn a_suspended_user_invites_nobody() {
    let server = Server::start().await;
    let admin = server.register_admin("root").await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let path = format!("/_matrix/client/v1/admin/suspend/{}", alice.id);
    let suspended = admin.client.put(&path, json!({ "suspended": true }));
    suspended.await.expect_ok();

    let path = format!("/_parlour/client/v1/rooms/{}/invite", encoded(&room));
    let body = json!({ "user_id": admin.id, "expires_at": i64::MAX });
    let refused = alice.client.post(&path, body).await;

    refused.expect_error(403, "M_USER_SUSPENDED");
}
