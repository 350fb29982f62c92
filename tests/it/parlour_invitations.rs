//! Tests invitations that expire.

use std::time::Duration;

use parlour::clock::Clock;
use serde_json::{Value, json};

use crate::{
    chat::{find_event, percent_encoded, room_path, timeline},
    harness::{HttpAnswer, Server, User},
};

const START_MS: i64 = 1_700_000_000_000;
const MINUTE_MS: i64 = 60_000;
const YEAR_MS: i64 = 366 * 24 * 60 * MINUTE_MS;

struct InvitationTest {
    server: Server,
    clock: Clock,
    alice: User,
    bob: User,
    carol: User,
    room: String,
}

impl InvitationTest {
    async fn new() -> Self {
        Self::with_room(json!({})).await
    }

    async fn with_room(request: Value) -> Self {
        let clock = Clock::manual(START_MS.unsigned_abs());
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

    fn advance_clock(&self, ms: i64) {
        self.clock.advance(Duration::from_millis(ms.unsigned_abs()));
    }

    async fn try_invite(&self, inviter: &User, body: Value) -> HttpAnswer {
        let path = format!(
            "/_parlour/client/v1/rooms/{}/invite",
            percent_encoded(&self.room)
        );
        inviter.client.post(&path, body).await
    }

    /// Sends an invitation that expires `minutes` after the start of the test; returns the event ID.
    async fn invite_for_minutes(&self, inviter: &User, target: &User, minutes: i64) -> String {
        let until = START_MS + minutes * MINUTE_MS;
        let body = json!({ "user_id": target.id, "expires_at": until });
        let sent = self.try_invite(inviter, body).await.expect_ok();
        sent["event_id"].as_str().expect("an ID").to_owned()
    }

    /// Returns the member event of a user as Alice sees it.
    async fn member_event(&self, user: &User) -> Value {
        let members = self
            .alice
            .gets_in_room(&self.room, "members")
            .await
            .expect_ok();
        find_event(&members["chunk"], "m.room.member", &user.id).clone()
    }

    /// Waits until a sync shows an invited user that the invitation was withdrawn; returns the event.
    async fn wait_for_withdrawal(&self, user: &User, sync: &Value) -> Value {
        let mut after = user.long_polls_after(sync).await;
        while after["rooms"]["leave"][&self.room].is_null() {
            after = user.long_polls_after(&after).await;
        }
        let events = &after["rooms"]["leave"][&self.room]["timeline"]["events"];
        find_event(events, "m.room.member", &user.id).clone()
    }
}

#[tokio::test]
async fn an_invitation_shows_its_expiry_and_is_withdrawn_then() {
    let test = InvitationTest::new().await;
    let members = test.alice.syncs().await;
    let event_id = test.invite_for_minutes(&test.alice, &test.bob, 10).await;

    let sync = test.bob.syncs().await;
    let stripped = &sync["rooms"]["invite"][&test.room]["invite_state"]["events"];
    let invitation = find_event(stripped, "m.room.member", &test.bob.id);
    let until = START_MS + 10 * MINUTE_MS;
    assert_eq!(invitation["content"]["dev.parlour.expires_at"], until);
    let news = test.alice.syncs_after(&members).await;
    let event = find_event(timeline(&news, &test.room), "m.room.member", &test.bob.id);
    assert_eq!(event["event_id"], event_id);
    assert_eq!(event["content"]["membership"], "invite");
    assert_eq!(event["content"]["dev.parlour.expires_at"], until);
    test.advance_clock(10 * MINUTE_MS);
    let left = test.wait_for_withdrawal(&test.bob, &sync).await;

    assert_eq!(left["content"]["membership"], "leave");
    assert_eq!(left["content"]["reason"], "The invitation has expired");
    assert_eq!(left["sender"], test.alice.id);
    let refused = test.bob.posts_in_room(&test.room, "join", json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
    assert_eq!(
        test.member_event(&test.bob).await["event_id"],
        left["event_id"]
    );
}

#[tokio::test]
async fn an_expired_invitation_does_not_permit_a_join() {
    let test = InvitationTest::new().await;
    test.invite_for_minutes(&test.alice, &test.bob, 10).await;
    test.advance_clock(10 * MINUTE_MS);

    let refused = test.bob.posts_in_room(&test.room, "join", json!({})).await;
    let member = room_path(&test.room, &format!("state/m.room.member/{}", test.bob.id));
    let other = test
        .bob
        .client
        .put(&member, json!({ "membership": "join" }));

    refused.expect_error(403, "M_FORBIDDEN");
    other.await.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn an_expired_invitation_does_not_prevent_a_public_join() {
    let test = InvitationTest::with_room(json!({ "preset": "public_chat" })).await;
    test.invite_for_minutes(&test.alice, &test.bob, 10).await;
    test.advance_clock(10 * MINUTE_MS);

    test.bob.joins(&test.room).await;

    assert_eq!(
        test.member_event(&test.bob).await["content"]["membership"],
        "join"
    );
}

#[tokio::test]
async fn a_later_membership_change_cancels_the_expiry() {
    let test = InvitationTest::new().await;
    let dave = test.server.register("dave").await;
    for user in [&test.bob, &test.carol, &dave] {
        test.invite_for_minutes(&test.alice, user, 10).await;
    }
    test.bob.joins(&test.room).await;
    let again = json!({ "user_id": test.carol.id, "reason": "for good" });
    test.alice
        .posts_in_room(&test.room, "invite", again)
        .await
        .expect_ok();
    let declined = test.server.register("erin").await;
    test.invite_for_minutes(&test.alice, &declined, 10).await;
    declined
        .posts_in_room(&test.room, "leave", json!({}))
        .await
        .expect_ok();

    let sync = dave.syncs().await;
    test.advance_clock(10 * MINUTE_MS);
    // All invitations expire together: after this withdrawal no other can follow.
    test.wait_for_withdrawal(&dave, &sync).await;

    let membership = async |user| test.member_event(user).await["content"]["membership"].clone();
    assert_eq!(membership(&test.bob).await, "join");
    assert_eq!(membership(&test.carol).await, "invite");
    let left = test.member_event(&declined).await;
    assert_eq!(left["sender"], declined.id);
    test.carol.joins(&test.room).await;
}

#[tokio::test]
async fn a_new_invitation_has_its_own_expiry() {
    let test = InvitationTest::new().await;
    test.invite_for_minutes(&test.alice, &test.bob, 10).await;
    test.invite_for_minutes(&test.alice, &test.bob, 20).await;
    test.invite_for_minutes(&test.alice, &test.carol, 10).await;
    let (bobs, carols) = (test.bob.syncs().await, test.carol.syncs().await);

    test.advance_clock(10 * MINUTE_MS);
    test.wait_for_withdrawal(&test.carol, &carols).await;
    assert_eq!(
        test.member_event(&test.bob).await["content"]["membership"],
        "invite"
    );
    test.advance_clock(10 * MINUTE_MS);

    test.wait_for_withdrawal(&test.bob, &bobs).await;
}

#[tokio::test]
async fn an_invitation_that_expired_during_downtime_is_withdrawn_at_startup() {
    let test = InvitationTest::new().await;
    test.invite_for_minutes(&test.alice, &test.bob, 10).await;
    test.invite_for_minutes(&test.alice, &test.carol, 30).await;
    let sync = test.bob.syncs().await;
    test.advance_clock(10 * MINUTE_MS);
    let carols = test.carol.syncs().await;

    let server = test.server.restart().await;
    let test = InvitationTest {
        alice: test.alice.on_server(&server),
        bob: test.bob.on_server(&server),
        carol: test.carol.on_server(&server),
        server,
        ..test
    };

    let left = test.wait_for_withdrawal(&test.bob, &sync).await;
    assert_eq!(left["content"]["membership"], "leave");
    assert_eq!(
        test.member_event(&test.carol).await["content"]["membership"],
        "invite"
    );
    test.advance_clock(20 * MINUTE_MS);
    test.wait_for_withdrawal(&test.carol, &carols).await;
}

#[tokio::test]
async fn another_member_withdraws_if_the_inviter_may_not() {
    let test = InvitationTest::new().await;
    test.invite_for_minutes(&test.alice, &test.bob, 1).await;
    test.bob.joins(&test.room).await;
    test.invite_for_minutes(&test.bob, &test.carol, 10).await;
    let sync = test.carol.syncs().await;

    test.advance_clock(10 * MINUTE_MS);

    let left = test.wait_for_withdrawal(&test.carol, &sync).await;
    assert_eq!(left["sender"], test.alice.id);
}

#[tokio::test]
async fn an_expired_invitation_is_declined_if_nobody_may_withdraw_it() {
    let test = InvitationTest::new().await;
    test.invite_for_minutes(&test.alice, &test.bob, 1).await;
    test.bob.joins(&test.room).await;
    test.invite_for_minutes(&test.bob, &test.carol, 10).await;
    test.alice
        .posts_in_room(&test.room, "leave", json!({}))
        .await
        .expect_ok();
    let sync = test.carol.syncs().await;

    test.advance_clock(10 * MINUTE_MS);

    let left = test.wait_for_withdrawal(&test.carol, &sync).await;
    assert_eq!(left["sender"], test.carol.id);
    assert_eq!(left["content"]["reason"], "The invitation has expired");
}

#[tokio::test]
async fn the_expiry_must_be_within_the_next_year() {
    let test = InvitationTest::new().await;
    let bob = &test.bob.id;

    for until in [START_MS, START_MS - 1, 0, START_MS + YEAR_MS + 1, i64::MAX] {
        let body = json!({ "user_id": bob, "expires_at": until });
        let refused = test.try_invite(&test.alice, body).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    for body in [
        json!({ "user_id": bob }),
        json!({ "user_id": bob, "expires_at": "soon" }),
        json!({ "user_id": "bob", "expires_at": START_MS + MINUTE_MS }),
        json!({ "expires_at": START_MS + MINUTE_MS }),
    ] {
        let refused = test.try_invite(&test.alice, body).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
    assert!(test.member_event(&test.bob).await.is_null());
    let body = json!({ "user_id": bob, "expires_at": START_MS + YEAR_MS, "reason": "tea" });
    test.try_invite(&test.alice, body).await.expect_ok();
    assert_eq!(
        test.member_event(&test.bob).await["content"]["reason"],
        "tea"
    );
}

#[tokio::test]
async fn only_members_with_power_may_invite() {
    let levels = json!({ "invite": 50 });
    let request = json!({ "power_level_content_override": levels });
    let test = InvitationTest::with_room(request).await;
    let body = json!({ "user_id": test.carol.id, "expires_at": START_MS + MINUTE_MS });

    let stranger = test.try_invite(&test.bob, body.clone()).await;
    test.invite_for_minutes(&test.alice, &test.bob, 10).await;
    test.bob.joins(&test.room).await;
    let weak = test.try_invite(&test.bob, body.clone()).await;
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
async fn a_suspended_user_cannot_invite() {
    let server = Server::start().await;
    let admin = server.register_admin("root").await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let path = format!("/_matrix/client/v1/admin/suspend/{}", alice.id);
    let suspended = admin.client.put(&path, json!({ "suspended": true }));
    suspended.await.expect_ok();

    let path = format!(
        "/_parlour/client/v1/rooms/{}/invite",
        percent_encoded(&room)
    );
    let body = json!({ "user_id": admin.id, "expires_at": i64::MAX });
    let refused = alice.client.post(&path, body).await;

    refused.expect_error(403, "M_USER_SUSPENDED");
}
