//! Tests server notices.

use parlour::config::Localpart;
use serde_json::{Value, json};

use crate::harness::{HttpAnswer, Server, User};

const SEND_NOTICE_PATH: &str = "/_synapse/admin/v1/send_server_notice";

async fn server_with_notices() -> Server {
    Server::with_config(|config| config.server_notices.localpart = Localpart::parse("notices"))
        .await
}

fn notice_body(user: &User) -> Value {
    json!({ "user_id": user.id, "content": { "msgtype": "m.text", "body": "maintenance" } })
}

async fn invited_room(user: &User) -> String {
    let sync = user.syncs().await;
    let invitations = sync["rooms"]["invite"].as_object().expect("an invitation");
    invitations.keys().next().expect("an invitation").clone()
}

#[tokio::test]
async fn notices_are_sent_to_a_separate_room_per_user() {
    let server = server_with_notices().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    let sent = admin
        .client
        .post(SEND_NOTICE_PATH, notice_body(&alice))
        .await
        .expect_ok();

    let room = invited_room(&alice).await;
    let declined = alice.posts_in_room(&room, "leave", json!({})).await;
    declined.expect_error(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
    alice.joins(&room).await;
    let event = sent["event_id"].as_str().expect("an ID");
    let event = alice.gets_in_room(&room, &format!("event/{event}")).await;
    let event = event.expect_ok();
    assert_eq!(event["sender"], "@notices:localhost");
    assert_eq!(event["content"]["body"], "maintenance");
    let tags = format!("/_matrix/client/v3/user/{}/rooms/{room}/tags", alice.id);
    let tags = alice.client.get(&tags).await.expect_ok();
    assert!(tags["tags"]["m.server_notice"].is_object(), "{tags}");
    let answer = json!({ "msgtype": "m.text", "body": "no" });
    let answer = alice.tries_to_send(&room, "m.room.message", answer).await;
    answer.expect_error(403, "M_FORBIDDEN");
    // The next notice invites a user who left to the same room again.
    alice.leaves(&room).await;
    admin
        .client
        .post(SEND_NOTICE_PATH, notice_body(&alice))
        .await
        .expect_ok();
    assert_eq!(invited_room(&alice).await, room);
}

#[tokio::test]
async fn a_retried_notice_is_sent_once() {
    let server = server_with_notices().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let send = async || -> HttpAnswer {
        let path = format!("{SEND_NOTICE_PATH}/one");
        admin.client.put(&path, notice_body(&alice)).await
    };

    let first = send().await.expect_ok();
    let second = send().await.expect_ok();

    assert_eq!(first, second);
}

#[tokio::test]
async fn only_administrators_send_notices_under_a_reserved_name() {
    let server = server_with_notices().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    let refused = alice.client.post(SEND_NOTICE_PATH, json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let nobody = json!({ "user_id": "@nobody:localhost", "content": {} });
    let nobody = admin.client.post(SEND_NOTICE_PATH, nobody).await;
    nobody.expect_error(404, "M_NOT_FOUND");
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({ "username": "notices", "password": "password", "auth": auth });
    let taken = server.post("/_matrix/client/v3/register", body).await;
    taken.expect_error(400, "M_USER_IN_USE");
}

#[tokio::test]
async fn notices_require_a_configured_sender() {
    let server = Server::start().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    let refused = admin
        .client
        .post(SEND_NOTICE_PATH, notice_body(&alice))
        .await;

    refused.expect_error(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn an_oversized_notice_is_refused() {
    let server = server_with_notices().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let mut notice = notice_body(&alice);
    notice["content"]["body"] = "x".repeat(3 * 1024 * 1024).into();

    let refused = admin.client.post(SEND_NOTICE_PATH, notice).await;

    refused.expect_error(413, "M_TOO_LARGE");
}
