//! Tests invite links, which let users join rooms and register accounts.

use std::time::Duration;

use futures_util::future::join_all;
use parlour::{clock::Clock, config::Config};
use serde_json::{Value, json};

use crate::{
    chat::{find_event, percent_encoded, texts_at},
    harness::{HttpAnswer, Server, User, password_of},
};

const START_MS: i64 = 1_700_000_000_000;
const HOUR_MS: i64 = 3_600_000;
const LINKS_PATH: &str = "/_parlour/client/v1/invite_links";

struct InviteLinkTest {
    server: Server,
    clock: Clock,
    alice: User,
    bob: User,
    room: String,
}

impl InviteLinkTest {
    async fn new() -> Self {
        Self::with_config(json!({}), |_| {}).await
    }

    async fn with_config(request: Value, change: impl FnOnce(&mut Config)) -> Self {
        let clock = Clock::manual(START_MS.unsigned_abs());
        let server = Server::with_clock(clock.clone(), change).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.creates(request).await;
        Self {
            server,
            clock,
            alice,
            bob,
            room,
        }
    }

    fn links_path(&self, rest: &str) -> String {
        let room = percent_encoded(&self.room);
        format!("/_parlour/client/v1/rooms/{room}/invite_links{rest}")
    }

    async fn try_create_link(&self, user: &User, body: Value) -> HttpAnswer {
        user.client.post(&self.links_path(""), body).await
    }

    /// Creates a link and returns its token.
    async fn create_link(&self, user: &User, body: Value) -> String {
        let link = self.try_create_link(user, body).await.expect_ok();
        link["token"].as_str().expect("a token").to_owned()
    }

    async fn list_links(&self, user: &User) -> Vec<Value> {
        let listed = user.client.get(&self.links_path("")).await.expect_ok();
        listed["links"].as_array().expect("a list").clone()
    }

    async fn link_uses(&self) -> Value {
        self.list_links(&self.alice).await[0]["uses"].clone()
    }

    async fn revoke_link(&self, user: &User, token: &str) -> HttpAnswer {
        user.client
            .delete(&self.links_path(&format!("/{token}")))
            .await
    }

    async fn preview_link(&self, token: &str) -> HttpAnswer {
        self.server.get(&format!("{LINKS_PATH}/{token}")).await
    }

    async fn add_member(&self, user: &User) {
        self.alice.invites(&self.room, user).await;
        user.joins(&self.room).await;
    }

    async fn change_membership(&self, what: &str, user: &User) {
        let body = json!({ "user_id": user.id });
        self.alice
            .posts_in_room(&self.room, what, body)
            .await
            .expect_ok();
    }

    async fn member_event(&self, user: &User) -> Value {
        let members = self
            .alice
            .gets_in_room(&self.room, "members")
            .await
            .expect_ok();
        find_event(&members["chunk"], "m.room.member", &user.id).clone()
    }

    async fn register_with_link(&self, name: &str, token: &str) -> HttpAnswer {
        let auth = json!({ "type": "m.login.registration_token", "token": token });
        let body = json!({ "username": name, "password": "password", "auth": auth });
        self.server.post("/_matrix/client/v3/register", body).await
    }

    async fn is_valid_for_registration(&self, token: &str) -> bool {
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
        let answer = self.server.get(&format!("{path}?token={token}")).await;
        answer.expect_ok()["valid"] == true
    }
}

async fn redeem_link(user: &User, token: &str) -> HttpAnswer {
    let path = format!("{LINKS_PATH}/{token}/redeem");
    user.client.post(&path, json!({})).await
}

#[tokio::test]
async fn a_link_has_defaults_and_optional_limits() {
    let test = InviteLinkTest::new().await;

    let plain = test
        .try_create_link(&test.alice, json!({}))
        .await
        .expect_ok();
    let body = json!({ "expires_at": START_MS + HOUR_MS, "max_uses": 3, "label": "friends" });
    let other = test.try_create_link(&test.alice, body).await.expect_ok();

    let token = plain["token"].as_str().expect("a token");
    assert!(token.len() >= 22, "{token}");
    assert!(
        token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    );
    let expected = json!({
        "token": token, "room_id": test.room, "creator": test.alice.id, "created_at": START_MS,
        "expires_at": START_MS + 7 * 24 * HOUR_MS, "max_uses": null, "uses": 0, "label": null,
        "url": format!("{}/#/invite/{token}", test.server.running.public_url()),
    });
    assert_eq!(plain, expected);
    assert_eq!(
        (&other["max_uses"], &other["label"]),
        (&json!(3), &json!("friends"))
    );
    assert_eq!(other["expires_at"], START_MS + HOUR_MS);
    assert_eq!(test.list_links(&test.alice).await, [other, plain]);
}

#[tokio::test]
async fn a_link_preview_needs_no_account() {
    let test =
        InviteLinkTest::with_config(json!({ "name": "Tea", "topic": "and cakes" }), |_| {}).await;
    let token = test.create_link(&test.alice, json!({})).await;

    let preview = test.preview_link(&token).await.expect_ok();

    let room = json!({
        "room_id": test.room, "name": "Tea", "topic": "and cakes", "avatar_url": null, "joined_members": 1,
    });
    let expected = json!({
        "room": room, "inviter": { "user_id": test.alice.id, "displayname": null },
        "expires_at": START_MS + 7 * 24 * HOUR_MS, "registration": true,
    });
    assert_eq!(preview, expected);
    let unknown = test
        .preview_link("nothing")
        .await
        .expect_error(404, "M_NOT_FOUND");
    for body in [
        json!({ "max_uses": 1 }),
        json!({ "expires_at": START_MS + HOUR_MS }),
    ] {
        let token = test.create_link(&test.alice, body).await;
        if test.list_links(&test.alice).await[0]["max_uses"] == 1 {
            redeem_link(&test.bob, &token).await.expect_ok();
        } else {
            test.clock.advance(Duration::from_hours(1));
        }
        let dead = test
            .preview_link(&token)
            .await
            .expect_error(404, "M_NOT_FOUND");
        assert_eq!(dead, unknown);
    }
}

#[tokio::test]
async fn redeeming_a_link_invites_in_the_name_of_its_creator() {
    let test = InviteLinkTest::new().await;
    let token = test
        .create_link(&test.alice, json!({ "max_uses": 2 }))
        .await;
    let before = test.alice.syncs().await;

    let joined = redeem_link(&test.bob, &token).await.expect_ok();

    assert_eq!(joined["room_id"], test.room);
    let news = test.alice.syncs_after(&before).await;
    let events = crate::chat::timeline(&news, &test.room);
    let of_bob = texts_at(events, "/content/membership");
    assert_eq!(of_bob, ["invite", "join"]);
    assert_eq!(events[0]["sender"], test.alice.id);
    assert_eq!(test.link_uses().await, 1);
    // Redeeming the link again, also after leaving the room, takes no further use.
    redeem_link(&test.bob, &token).await.expect_ok();
    test.bob
        .posts_in_room(&test.room, "leave", json!({}))
        .await
        .expect_ok();
    redeem_link(&test.bob, &token).await.expect_ok();
    assert_eq!(test.link_uses().await, 1);
    assert_eq!(
        test.member_event(&test.bob).await["content"]["membership"],
        "join"
    );
}

#[tokio::test]
async fn in_public_rooms_only_new_members_count_as_uses() {
    let test = InviteLinkTest::with_config(json!({ "preset": "public_chat" }), |_| {}).await;
    let token = test
        .create_link(&test.alice, json!({ "max_uses": 1 }))
        .await;

    redeem_link(&test.alice, &token).await.expect_ok();
    assert_eq!(test.link_uses().await, 0);
    let before = test.alice.syncs().await;
    redeem_link(&test.bob, &token).await.expect_ok();

    let news = test.alice.syncs_after(&before).await;
    let events = crate::chat::timeline(&news, &test.room);
    assert_eq!(texts_at(events, "/content/membership"), ["join"]);
    assert_eq!(test.link_uses().await, 1);
}

#[tokio::test]
async fn concurrent_users_cannot_both_take_the_last_use() {
    let test = InviteLinkTest::new().await;
    let token = test
        .create_link(&test.alice, json!({ "max_uses": 1 }))
        .await;
    let carol = test.server.register("carol").await;

    let (one, other) = tokio::join!(redeem_link(&test.bob, &token), redeem_link(&carol, &token));

    let statuses = [one.status, other.status];
    assert!(
        statuses == [200, 404] || statuses == [404, 200],
        "{statuses:?}"
    );
    assert_eq!(test.link_uses().await, 1);
}

#[tokio::test]
async fn concurrent_redemptions_by_one_user_take_one_use() {
    let test = InviteLinkTest::new().await;
    let token = test
        .create_link(&test.alice, json!({ "max_uses": 2 }))
        .await;

    let asked = (0..8).map(|_| redeem_link(&test.bob, &token));
    for answer in join_all(asked).await {
        answer.expect_ok();
    }

    assert_eq!(test.link_uses().await, 1);
}

#[tokio::test]
async fn a_banned_user_is_refused_and_takes_no_use() {
    let test = InviteLinkTest::new().await;
    let token = test.create_link(&test.alice, json!({})).await;
    test.change_membership("ban", &test.bob).await;

    let refused = redeem_link(&test.bob, &token).await;

    refused.expect_error(403, "M_FORBIDDEN");
    assert_eq!(test.link_uses().await, 0);
}

#[tokio::test]
async fn a_failed_redemption_returns_the_use() {
    let test = InviteLinkTest::new().await;
    let token = test
        .create_link(&test.alice, json!({ "max_uses": 1 }))
        .await;
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        test.bob.id
    );
    let blocks = json!({ "default_action": "block" });
    test.bob.client.put(&path, blocks).await.expect_ok();

    redeem_link(&test.bob, &token)
        .await
        .expect_error(403, "M_INVITE_BLOCKED");

    assert_eq!(test.link_uses().await, 0);
}

#[tokio::test]
async fn a_link_works_while_its_creator_may_invite() {
    let levels = json!({ "invite": 50 });
    let request = json!({ "power_level_content_override": levels, "room_version": "11" });
    let test = InviteLinkTest::with_config(request, |_| {}).await;
    let carol = test.server.register("carol").await;
    test.add_member(&test.bob).await;
    let levels = async |level: i64| {
        let users = json!({ &test.alice.id: 100, &test.bob.id: level });
        let content = json!({ "invite": 50, "users": users });
        test.alice
            .sets_state(&test.room, "m.room.power_levels", content)
            .await;
    };
    let weak = test.try_create_link(&test.bob, json!({})).await;
    weak.expect_error(403, "M_FORBIDDEN");
    levels(50).await;
    let token = test.create_link(&test.bob, json!({})).await;

    levels(0).await;
    redeem_link(&carol, &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.preview_link(&token)
        .await
        .expect_error(404, "M_NOT_FOUND");
    assert!(!test.is_valid_for_registration(&token).await);
    test.register_with_link("dave", &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
    levels(50).await;
    assert!(test.is_valid_for_registration(&token).await);
    test.bob
        .posts_in_room(&test.room, "leave", json!({}))
        .await
        .expect_ok();
    redeem_link(&carol, &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn deactivating_the_creator_deletes_their_links() {
    let test = InviteLinkTest::new().await;
    test.add_member(&test.bob).await;
    let token = test.create_link(&test.bob, json!({})).await;
    let auth = json!({ "auth": password_of("bob") });
    let path = "/_matrix/client/v3/account/deactivate";
    test.bob.client.post(path, auth).await.expect_ok();
    let carol = test.server.register("carol").await;

    redeem_link(&carol, &token)
        .await
        .expect_error(404, "M_NOT_FOUND");

    assert!(test.list_links(&test.alice).await.is_empty());
}

#[tokio::test]
async fn moderators_manage_all_links_and_members_their_own() {
    let test = InviteLinkTest::new().await;
    let carol = test.server.register("carol").await;
    test.add_member(&test.bob).await;
    let of_alice = test.create_link(&test.alice, json!({})).await;
    let of_bob = test.create_link(&test.bob, json!({})).await;
    let tokens = async |user| {
        let links = Value::from(test.list_links(user).await);
        texts_at(&links, "/token")
            .into_iter()
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };

    assert_eq!(
        tokens(&test.alice).await,
        [of_bob.clone(), of_alice.clone()]
    );
    assert_eq!(tokens(&test.bob).await, std::slice::from_ref(&of_bob));
    let stranger = carol.client.get(&test.links_path("")).await;
    stranger.expect_error(403, "M_FORBIDDEN");
    test.try_create_link(&carol, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.revoke_link(&test.bob, &of_alice)
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.revoke_link(&test.alice, "nothing")
        .await
        .expect_error(404, "M_NOT_FOUND");
    test.revoke_link(&test.alice, &of_bob).await.expect_ok();
    test.revoke_link(&test.alice, &of_alice).await.expect_ok();

    assert!(tokens(&test.alice).await.is_empty());
    redeem_link(&carol, &of_alice)
        .await
        .expect_error(404, "M_NOT_FOUND");
    test.preview_link(&of_bob)
        .await
        .expect_error(404, "M_NOT_FOUND");
    test.revoke_link(&test.alice, &of_bob)
        .await
        .expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn registering_with_a_link_takes_a_use() {
    let test = InviteLinkTest::with_config(json!({}), |_| {}).await;
    let token = test
        .create_link(&test.alice, json!({ "max_uses": 1 }))
        .await;
    let server = test
        .server
        .restart_with(|config| config.registration.open = false)
        .await;
    let test = InviteLinkTest {
        alice: test.alice.on_server(&server),
        bob: test.bob.on_server(&server),
        server,
        ..test
    };
    assert!(test.is_valid_for_registration(&token).await);
    assert!(!test.is_valid_for_registration("nothing").await);
    assert_eq!(
        test.preview_link(&token).await.expect_ok()["registration"],
        true
    );

    let refused = test.register_with_link("alice", &token).await;
    refused.expect_error(400, "M_USER_IN_USE");
    let carol = test.register_with_link("carol", &token).await.expect_ok();
    let carol = test.server.user_from_login(&carol);

    assert_eq!(test.link_uses().await, 1);
    let path = format!("/_matrix/client/v1/admin/lock/{}", carol.id);
    carol
        .client
        .get(&path)
        .await
        .expect_error(403, "M_FORBIDDEN");
    assert!(!test.is_valid_for_registration(&token).await);
    assert_eq!(test.register_with_link("dave", &token).await.status, 401);
    redeem_link(&test.bob, &token)
        .await
        .expect_error(404, "M_NOT_FOUND");
    redeem_link(&carol, &token).await.expect_ok();
    assert_eq!(test.link_uses().await, 1);
    assert_eq!(
        test.member_event(&carol).await["content"]["membership"],
        "join"
    );
}

#[tokio::test]
async fn concurrent_registrations_cannot_both_take_the_last_use() {
    let test = InviteLinkTest::with_config(json!({}), |_| {}).await;
    let token = test
        .create_link(&test.alice, json!({ "max_uses": 1 }))
        .await;

    let (one, other) = tokio::join!(
        test.register_with_link("carol", &token),
        test.register_with_link("dave", &token)
    );

    let successes = [&one, &other]
        .into_iter()
        .filter(|answer| answer.status == 200);
    assert_eq!(successes.count(), 1, "{} {}", one.text, other.text);
    assert_eq!(test.link_uses().await, 1);
}

#[tokio::test]
async fn registration_by_links_can_be_disabled() {
    let test =
        InviteLinkTest::with_config(json!({}), |config| config.registration.invite_links = false)
            .await;
    let token = test.create_link(&test.alice, json!({})).await;

    assert_eq!(test.register_with_link("carol", &token).await.status, 401);

    assert!(!test.is_valid_for_registration(&token).await);
    redeem_link(&test.bob, &token).await.expect_ok();
}

#[tokio::test]
async fn a_link_expires_even_after_a_restart() {
    let test = InviteLinkTest::new().await;
    let token = test
        .create_link(&test.alice, json!({ "expires_at": START_MS + HOUR_MS }))
        .await;
    let other = test
        .create_link(&test.alice, json!({ "expires_at": START_MS + 2 * HOUR_MS }))
        .await;
    let server = test.server.restart().await;
    let test = InviteLinkTest {
        alice: test.alice.on_server(&server),
        bob: test.bob.on_server(&server),
        server,
        ..test
    };
    assert_eq!(test.list_links(&test.alice).await.len(), 2);

    test.clock.advance(Duration::from_hours(1));

    redeem_link(&test.bob, &token)
        .await
        .expect_error(404, "M_NOT_FOUND");
    assert_eq!(test.list_links(&test.alice).await.len(), 1);
    redeem_link(&test.bob, &other).await.expect_ok();
}

#[tokio::test]
async fn invalid_link_limits_are_refused() {
    let test = InviteLinkTest::new().await;
    let year = 366 * 24 * HOUR_MS;

    for body in [
        json!({ "expires_at": START_MS }),
        json!({ "expires_at": START_MS + year + 1 }),
        json!({ "max_uses": 0 }),
        json!({ "max_uses": -1 }),
        json!({ "max_uses": 1_000_001 }),
        json!({ "label": "x".repeat(256) }),
        json!({ "label": "a\u{0}b" }),
    ] {
        let refused = test.try_create_link(&test.alice, body).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    for body in [json!({ "max_uses": "many" }), json!({ "label": 1 })] {
        let refused = test.try_create_link(&test.alice, body).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
    assert!(test.list_links(&test.alice).await.is_empty());
}

#[tokio::test]
async fn a_member_has_at_most_fifty_links_per_room() {
    let test = InviteLinkTest::new().await;
    for _ in 0..50 {
        test.create_link(&test.alice, json!({})).await;
    }

    let refused = test.try_create_link(&test.alice, json!({})).await;

    refused.expect_error(429, "M_LIMIT_EXCEEDED");
    test.add_member(&test.bob).await;
    test.create_link(&test.bob, json!({})).await;
    test.clock.advance(Duration::from_hours(7 * 24));
    test.create_link(&test.alice, json!({})).await;
}

#[tokio::test]
async fn guests_and_suspended_users_cannot_use_links() {
    let test =
        InviteLinkTest::with_config(json!({}), |config| config.registration.guests = true).await;
    let guest = test.server.register_guest().await;
    let admin = test.server.register_admin("root").await;
    test.add_member(&test.bob).await;
    let token = test.create_link(&test.bob, json!({})).await;
    let suspends = async |suspended: bool| {
        let path = format!("/_matrix/client/v1/admin/suspend/{}", test.bob.id);
        let body = json!({ "suspended": suspended });
        admin.client.put(&path, body).await.expect_ok();
    };

    redeem_link(&guest, &token)
        .await
        .expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest
        .client
        .get(&format!("{LINKS_PATH}/{token}"))
        .await
        .expect_ok();
    suspends(true).await;

    test.try_create_link(&test.bob, json!({}))
        .await
        .expect_error(403, "M_USER_SUSPENDED");
    redeem_link(&test.bob, &token)
        .await
        .expect_error(403, "M_USER_SUSPENDED");
    redeem_link(&admin, &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.preview_link(&token)
        .await
        .expect_error(404, "M_NOT_FOUND");
    assert_eq!(test.list_links(&test.bob).await.len(), 1);
    suspends(false).await;
    redeem_link(&admin, &token).await.expect_ok();
}

#[tokio::test]
async fn only_previews_of_unknown_links_are_rate_limited() {
    let test = InviteLinkTest::with_config(json!({}), |config| config.limits.enabled = true).await;
    let token = test.create_link(&test.alice, json!({})).await;
    for _ in 0..50 {
        test.preview_link(&token).await.expect_ok();
    }

    let mut statuses = Vec::new();
    for n in 0..21 {
        statuses.push(test.preview_link(&format!("guess{n}")).await.status);
    }

    assert!(statuses[..20].iter().all(|status| *status == 404));
    assert_eq!(statuses[20], 429);
    test.preview_link(&token).await.expect_ok();
}
