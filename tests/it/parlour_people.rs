//! Tests the list of this server's users that the chat page shows.

use std::time::Duration;

use parlour::{clock::Clock, config::Localpart};
use serde_json::{Value, json};

use crate::{
    chat::{each, encoded},
    harness::{Answer, Server, User},
};

const START: u64 = 1_700_000_000_000;

async fn asks(user: &User, query: &str) -> Answer {
    let path = format!("/_parlour/client/v1/users?{query}");
    user.client.get(&path).await
}

async fn lists(user: &User, query: &str) -> Value {
    asks(user, query).await.expect_ok()
}

fn ids(page: &Value) -> Vec<&str> {
    each(&page["users"], "/user_id")
}

async fn is_called(user: &User, name: &str) {
    let path = format!("/_matrix/client/v3/profile/{}/displayname", user.id);
    let named = user.client.put(&path, json!({ "displayname": name }));
    named.await.expect_ok();
}

fn person<'a>(page: &'a Value, user: &User) -> &'a Value {
    let users = page["users"].as_array().expect("a list");
    let found = users.iter().find(|shown| shown["user_id"] == user.id);
    found.expect("the user is listed")
}

#[tokio::test]
async fn everybody_is_listed_by_name_and_then_by_id() {
    let server = Server::with(|config| {
        config.registration.guests = true;
        config.server_notices.localpart = Localpart::parse("notices");
    })
    .await;
    let admin = server.register_admin("root").await;
    let [dora, carl, bert, gone] = [
        server.register("dora").await,
        server.register("carl").await,
        server.register("bert").await,
        server.register("gone").await,
    ];
    is_called(&carl, "Anna").await;
    is_called(&bert, "ANNA").await;
    is_called(&dora, "Öder").await;
    server.register_guest().await;
    let notice = json!({ "user_id": dora.id, "content": { "msgtype": "m.text", "body": "!" } });
    let path = "/_synapse/admin/v1/send_server_notice";
    admin.client.post(path, notice).await.expect_ok();
    let auth = json!({ "auth": crate::harness::password_of("gone") });
    let path = "/_matrix/client/v3/account/deactivate";
    gone.client.post(path, auth).await.expect_ok();

    let page = lists(&dora, "").await;

    assert_eq!(ids(&page), [&bert.id, &carl.id, &admin.id, &dora.id]);
    assert_eq!(page["total"], 4);
    assert_eq!(page["next_batch"], Value::Null);
    assert_eq!(person(&page, &carl)["displayname"], "Anna");
    assert_eq!(person(&page, &admin)["displayname"], Value::Null);
    assert_eq!(person(&page, &admin)["avatar_url"], Value::Null);
}

#[tokio::test]
async fn a_search_finds_parts_of_names_and_ids_in_any_case() {
    let server = Server::start().await;
    let [alice, bob] = [server.register("alice").await, server.register("bob").await];
    is_called(&bob, "Ängström 100%").await;

    for (term, found) in [
        ("LIC", vec![&alice.id]),
        ("äNGstr", vec![&bob.id]),
        ("100%", vec![&bob.id]),
        ("%", vec![&bob.id]),
        ("_", vec![]),
        ("@b", vec![&bob.id]),
        (":localhost", vec![&alice.id, &bob.id]),
    ] {
        let page = lists(&alice, &format!("search={}", encoded(term))).await;
        assert_eq!(ids(&page), found, "{term}");
        assert_eq!(page["total"], found.len());
    }
    let long = asks(&alice, &format!("search={}", "x".repeat(256))).await;
    long.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn pages_adjoin() {
    let server = Server::start().await;
    let mut users = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        users.push(server.register(name).await);
    }
    let (mut found, mut from) = (Vec::new(), String::new());

    loop {
        let page = lists(&users[0], &format!("limit=2{from}")).await;
        assert_eq!(page["total"], 5);
        found.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        let Some(next) = page["next_batch"].as_str() else {
            break;
        };
        from = format!("&from={}", encoded(next));
    }

    let all: Vec<&String> = users.iter().map(|user| &user.id).collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), all);
    for wrong in ["from=%25", "limit=many", "limit=-1"] {
        let refused = asks(&users[0], wrong).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn who_is_there_is_told_and_when_somebody_last_was() {
    let clock = Clock::manual(START);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let [alice, bob] = [server.register("alice").await, server.register("bob").await];
    clock.advance(Duration::from_hours(1));
    bob.syncs().await;
    let path = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    let status = json!({ "presence": "online", "status_msg": "tea" });
    bob.client.put(&path, status).await.expect_ok();

    let page = lists(&alice, "").await;
    let shown = person(&page, &bob);
    assert_eq!(shown["presence"], "online");
    assert_eq!(shown["status_msg"], "tea");
    assert_eq!(shown["last_active_ts"], START + 3_600_000);
    assert_eq!(person(&page, &alice)["presence"], "offline");
    assert_eq!(person(&page, &alice)["status_msg"], Value::Null);
}

#[tokio::test]
async fn when_somebody_was_last_there_survives_a_restart_and_a_logout() {
    let clock = Clock::manual(START);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let [alice, bob] = [server.register("alice").await, server.register("bob").await];
    let logged_out = bob.client.post("/_matrix/client/v3/logout", json!({}));
    logged_out.await.expect_ok();
    clock.advance(Duration::from_hours(1));

    let server = server.restart().await;
    let alice = alice.at(&server);

    let page = lists(&alice, "").await;
    assert_eq!(person(&page, &bob)["presence"], "offline");
    assert_eq!(person(&page, &bob)["last_active_ts"], START);
    assert!(person(&page, &alice)["last_active_ts"].is_u64());
}

#[tokio::test]
async fn a_server_can_list_only_those_whom_one_could_meet() {
    let server = Server::with(|config| config.directory.all_users_listed = false).await;
    let [alice, bob, carol] = [
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    ];
    assert_eq!(ids(&lists(&alice, "").await), [&alice.id]);

    let room = alice.creates(json!({ "invite": [bob.id] })).await;
    bob.joins(&room).await;

    assert_eq!(ids(&lists(&alice, "").await), [&alice.id, &bob.id]);
    assert_eq!(lists(&alice, "").await["total"], 2);
    assert_eq!(ids(&lists(&carol, "").await), [&carol.id]);
}

#[tokio::test]
async fn strangers_and_guests_see_nobody() {
    let server = Server::with(|config| config.registration.guests = true).await;
    let guest = server.register_guest().await;
    let path = "/_parlour/client/v1/users";

    let unknown = server.get(path).await;
    let refused = guest.client.get(path).await;

    unknown.expect_error(401, "M_MISSING_TOKEN");
    refused.expect_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    let preflight = server
        .client()
        .send(reqwest::Method::OPTIONS, path, "")
        .await;
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
}
