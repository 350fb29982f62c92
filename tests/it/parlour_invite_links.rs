//! Tests invite links, which let users join rooms and register accounts.

use std::time::Duration;

use futures_util::future::join_all;
use parlour::{clock::Clock, config::Config};
use serde_json::{Value, json};

use crate::{
    chat::{each, encoded, find},
    harness::{Answer, Server, User, password_of},
};

const START: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;
const LINKS: &str = "/_parlour/client/v1/invite_links";

struct Test {
    server: Server,
    clock: Clock,
    alice: User,
    bob: User,
    room: String,
}

impl Test {
    async fn new() -> Self {
        Self::with(json!({}), |_| {}).await
    }

    async fn with(request: Value, change: impl FnOnce(&mut Config)) -> Self {
        let clock = Clock::manual(START.unsigned_abs());
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

    fn path(&self, rest: &str) -> String {
        let room = encoded(&self.room);
        format!("/_parlour/client/v1/rooms/{room}/invite_links{rest}")
    }

    async fn tries_to_make(&self, user: &User, body: Value) -> Answer {
        user.client.post(&self.path(""), body).await
    }

    /// Creates a link and returns its token.
    async fn makes(&self, user: &User, body: Value) -> String {
        let link = self.tries_to_make(user, body).await.expect_ok();
        link["token"].as_str().expect("a token").to_owned()
    }

    async fn lists(&self, user: &User) -> Vec<Value> {
        let listed = user.client.get(&self.path("")).await.expect_ok();
        listed["links"].as_array().expect("a list").clone()
    }

    async fn uses(&self) -> Value {
        self.lists(&self.alice).await[0]["uses"].clone()
    }

    async fn revokes(&self, user: &User, token: &str) -> Answer {
        user.client.delete(&self.path(&format!("/{token}"))).await
    }

    async fn looks(&self, token: &str) -> Answer {
        self.server.get(&format!("{LINKS}/{token}")).await
    }

    async fn invites_and_joins(&self, user: &User) {
        self.alice.invites(&self.room, user).await;
        user.joins(&self.room).await;
    }

    async fn does(&self, what: &str, user: &User) {
        let body = json!({ "user_id": user.id });
        self.alice.tries(&self.room, what, body).await.expect_ok();
    }

    async fn member(&self, user: &User) -> Value {
        let members = self.alice.asks(&self.room, "members").await.expect_ok();
        find(&members["chunk"], "m.room.member", &user.id).clone()
    }

    async fn registers(&self, name: &str, token: &str) -> Answer {
        let auth = json!({ "type": "m.login.registration_token", "token": token });
        let body = json!({ "username": name, "password": "password", "auth": auth });
        self.server.post("/_matrix/client/v3/register", body).await
    }

    async fn is_valid(&self, token: &str) -> bool {
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
        let answer = self.server.get(&format!("{path}?token={token}")).await;
        answer.expect_ok()["valid"] == true
    }
}

async fn redeems(user: &User, token: &str) -> Answer {
    let path = format!("{LINKS}/{token}/redeem");
    user.client.post(&path, json!({})).await
}

#[tokio::test]
async fn a_link_tells_what_it_is() {
    let test = Test::new().await;

    let plain = test.tries_to_make(&test.alice, json!({})).await.expect_ok();
    let body = json!({ "expires_at": START + HOUR, "max_uses": 3, "label": "friends" });
    let other = test.tries_to_make(&test.alice, body).await.expect_ok();

    let token = plain["token"].as_str().expect("a token");
    assert!(token.len() >= 22, "{token}");
    assert!(
        token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    );
    let expected = json!({
        "token": token, "room_id": test.room, "creator": test.alice.id, "created_at": START,
        "expires_at": START + 7 * 24 * HOUR, "max_uses": null, "uses": 0, "label": null,
        "url": format!("{}/#/invite/{token}", test.server.running.public_url()),
    });
    assert_eq!(plain, expected);
    assert_eq!(
        (&other["max_uses"], &other["label"]),
        (&json!(3), &json!("friends"))
    );
    assert_eq!(other["expires_at"], START + HOUR);
    assert_eq!(test.lists(&test.alice).await, [other, plain]);
}

#[tokio::test]
async fn whoever_has_a_link_sees_where_it_leads_without_an_account() {
    let test = Test::with(json!({ "name": "Tea", "topic": "and cakes" }), |_| {}).await;
    let token = test.makes(&test.alice, json!({})).await;

    let preview = test.looks(&token).await.expect_ok();

    let room = json!({
        "room_id": test.room, "name": "Tea", "topic": "and cakes", "avatar_url": null, "joined_members": 1,
    });
    let expected = json!({
        "room": room, "inviter": { "user_id": test.alice.id, "displayname": null },
        "expires_at": START + 7 * 24 * HOUR, "registration": true,
    });
    assert_eq!(preview, expected);
    let unknown = test.looks("nothing").await.expect_error(404, "M_NOT_FOUND");
    for body in [
        json!({ "max_uses": 1 }),
        json!({ "expires_at": START + HOUR }),
    ] {
        let token = test.makes(&test.alice, body).await;
        if test.lists(&test.alice).await[0]["max_uses"] == 1 {
            redeems(&test.bob, &token).await.expect_ok();
        } else {
            test.clock.advance(Duration::from_hours(1));
        }
        let dead = test.looks(&token).await.expect_error(404, "M_NOT_FOUND");
        assert_eq!(dead, unknown);
    }
}

#[tokio::test]
async fn a_link_lets_in_in_the_name_of_who_made_it() {
    let test = Test::new().await;
    let token = test.makes(&test.alice, json!({ "max_uses": 2 })).await;
    let before = test.alice.syncs().await;

    let joined = redeems(&test.bob, &token).await.expect_ok();

    assert_eq!(joined["room_id"], test.room);
    let news = test.alice.syncs_after(&before).await;
    let events = crate::chat::timeline(&news, &test.room);
    let of_bob = each(events, "/content/membership");
    assert_eq!(of_bob, ["invite", "join"]);
    assert_eq!(events[0]["sender"], test.alice.id);
    assert_eq!(test.uses().await, 1);
    // Redeeming the link again, also after leaving the room, takes no further use.
    redeems(&test.bob, &token).await.expect_ok();
    test.bob
        .tries(&test.room, "leave", json!({}))
        .await
        .expect_ok();
    redeems(&test.bob, &token).await.expect_ok();
    assert_eq!(test.uses().await, 1);
    assert_eq!(
        test.member(&test.bob).await["content"]["membership"],
        "join"
    );
}

#[tokio::test]
async fn who_is_in_already_takes_no_use_and_a_public_room_needs_no_invitation() {
    let test = Test::with(json!({ "preset": "public_chat" }), |_| {}).await;
    let token = test.makes(&test.alice, json!({ "max_uses": 1 })).await;

    redeems(&test.alice, &token).await.expect_ok();
    assert_eq!(test.uses().await, 0);
    let before = test.alice.syncs().await;
    redeems(&test.bob, &token).await.expect_ok();

    let news = test.alice.syncs_after(&before).await;
    let events = crate::chat::timeline(&news, &test.room);
    assert_eq!(each(events, "/content/membership"), ["join"]);
    assert_eq!(test.uses().await, 1);
}

#[tokio::test]
async fn of_two_who_race_for_the_last_use_one_wins() {
    let test = Test::new().await;
    let token = test.makes(&test.alice, json!({ "max_uses": 1 })).await;
    let carol = test.server.register("carol").await;

    let (one, other) = tokio::join!(redeems(&test.bob, &token), redeems(&carol, &token));

    let statuses = [one.status, other.status];
    assert!(
        statuses == [200, 404] || statuses == [404, 200],
        "{statuses:?}"
    );
    assert_eq!(test.uses().await, 1);
}

#[tokio::test]
async fn a_user_who_races_with_themselves_takes_one_use() {
    let test = Test::new().await;
    let token = test.makes(&test.alice, json!({ "max_uses": 2 })).await;

    let asked = (0..8).map(|_| redeems(&test.bob, &token));
    for answer in join_all(asked).await {
        answer.expect_ok();
    }

    assert_eq!(test.uses().await, 1);
}

#[tokio::test]
async fn who_is_banned_stays_out_and_takes_no_use() {
    let test = Test::new().await;
    let token = test.makes(&test.alice, json!({})).await;
    test.does("ban", &test.bob).await;

    let refused = redeems(&test.bob, &token).await;

    refused.expect_error(403, "M_FORBIDDEN");
    assert_eq!(test.uses().await, 0);
}

#[tokio::test]
async fn a_use_that_lets_nobody_in_is_given_back() {
    let test = Test::new().await;
    let token = test.makes(&test.alice, json!({ "max_uses": 1 })).await;
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        test.bob.id
    );
    let blocks = json!({ "default_action": "block" });
    test.bob.client.put(&path, blocks).await.expect_ok();

    redeems(&test.bob, &token)
        .await
        .expect_error(403, "M_INVITE_BLOCKED");

    assert_eq!(test.uses().await, 0);
}

#[tokio::test]
async fn a_link_serves_as_long_as_its_maker_may_invite() {
    let levels = json!({ "invite": 50 });
    let request = json!({ "power_level_content_override": levels, "room_version": "11" });
    let test = Test::with(request, |_| {}).await;
    let carol = test.server.register("carol").await;
    test.invites_and_joins(&test.bob).await;
    let levels = async |level: i64| {
        let users = json!({ &test.alice.id: 100, &test.bob.id: level });
        let content = json!({ "invite": 50, "users": users });
        test.alice
            .sets(&test.room, "m.room.power_levels", content)
            .await;
    };
    let weak = test.tries_to_make(&test.bob, json!({})).await;
    weak.expect_error(403, "M_FORBIDDEN");
    levels(50).await;
    let token = test.makes(&test.bob, json!({})).await;

    levels(0).await;
    redeems(&carol, &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.looks(&token).await.expect_error(404, "M_NOT_FOUND");
    assert!(!test.is_valid(&token).await);
    test.registers("dave", &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
    levels(50).await;
    assert!(test.is_valid(&token).await);
    test.bob
        .tries(&test.room, "leave", json!({}))
        .await
        .expect_ok();
    redeems(&carol, &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_link_goes_with_the_account_of_its_maker() {
    let test = Test::new().await;
    test.invites_and_joins(&test.bob).await;
    let token = test.makes(&test.bob, json!({})).await;
    let auth = json!({ "auth": password_of("bob") });
    let path = "/_matrix/client/v3/account/deactivate";
    test.bob.client.post(path, auth).await.expect_ok();
    let carol = test.server.register("carol").await;

    redeems(&carol, &token)
        .await
        .expect_error(404, "M_NOT_FOUND");

    assert!(test.lists(&test.alice).await.is_empty());
}

#[tokio::test]
async fn moderators_see_and_revoke_the_links_of_all_and_members_their_own() {
    let test = Test::new().await;
    let carol = test.server.register("carol").await;
    test.invites_and_joins(&test.bob).await;
    let of_alice = test.makes(&test.alice, json!({})).await;
    let of_bob = test.makes(&test.bob, json!({})).await;
    let tokens = async |user| {
        let links = Value::from(test.lists(user).await);
        each(&links, "/token")
            .into_iter()
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };

    assert_eq!(
        tokens(&test.alice).await,
        [of_bob.clone(), of_alice.clone()]
    );
    assert_eq!(tokens(&test.bob).await, std::slice::from_ref(&of_bob));
    let stranger = carol.client.get(&test.path("")).await;
    stranger.expect_error(403, "M_FORBIDDEN");
    test.tries_to_make(&carol, json!({}))
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.revokes(&test.bob, &of_alice)
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.revokes(&test.alice, "nothing")
        .await
        .expect_error(404, "M_NOT_FOUND");
    test.revokes(&test.alice, &of_bob).await.expect_ok();
    test.revokes(&test.alice, &of_alice).await.expect_ok();

    assert!(tokens(&test.alice).await.is_empty());
    redeems(&carol, &of_alice)
        .await
        .expect_error(404, "M_NOT_FOUND");
    test.looks(&of_bob).await.expect_error(404, "M_NOT_FOUND");
    test.revokes(&test.alice, &of_bob)
        .await
        .expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_link_registers_and_the_account_holds_the_use() {
    let test = Test::with(json!({}), |_| {}).await;
    let token = test.makes(&test.alice, json!({ "max_uses": 1 })).await;
    let server = test
        .server
        .restart_with(|config| config.registration.open = false)
        .await;
    let test = Test {
        alice: test.alice.at(&server),
        bob: test.bob.at(&server),
        server,
        ..test
    };
    assert!(test.is_valid(&token).await);
    assert!(!test.is_valid("nothing").await);
    assert_eq!(test.looks(&token).await.expect_ok()["registration"], true);

    let refused = test.registers("alice", &token).await;
    refused.expect_error(400, "M_USER_IN_USE");
    let carol = test.registers("carol", &token).await.expect_ok();
    let carol = test.server.user(&carol);

    assert_eq!(test.uses().await, 1);
    let path = format!("/_matrix/client/v1/admin/lock/{}", carol.id);
    carol
        .client
        .get(&path)
        .await
        .expect_error(403, "M_FORBIDDEN");
    assert!(!test.is_valid(&token).await);
    assert_eq!(test.registers("dave", &token).await.status, 401);
    redeems(&test.bob, &token)
        .await
        .expect_error(404, "M_NOT_FOUND");
    redeems(&carol, &token).await.expect_ok();
    assert_eq!(test.uses().await, 1);
    assert_eq!(test.member(&carol).await["content"]["membership"], "join");
}

#[tokio::test]
async fn of_two_registrations_with_the_last_use_one_succeeds() {
    let test = Test::with(json!({}), |_| {}).await;
    let token = test.makes(&test.alice, json!({ "max_uses": 1 })).await;

    let (one, other) = tokio::join!(
        test.registers("carol", &token),
        test.registers("dave", &token)
    );

    let successes = [&one, &other]
        .into_iter()
        .filter(|answer| answer.status == 200);
    assert_eq!(successes.count(), 1, "{} {}", one.text, other.text);
    assert_eq!(test.uses().await, 1);
}

#[tokio::test]
async fn a_server_can_keep_registration_closed_to_links() {
    let test = Test::with(json!({}), |config| config.registration.invite_links = false).await;
    let token = test.makes(&test.alice, json!({})).await;

    assert_eq!(test.registers("carol", &token).await.status, 401);

    assert!(!test.is_valid(&token).await);
    redeems(&test.bob, &token).await.expect_ok();
}

#[tokio::test]
async fn a_link_ends_with_its_time_also_across_a_restart() {
    let test = Test::new().await;
    let token = test
        .makes(&test.alice, json!({ "expires_at": START + HOUR }))
        .await;
    let other = test
        .makes(&test.alice, json!({ "expires_at": START + 2 * HOUR }))
        .await;
    let server = test.server.restart().await;
    let test = Test {
        alice: test.alice.at(&server),
        bob: test.bob.at(&server),
        server,
        ..test
    };
    assert_eq!(test.lists(&test.alice).await.len(), 2);

    test.clock.advance(Duration::from_hours(1));

    redeems(&test.bob, &token)
        .await
        .expect_error(404, "M_NOT_FOUND");
    assert_eq!(test.lists(&test.alice).await.len(), 1);
    redeems(&test.bob, &other).await.expect_ok();
}

#[tokio::test]
async fn the_limits_of_a_link_must_make_sense() {
    let test = Test::new().await;
    let year = 366 * 24 * HOUR;

    for body in [
        json!({ "expires_at": START }),
        json!({ "expires_at": START + year + 1 }),
        json!({ "max_uses": 0 }),
        json!({ "max_uses": -1 }),
        json!({ "max_uses": 1_000_001 }),
        json!({ "label": "x".repeat(256) }),
        json!({ "label": "a\u{0}b" }),
    ] {
        let refused = test.tries_to_make(&test.alice, body).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    for body in [json!({ "max_uses": "many" }), json!({ "label": 1 })] {
        let refused = test.tries_to_make(&test.alice, body).await;
        refused.expect_error(400, "M_BAD_JSON");
    }
    assert!(test.lists(&test.alice).await.is_empty());
}

#[tokio::test]
async fn a_member_has_fifty_links_into_a_room_at_most() {
    let test = Test::new().await;
    for _ in 0..50 {
        test.makes(&test.alice, json!({})).await;
    }

    let refused = test.tries_to_make(&test.alice, json!({})).await;

    refused.expect_error(429, "M_LIMIT_EXCEEDED");
    test.invites_and_joins(&test.bob).await;
    test.makes(&test.bob, json!({})).await;
    test.clock.advance(Duration::from_hours(7 * 24));
    test.makes(&test.alice, json!({})).await;
}

#[tokio::test]
async fn guests_and_suspended_users_are_refused() {
    let test = Test::with(json!({}), |config| config.registration.guests = true).await;
    let guest = test.server.register_guest().await;
    let admin = test.server.register_admin("root").await;
    test.invites_and_joins(&test.bob).await;
    let token = test.makes(&test.bob, json!({})).await;
    let suspends = async |suspended: bool| {
        let path = format!("/_matrix/client/v1/admin/suspend/{}", test.bob.id);
        let body = json!({ "suspended": suspended });
        admin.client.put(&path, body).await.expect_ok();
    };

    redeems(&guest, &token)
        .await
        .expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    guest
        .client
        .get(&format!("{LINKS}/{token}"))
        .await
        .expect_ok();
    suspends(true).await;

    test.tries_to_make(&test.bob, json!({}))
        .await
        .expect_error(403, "M_USER_SUSPENDED");
    redeems(&test.bob, &token)
        .await
        .expect_error(403, "M_USER_SUSPENDED");
    redeems(&admin, &token)
        .await
        .expect_error(403, "M_FORBIDDEN");
    test.looks(&token).await.expect_error(404, "M_NOT_FOUND");
    assert_eq!(test.lists(&test.bob).await.len(), 1);
    suspends(false).await;
    redeems(&admin, &token).await.expect_ok();
}

#[tokio::test]
async fn guesses_at_links_are_limited_and_looks_at_valid_links_are_not() {
    let test = Test::with(json!({}), |config| config.limits.enabled = true).await;
    let token = test.makes(&test.alice, json!({})).await;
    for _ in 0..50 {
        test.looks(&token).await.expect_ok();
    }

    let mut statuses = Vec::new();
    for n in 0..21 {
        statuses.push(test.looks(&format!("guess{n}")).await.status);
    }

    assert!(statuses[..20].iter().all(|status| *status == 404));
    assert_eq!(statuses[20], 429);
    test.looks(&token).await.expect_ok();
}
