//! Tests that clients are sent the profile fields of others that they ask for (MSC4429).

use serde_json::{Value, json};

use crate::{
    chat::{filter_query, next_batch},
    harness::{HttpAnswer, Server, User},
};

/// Two users in a room together.
struct SharedProfiles {
    server: Server,
    alice: User,
    bob: User,
    room: String,
}

impl SharedProfiles {
    async fn new() -> Self {
        let server = Server::start().await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = alice.creates_open_room().await;
        bob.joins(&room).await;
        Self {
            server,
            alice,
            bob,
            room,
        }
    }
}

/// Returns a filter for the changes of profile fields.
fn field_filter(fields: &[&str]) -> Value {
    json!({ "org.matrix.msc4429.profile_fields": { "ids": fields } })
}

/// Returns the changed profile fields of a user.
fn updates<'a>(sync: &'a Value, user: &User) -> &'a Value {
    &sync["org.matrix.msc4429.users"][&user.id]["profile_updates"]
}

impl User {
    async fn sets_profile_field(&self, field: &str, value: Value) {
        let path = format!("/_matrix/client/v3/profile/{}/{field}", self.id);
        let set = self.client.put(&path, json!({ field: value })).await;
        set.expect_ok();
    }

    async fn removes_profile_field(&self, field: &str) {
        let path = format!("/_matrix/client/v3/profile/{}/{field}", self.id);
        self.client.delete(&path).await.expect_ok();
    }

    /// Syncs with a filter for profile fields.
    async fn syncs_fields(&self, fields: &[&str], since: Option<&Value>) -> Value {
        let since = since.map(|sync| format!("&since={}", next_batch(sync)));
        let filter = filter_query(&field_filter(fields));
        let query = format!("{filter}{}", since.unwrap_or_default());
        self.syncs_with(&query).await
    }

    async fn stores_filter(&self, filter: Value) -> HttpAnswer {
        let path = format!("/_matrix/client/v3/user/{}/filter", self.id);
        self.client.post(&path, filter).await
    }
}

#[tokio::test]
async fn an_initial_sync_has_the_requested_profile_fields() {
    let test = SharedProfiles::new().await;
    let (alice, bob) = (&test.alice, &test.bob);
    let stranger = test.server.register("stranger").await;
    let status = json!({ "text": "busy", "emoji": "🛑" });
    bob.sets_profile_field("m.status", status.clone()).await;
    bob.sets_profile_field("displayname", json!("Bob")).await;
    alice.sets_profile_field("m.status", json!("own")).await;
    stranger.sets_profile_field("m.status", json!("far")).await;

    let sync = alice.syncs_fields(&["m.status", "m.unset"], None).await;

    assert_eq!(updates(&sync, bob), &json!({ "m.status": status }));
    assert_eq!(updates(&sync, alice), &json!({ "m.status": "own" }));
    assert_eq!(updates(&sync, &stranger), &Value::Null);
    let without = alice.syncs().await;
    assert_eq!(without["org.matrix.msc4429.users"], Value::Null);
}

#[tokio::test]
async fn an_incremental_sync_has_the_latest_changes() {
    let test = SharedProfiles::new().await;
    let (alice, bob) = (&test.alice, &test.bob);
    let stranger = test.server.register("stranger").await;
    bob.sets_profile_field("m.tz", json!("Europe/Berlin")).await;
    let fields = &["m.status", "m.tz"];
    let first = alice.syncs_fields(fields, None).await;

    bob.sets_profile_field("m.status", json!("first")).await;
    bob.sets_profile_field("m.status", json!("second")).await;
    bob.sets_profile_field("m.call", json!({})).await;
    stranger.sets_profile_field("m.status", json!("far")).await;
    let second = alice.syncs_fields(fields, Some(&first)).await;
    bob.removes_profile_field("m.status").await;
    let third = alice.syncs_fields(fields, Some(&second)).await;
    let fourth = alice.syncs_fields(fields, Some(&third)).await;

    let users = &second["org.matrix.msc4429.users"];
    let expected = json!({ &bob.id: { "profile_updates": { "m.status": "second" } } });
    assert_eq!(users, &expected);
    assert_eq!(updates(&third, bob), &json!({ "m.status": null }));
    assert_eq!(fourth["org.matrix.msc4429.users"], Value::Null);
    let all = alice.syncs_fields(fields, Some(&first)).await;
    assert_eq!(updates(&all, bob), &json!({ "m.status": null }));
}

#[tokio::test]
async fn a_waiting_client_is_sent_a_changed_profile_field() {
    let test = SharedProfiles::new().await;
    let (alice, bob) = (&test.alice, &test.bob);
    let first = alice.syncs_fields(&["m.status"], None).await;
    let query = format!(
        "{}&since={}&timeout=30000",
        filter_query(&field_filter(&["m.status"])),
        next_batch(&first)
    );

    let (sync, ()) = tokio::join!(
        alice.syncs_with(&query),
        bob.sets_profile_field("m.status", json!("away")),
    );

    assert_eq!(updates(&sync, bob), &json!({ "m.status": "away" }));
}

#[tokio::test]
async fn the_fields_of_a_new_member_are_sent() {
    let test = SharedProfiles::new().await;
    let alice = &test.alice;
    let carol = test.server.register("carol").await;
    carol.sets_profile_field("m.status", json!("new")).await;
    let first = alice.syncs_fields(&["m.status"], None).await;

    carol.joins(&test.room).await;
    let second = alice.syncs_fields(&["m.status"], Some(&first)).await;

    assert_eq!(updates(&second, &carol), &json!({ "m.status": "new" }));
}

#[tokio::test]
async fn a_stored_filter_keeps_its_profile_fields() {
    let test = SharedProfiles::new().await;
    let (alice, bob) = (&test.alice, &test.bob);
    bob.sets_profile_field("m.status", json!("busy")).await;
    let filter = field_filter(&["m.status"]);

    let stored = alice.stores_filter(filter.clone()).await.expect_ok();
    let id = stored["filter_id"].as_str().expect("an id");
    let sync = alice.syncs_with(&format!("filter={id}")).await;

    assert_eq!(updates(&sync, bob), &json!({ "m.status": "busy" }));
    let path = format!("/_matrix/client/v3/user/{}/filter/{id}", alice.id);
    assert_eq!(alice.client.get(&path).await.expect_ok(), filter);
    let wrong = alice.stores_filter(json!({ "org.matrix.msc4429.profile_fields": 1 }));
    wrong.await.expect_error(400, "M_INVALID_PARAM");
    let many = vec!["x"; 101];
    let many = alice.stores_filter(field_filter(&many)).await;
    many.expect_error(400, "M_INVALID_PARAM");
}
