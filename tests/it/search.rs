//! Tests the search for messages.

use serde_json::{Value, json};

use crate::{
    chat::{message_bodies, percent_encoded},
    harness::{HttpAnswer, Server, User},
};

impl User {
    async fn tries_to_search(&self, criteria: Value, query: &str) -> HttpAnswer {
        let body = json!({ "search_categories": { "room_events": criteria } });
        let path = format!("/_matrix/client/v3/search{query}");
        self.client.post(&path, body).await
    }

    async fn searches_events(&self, criteria: Value) -> Value {
        let found = self.tries_to_search(criteria, "").await.expect_ok();
        found["search_categories"]["room_events"].clone()
    }

    async fn finds_bodies(&self, term: &str) -> Vec<String> {
        let term = json!({ "search_term": term, "order_by": "recent" });
        result_bodies(&self.searches_events(term).await)
    }
}

/// Returns the message bodies of search results.
fn result_bodies(found: &Value) -> Vec<String> {
    let results = found["results"].as_array().expect("a list of results");
    let bodies = results
        .iter()
        .map(|result| result["result"]["content"]["body"].as_str());
    bodies.flatten().map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn messages_are_found_by_all_words_in_any_order() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    for text in [
        "The quick brown FOX",
        "foxes are quick",
        "Größe zählt nicht",
        "咖啡很好喝",
        "100% sure_thing\\",
        "a b",
    ] {
        alice.says(&room, text).await;
    }

    assert_eq!(
        alice.finds_bodies("quick fox").await,
        ["foxes are quick", "The quick brown FOX"]
    );
    assert_eq!(
        alice.finds_bodies("GRÖSSE größe").await,
        Vec::<String>::new()
    );
    assert_eq!(alice.finds_bodies("ZÄHLT").await, ["Größe zählt nicht"]);
    assert_eq!(alice.finds_bodies("啡很").await, ["咖啡很好喝"]);
    assert_eq!(alice.finds_bodies("0% sure_").await, ["100% sure_thing\\"]);
    assert_eq!(alice.finds_bodies("sureXthing").await, Vec::<String>::new());
    assert_eq!(alice.finds_bodies("thing\\").await, ["100% sure_thing\\"]);
    assert_eq!(
        alice.finds_bodies("b").await,
        ["a b", "The quick brown FOX"]
    );
    assert_eq!(alice.finds_bodies(" ").await, Vec::<String>::new());
}

#[tokio::test]
async fn names_and_topics_are_searched_by_their_keys() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice
        .creates(json!({ "name": "Gardening", "topic": "gardening tools" }))
        .await;
    alice.says(&room, "I like gardening").await;
    let types = |found: &Value| {
        let results = found["results"]
            .as_array()
            .expect("a list of results")
            .clone();
        let kinds = results
            .into_iter()
            .map(|result| result["result"]["type"].clone());
        kinds.collect::<Vec<_>>()
    };
    let search =
        |keys: Value| json!({ "search_term": "garden", "order_by": "recent", "keys": keys });

    let everywhere = alice
        .searches_events(json!({ "search_term": "garden" }))
        .await;
    let names = alice.searches_events(search(json!(["content.name"]))).await;
    let others = search(json!(["content.topic", "content.body"]));
    let others = alice.searches_events(others).await;
    let unknown = alice.tries_to_search(search(json!(["x"])), "").await;

    assert_eq!(everywhere["count"], 3);
    assert_eq!(types(&names), ["m.room.name"]);
    assert_eq!(types(&others), ["m.room.message", "m.room.topic"]);
    unknown.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn results_are_paginated() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    for n in 0..5 {
        alice.says(&room, &format!("message {n}")).await;
    }
    let criteria = json!({
        "search_term": "message", "order_by": "recent", "filter": { "limit": 3 },
    });

    let first = alice.searches_events(criteria.clone()).await;
    alice.says(&room, "another message").await;
    let token = percent_encoded(first["next_batch"].as_str().expect("a token"));
    let second = alice
        .tries_to_search(criteria.clone(), &format!("?next_batch={token}"))
        .await
        .expect_ok();
    let bad = alice.tries_to_search(criteria, "?next_batch=x").await;

    let second = &second["search_categories"]["room_events"];
    assert_eq!(first["count"], 5);
    assert_eq!(
        result_bodies(&first),
        ["message 4", "message 3", "message 2"]
    );
    assert_eq!(second["count"], 5);
    assert_eq!(result_bodies(second), ["message 1", "message 0"]);
    assert_eq!(second["next_batch"], Value::Null);
    bad.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn redacted_text_is_not_found_and_edited_text_is() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let early = alice.says(&room, "secret one").await;
    alice.finds_bodies("secret").await;
    let late = alice.says(&room, "secret two").await;
    let message = alice.says(&room, "public").await;
    let edit = json!({
        "msgtype": "m.text", "body": "* open",
        "m.new_content": { "msgtype": "m.text", "body": "open" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": message },
    });
    let edit = alice.tries_to_send(&room, "m.room.message", edit).await;
    let edit = edit.expect_ok()["event_id"].clone();

    alice.redacts(&room, &early).await;
    alice.redacts(&room, &late).await;

    assert_eq!(alice.finds_bodies("secret").await, Vec::<String>::new());
    let edited = alice
        .searches_events(json!({ "search_term": "open" }))
        .await;
    assert_eq!(edited["results"][0]["result"]["event_id"], edit);
    assert_eq!(alice.finds_bodies("*").await, Vec::<String>::new());
    let original = alice
        .searches_events(json!({ "search_term": "public" }))
        .await;
    let relations = &original["results"][0]["result"]["unsigned"]["m.relations"];
    assert_eq!(relations["m.replace"]["event_id"], edit);
}

#[tokio::test]
async fn a_search_finds_only_visible_messages() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let eve = server.register("eve").await;
    let room = alice.creates_room_with_history("joined").await;
    alice.says(&room, "word before").await;
    bob.joins(&room).await;
    alice.says(&room, "word during").await;
    bob.leaves(&room).await;
    alice.says(&room, "word after").await;
    let other = alice.creates(json!({})).await;
    alice.says(&other, "word elsewhere").await;

    let of_left = bob.finds_bodies("word").await;
    bob.forgets(&room).await;
    let of_forgotten = bob.finds_bodies("word").await;

    assert_eq!(of_left, ["word during"]);
    assert_eq!(of_forgotten, Vec::<String>::new());
    assert_eq!(eve.finds_bodies("word").await, Vec::<String>::new());
    assert_eq!(alice.finds_bodies("word").await.len(), 4);
    let search = json!({ "search_categories": {} });
    let path = "/_matrix/client/v3/search";
    let nobody = server.post(path, search).await;
    nobody.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn messages_of_ignored_users_are_not_found_but_their_state_is() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = bob
        .creates(json!({ "preset": "public_chat", "topic": "word of the day" }))
        .await;
    alice.joins(&room).await;
    alice.says(&room, "word of alice").await;
    bob.says(&room, "word of bob").await;
    let path = format!("/_matrix/client/v3/user/{}/account_data", alice.id);
    let path = format!("{path}/m.ignored_user_list");
    let bob_alone: Value = [(bob.id.clone(), json!({}))].into_iter().collect();
    let ignored = json!({ "ignored_users": bob_alone });
    alice.client.put(&path, ignored).await.expect_ok();

    let found = alice
        .searches_events(json!({ "search_term": "word" }))
        .await;

    assert_eq!(found["count"], 2);
    assert_eq!(result_bodies(&found), ["word of alice"]);
    assert_eq!(
        bob.finds_bodies("word").await,
        ["word of bob", "word of alice"]
    );
}

#[tokio::test]
async fn a_filter_selects_rooms_senders_and_types() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    let other = alice.creates_open_room().await;
    bob.joins(&room).await;
    alice.says(&room, "word of alice").await;
    bob.says(&room, "word of bob").await;
    alice.says(&other, "word elsewhere").await;
    let search =
        |filter: Value| json!({ "search_term": "word", "order_by": "recent", "filter": filter });

    let in_room = alice
        .searches_events(search(json!({ "rooms": [room] })))
        .await;
    let not_in_room = alice
        .searches_events(search(json!({ "not_rooms": [room] })))
        .await;
    let of_bob = alice
        .searches_events(search(json!({ "senders": [bob.id] })))
        .await;
    let stickers = alice
        .searches_events(search(json!({ "types": ["m.sticker"] })))
        .await;

    assert_eq!(result_bodies(&in_room), ["word of bob", "word of alice"]);
    assert_eq!(result_bodies(&not_in_room), ["word elsewhere"]);
    assert_eq!(result_bodies(&of_bob), ["word of bob"]);
    assert_eq!(stickers["results"], json!([]));
}

#[tokio::test]
async fn results_have_rank_context_groups_and_state() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let name = format!("/_matrix/client/v3/profile/{}/displayname", alice.id);
    let profile = json!({ "displayname": "Alice" });
    alice.client.put(&name, profile).await.expect_ok();
    let room = alice.creates_open_room().await;
    for text in ["one", "two", "cake", "a lot of talk about cake", "three"] {
        alice.says(&room, text).await;
    }
    let criteria = json!({
        "search_term": "Cake", "include_state": true,
        "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
        "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
    });

    let found = alice.searches_events(criteria).await;

    let first = &found["results"][0];
    assert_eq!(result_bodies(&found), ["cake", "a lot of talk about cake"]);
    assert!(first["rank"].as_f64() > found["results"][1]["rank"].as_f64());
    assert_eq!(found["highlights"], json!(["cake"]));
    assert_eq!(first["result"]["room_id"], room);
    let context = &first["context"];
    assert_eq!(message_bodies(&context["events_before"]), ["two"]);
    assert_eq!(
        message_bodies(&context["events_after"]),
        ["a lot of talk about cake"]
    );
    assert_eq!(
        context["profile_info"][&alice.id],
        json!({ "displayname": "Alice" })
    );
    let start = context["start"].as_str().expect("a token");
    let before = alice
        .messages(&room, &format!("dir=b&limit=1&from={start}"))
        .await;
    assert_eq!(message_bodies(&before["chunk"]), ["one"]);
    let groups = &found["groups"];
    assert_eq!(
        groups["room_id"][&room]["results"]
            .as_array()
            .expect("a list of IDs")
            .len(),
        2
    );
    assert_eq!(groups["sender"][&alice.id]["order"], 0);
    assert!(found["state"][&room].is_array());
    let plain = alice
        .searches_events(json!({ "search_term": "cake" }))
        .await;
    assert_eq!(plain["results"][0]["context"], Value::Null);
}

#[tokio::test]
async fn a_long_word_is_found_and_a_longer_term_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let word = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft";
    alice.says(&room, word).await;
    alice.says(&room, &word[..40]).await;

    assert_eq!(alice.finds_bodies(word).await, [word]);
    let long = json!({ "search_term": "x".repeat(1_001) });
    let refused = alice.tries_to_search(long, "").await;
    refused.expect_error(400, "M_INVALID_PARAM");
}
