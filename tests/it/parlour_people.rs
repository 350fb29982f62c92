//! Tests the list of this server's users that the chat page shows.

use std::time::Duration;

use parlour::{clock::Clock, config::Localpart};
use serde_json::{Value, json};

use crate::{
    chat::{percent_encoded, texts_at},
    harness::{HttpAnswer, Server, User},
};

const START_MS: u64 = 1_700_000_000_000;

async fn try_list_people(user: &User, query: &str) -> HttpAnswer {
    let path = format!("/_parlour/client/v1/users?{query}");
    user.client.get(&path).await
}

async fn list_people(user: &User, query: &str) -> Value {
    try_list_people(user, query).await.expect_ok()
}

fn user_ids(page: &Value) -> Vec<&str> {
    texts_at(&page["users"], "/user_id")
}

async fn set_display_name(user: &User, name: &str) {
    let path = format!("/_matrix/client/v3/profile/{}/displayname", user.id);
    let named = user.client.put(&path, json!({ "displayname": name }));
    named.await.expect_ok();
}

fn find_person<'a>(page: &'a Value, user: &User) -> &'a Value {
    let users = page["users"].as_array().expect("a list");
    let found = users.iter().find(|shown| shown["user_id"] == user.id);
    found.expect("the user is listed")
}

#[tokio::test]
async fn people_are_listed_by_name_and_then_by_id() {
    let server = Server::with_config(|config| {
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
    set_display_name(&carl, "Anna").await;
    set_display_name(&bert, "ANNA").await;
    set_display_name(&dora, "Öder").await;
    server.register_guest().await;
    let notice = json!({ "user_id": dora.id, "content": { "msgtype": "m.text", "body": "!" } });
    let path = "/_synapse/admin/v1/send_server_notice";
    admin.client.post(path, notice).await.expect_ok();
    let auth = json!({ "auth": crate::harness::password_of("gone") });
    let path = "/_matrix/client/v3/account/deactivate";
    gone.client.post(path, auth).await.expect_ok();

    let page = list_people(&dora, "").await;

    assert_eq!(user_ids(&page), [&bert.id, &carl.id, &admin.id, &dora.id]);
    assert_eq!(page["total"], 4);
    assert_eq!(page["next_batch"], Value::Null);
    assert_eq!(find_person(&page, &carl)["displayname"], "Anna");
    assert_eq!(find_person(&page, &admin)["displayname"], Value::Null);
    assert_eq!(find_person(&page, &admin)["avatar_url"], Value::Null);
}

#[tokio::test]
async fn a_search_finds_parts_of_names_and_ids_in_any_case() {
    let server = Server::start().await;
    let [alice, bob] = [server.register("alice").await, server.register("bob").await];
    set_display_name(&bob, "Ängström 100%").await;

    for (term, found) in [
        ("LIC", vec![&alice.id]),
        ("äNGstr", vec![&bob.id]),
        ("100%", vec![&bob.id]),
        ("%", vec![&bob.id]),
        ("_", vec![]),
        ("@b", vec![&bob.id]),
        (":localhost", vec![&alice.id, &bob.id]),
    ] {
        let page = list_people(&alice, &format!("search={}", percent_encoded(term))).await;
        assert_eq!(user_ids(&page), found, "{term}");
        assert_eq!(page["total"], found.len());
    }
    let long = try_list_people(&alice, &format!("search={}", "x".repeat(256))).await;
    long.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn pages_cover_all_people_in_order() {
    let server = Server::start().await;
    let mut users = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        users.push(server.register(name).await);
    }
    let (mut found, mut from) = (Vec::new(), String::new());

    loop {
        let page = list_people(&users[0], &format!("limit=2{from}")).await;
        assert_eq!(page["total"], 5);
        found.extend(user_ids(&page).into_iter().map(ToOwned::to_owned));
        let Some(next) = page["next_batch"].as_str() else {
            break;
        };
        from = format!("&from={}", percent_encoded(next));
    }

    let all: Vec<&String> = users.iter().map(|user| &user.id).collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), all);
    for wrong in ["from=%25", "limit=many", "limit=-1"] {
        let refused = try_list_people(&users[0], wrong).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
}

#[tokio::test]
async fn the_list_shows_presence_and_last_activity() {
    let clock = Clock::manual(START_MS);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let [alice, bob] = [server.register("alice").await, server.register("bob").await];
    clock.advance(Duration::from_hours(1));
    bob.syncs().await;
    let path = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    let status = json!({ "presence": "online", "status_msg": "tea" });
    bob.client.put(&path, status).await.expect_ok();

    let page = list_people(&alice, "").await;
    let shown = find_person(&page, &bob);
    assert_eq!(shown["presence"], "online");
    assert_eq!(shown["status_msg"], "tea");
    assert_eq!(shown["last_active_ts"], START_MS + 3_600_000);
    assert_eq!(find_person(&page, &alice)["presence"], "offline");
    assert_eq!(find_person(&page, &alice)["status_msg"], Value::Null);
}

#[tokio::test]
async fn last_activity_survives_a_restart_and_a_logout() {
    let clock = Clock::manual(START_MS);
    let server = Server::with_clock(clock.clone(), |_| {}).await;
    let [alice, bob] = [server.register("alice").await, server.register("bob").await];
    let logged_out = bob.client.post("/_matrix/client/v3/logout", json!({}));
    logged_out.await.expect_ok();
    clock.advance(Duration::from_hours(1));

    let server = server.restart().await;
    let alice = alice.on_server(&server);

    let page = list_people(&alice, "").await;
    assert_eq!(find_person(&page, &bob)["presence"], "offline");
    assert_eq!(find_person(&page, &bob)["last_active_ts"], START_MS);
    assert!(find_person(&page, &alice)["last_active_ts"].is_u64());
}

#[tokio::test]
async fn the_list_can_be_limited_to_users_with_shared_rooms() {
    let server = Server::with_config(|config| config.directory.all_users_listed = false).await;
    let [alice, bob, carol] = [
        server.register("alice").await,
        server.register("bob").await,
        server.register("carol").await,
    ];
    assert_eq!(user_ids(&list_people(&alice, "").await), [&alice.id]);

    let room = alice.creates(json!({ "invite": [bob.id] })).await;
    bob.joins(&room).await;

    assert_eq!(
        user_ids(&list_people(&alice, "").await),
        [&alice.id, &bob.id]
    );
    assert_eq!(list_people(&alice, "").await["total"], 2);
    assert_eq!(user_ids(&list_people(&carol, "").await), [&carol.id]);
}

#[tokio::test]
async fn strangers_and_guests_cannot_list_people() {
    let server = Server::with_config(|config| config.registration.guests = true).await;
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
