//! Tests server notices.

use parlour::config::Localpart;
use serde_json::{Value, json};

use crate::harness::{Answer, Server, User};

const SEND: &str = "/_synapse/admin/v1/send_server_notice";

async fn server() -> Server {
    Server::with(|config| config.server_notices.localpart = Localpart::parse("notices")).await
}

fn notice(user: &User) -> Value {
    json!({ "user_id": user.id, "content": { "msgtype": "m.text", "body": "maintenance" } })
}

async fn invited_to(user: &User) -> String {
    let sync = user.syncs().await;
    let invitations = sync["rooms"]["invite"].as_object().expect("an invitation");
    invitations.keys().next().expect("an invitation").clone()
}

#[tokio::test]
async fn a_user_reads_notices_in_a_room_of_their_own() {
    let server = server().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    let sent = admin.client.post(SEND, notice(&alice)).await.expect_ok();

    let room = invited_to(&alice).await;
    let declined = alice.tries(&room, "leave", json!({})).await;
    declined.expect_error(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
    alice.joins(&room).await;
    let event = sent["event_id"].as_str().expect("an ID");
    let event = alice.asks(&room, &format!("event/{event}")).await;
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
    admin.client.post(SEND, notice(&alice)).await.expect_ok();
    assert_eq!(invited_to(&alice).await, room);
}

#[tokio::test]
async fn a_notice_that_is_sent_again_is_one_notice() {
    let server = server().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let send = async || -> Answer {
        let path = format!("{SEND}/one");
        admin.client.put(&path, notice(&alice)).await
    };

    let first = send().await.expect_ok();
    let second = send().await.expect_ok();

    assert_eq!(first, second);
}

#[tokio::test]
async fn only_administrators_send_notices_and_nobody_takes_the_name() {
    let server = server().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    let refused = alice.client.post(SEND, json!({})).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let nobody = json!({ "user_id": "@nobody:localhost", "content": {} });
    let nobody = admin.client.post(SEND, nobody).await;
    nobody.expect_error(404, "M_NOT_FOUND");
    let auth = json!({ "type": "m.login.dummy" });
    let body = json!({ "username": "notices", "password": "password", "auth": auth });
    let taken = server.post("/_matrix/client/v3/register", body).await;
    taken.expect_error(400, "M_USER_IN_USE");
}

#[tokio::test]
async fn without_a_sender_there_are_no_notices() {
    let server = Server::start().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;

    let refused = admin.client.post(SEND, notice(&alice)).await;

    refused.expect_error(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn a_notice_that_is_too_large_is_refused() {
    let server = server().await;
    let admin = server.register_admin("admin").await;
    let alice = server.register("alice").await;
    let mut notice = notice(&alice);
    notice["content"]["body"] = "x".repeat(3 * 1024 * 1024).into();

    let refused = admin.client.post(SEND, notice).await;

    refused.expect_error(413, "M_TOO_LARGE");
}
