//! Administrators can suspend an account, lock it, and see its sessions.

use serde_json::json;

use crate::{
    chat::room_path,
    harness::{Server, User, password_of},
};

const ADMIN_API_PATH: &str = "/_matrix/client/v1/admin";

async fn restrict(admin: &User, what: &str, user: &User, is_on: bool) {
    let key = format!("{what}ed");
    let path = format!("{ADMIN_API_PATH}/{what}/{}", user.id);
    let set = admin.client.put(&path, json!({ &key: is_on })).await;
    assert_eq!(set.expect_ok(), json!({ &key: is_on }));
    let read = admin.client.get(&path).await;
    assert_eq!(read.expect_ok(), json!({ &key: is_on }));
}

#[tokio::test]
async fn a_locked_user_can_only_log_out() {
    let server = Server::start().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    restrict(&admin, "lock", &alice, true).await;

    let sync = alice.client.get("/_matrix/client/v3/sync").await;
    let body = sync.expect_error(401, "M_USER_LOCKED");
    assert_eq!(body["soft_logout"], true);
    let login = server.post("/_matrix/client/v3/login", password_of("alice"));
    login.await.expect_error(401, "M_USER_LOCKED");
    restrict(&admin, "lock", &alice, false).await;
    alice.syncs().await;
    restrict(&admin, "lock", &alice, true).await;
    let logout = alice.client.post("/_matrix/client/v3/logout", json!({}));
    logout.await.expect_ok();
}

#[tokio::test]
async fn a_suspended_user_can_only_read_leave_and_redact() {
    let server = Server::start().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let of_alice = alice.says(&room, "one").await;
    let of_bob = bob.says(&room, "two").await;

    restrict(&admin, "suspend", &alice, true).await;

    let text = json!({ "msgtype": "m.text", "body": "three" });
    let sent = alice.tries_to_send(&room, "m.room.message", text).await;
    sent.expect_error(403, "M_USER_SUSPENDED");
    let created = alice.tries_to_create(json!({})).await;
    created.expect_error(403, "M_USER_SUSPENDED");
    let invited = alice.posts_in_room(&room, "invite", json!({ "user_id": admin.id }));
    invited.await.expect_error(403, "M_USER_SUSPENDED");
    let name = format!("/_matrix/client/v3/profile/{}/displayname", alice.id);
    let named = alice.client.put(&name, json!({ "displayname": "A" })).await;
    named.expect_error(403, "M_USER_SUSPENDED");
    let redacted = alice.tries_to_redact(&room, &of_bob).await;
    redacted.expect_error(403, "M_USER_SUSPENDED");
    alice.redacts(&room, &of_alice).await;
    alice.syncs().await;
    alice.leaves(&room).await;
    let joined = alice.posts_in_room(&room, "join", json!({})).await;
    joined.expect_error(403, "M_USER_SUSPENDED");
    restrict(&admin, "suspend", &alice, false).await;
    alice.joins(&room).await;
}

#[tokio::test]
async fn suspension_cancels_and_refuses_delayed_events() {
    let server = Server::start().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let text = json!({ "msgtype": "m.text", "body": "later" });
    let delayed = "?org.matrix.msc4140.delay=60000";
    let path = room_path(&room, &format!("send/m.room.message/one{delayed}"));
    alice.client.put(&path, text.clone()).await.expect_ok();

    restrict(&admin, "suspend", &alice, true).await;

    let unstable = "/_matrix/client/unstable/org.matrix.msc4140";
    let scheduled = alice
        .client
        .get(&format!("{unstable}/delayed_events"))
        .await;
    assert_eq!(scheduled.expect_ok()["delayed_events"], json!([]));
    let path = room_path(&room, &format!("send/m.room.message/two{delayed}"));
    let again = alice.client.put(&path, text.clone()).await;
    again.expect_error(403, "M_USER_SUSPENDED");
    let path = format!("{unstable}/rooms/{room}/delayed_event/m.room.message/three");
    let body = json!({ "delay_ms": 1, "content": text });
    let again = alice.client.put(&path, body).await;
    again.expect_error(403, "M_USER_SUSPENDED");
}

#[tokio::test]
async fn only_administrators_can_restrict_other_users() {
    let server = Server::start().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    for what in ["lock", "suspend"] {
        let at = |user: &str| format!("{ADMIN_API_PATH}/{what}/{user}");
        // A user who is not an administrator cannot even find out which accounts exist.
        for user in [alice.id.as_str(), "@nobody:localhost", "@a:elsewhere.org"] {
            let asked = alice.client.get(&at(user)).await;
            asked.expect_error(403, "M_FORBIDDEN");
        }
        let nobody = admin.client.get(&at("@nobody:localhost")).await;
        nobody.expect_error(404, "M_NOT_FOUND");
        let elsewhere = admin.client.get(&at("@a:elsewhere.org")).await;
        elsewhere.expect_error(400, "M_INVALID_PARAM");
        let body = json!({ "locked": true, "suspended": true });
        let oneself = admin.client.put(&at(&admin.id), body).await;
        oneself.expect_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn only_the_user_and_administrators_can_use_whois() {
    let server = Server::start().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let path = format!("/_matrix/client/v3/admin/whois/{}", alice.id);

    for asker in [&alice, &admin] {
        let found = asker.client.get(&path).await.expect_ok();
        assert_eq!(found["user_id"], alice.id);
        let session = &found["devices"][&alice.device_id]["sessions"][0];
        assert!(session["connections"][0]["last_seen"].is_u64(), "{found}");
    }
    let refused = bob.client.get(&path).await;
    refused.expect_error(403, "M_FORBIDDEN");
}
