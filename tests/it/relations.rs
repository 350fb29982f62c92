//! Tests relations between events: the endpoint that lists them, and bundled aggregations.

use serde_json::{Value, json};

use crate::{
    chat::{event_ids, timeline},
    harness::{HttpAnswer, Server, User},
};

/// Returns the content of a message that relates to an event.
pub(crate) fn related_content(rel_type: &str, parent: &str, text: &str) -> Value {
    json!({
        "msgtype": "m.text", "body": text,
        "m.relates_to": { "rel_type": rel_type, "event_id": parent },
    })
}

pub(crate) fn edit(parent: &str, text: &str) -> Value {
    let mut content = related_content("m.replace", parent, &format!("* {text}"));
    content["m.new_content"] = json!({ "msgtype": "m.text", "body": text });
    content
}

fn reaction(parent: &str, key: &str) -> Value {
    json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": parent, "key": key } })
}

fn bundled_aggregations(event: &Value) -> &Value {
    &event["unsigned"]["m.relations"]
}

impl User {
    pub(crate) async fn sends_related(&self, room: &str, content: Value) -> String {
        let sent = self.tries_to_send(room, "m.room.message", content).await;
        let sent = sent.expect_ok();
        sent["event_id"].as_str().expect("an ID").to_owned()
    }

    pub(crate) async fn reacts(&self, room: &str, parent: &str, key: &str) -> HttpAnswer {
        self.tries_to_send(room, "m.reaction", reaction(parent, key))
            .await
    }

    async fn relations(&self, room: &str, rest: &str) -> HttpAnswer {
        let path = format!("/_matrix/client/v1/rooms/{room}/relations/{rest}");
        self.client.get(&path).await
    }

    async fn fetch_aggregations(&self, room: &str, event_id: &str) -> Value {
        let event = self.event(room, event_id).await.expect_ok();
        bundled_aggregations(&event).clone()
    }
}

#[tokio::test]
async fn related_events_are_listed_by_relationship_and_type() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let parent = alice.says(&room, "root").await;
    let reply = alice
        .sends_related(&room, related_content("m.thread", &parent, "a"))
        .await;
    let dummy = json!({ "m.relates_to": { "rel_type": "m.thread", "event_id": parent } });
    let dummy = alice
        .tries_to_send(&room, "m.dummy", dummy)
        .await
        .expect_ok();
    let dummy = dummy["event_id"].as_str().expect("an ID");
    let edit = alice.sends_related(&room, edit(&parent, "b")).await;
    alice.says(&room, "something else").await;

    let all = alice.relations(&room, &parent).await.expect_ok();
    let of_thread = format!("{parent}/m.thread");
    let threaded = alice.relations(&room, &of_thread).await.expect_ok();
    let of_messages = format!("{parent}/m.thread/m.room.message");
    let messages = alice.relations(&room, &of_messages).await.expect_ok();
    let unknown = alice.relations(&room, &format!("{parent}/org.x")).await;
    let strange = alice.relations(&room, &format!("{parent}/a%00b")).await;

    assert_eq!(event_ids(&all["chunk"]), [&*edit, dummy, &reply]);
    assert_eq!(all["recursion_depth"], Value::Null);
    assert_eq!(all["chunk"][0]["room_id"], room);
    assert_eq!(event_ids(&threaded["chunk"]), [dummy, &reply]);
    assert_eq!(event_ids(&messages["chunk"]), [&reply]);
    assert_eq!(unknown.expect_ok(), json!({ "chunk": [] }));
    assert_eq!(strange.expect_ok(), json!({ "chunk": [] }));
}

#[tokio::test]
async fn related_events_are_paginated_in_both_directions() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let parent = alice.says(&room, "root").await;
    let mut replies = Vec::new();
    for n in 0..5 {
        let reply = related_content("m.thread", &parent, &n.to_string());
        replies.push(alice.sends_related(&room, reply).await);
    }

    let first = alice.relations(&room, &format!("{parent}?limit=3")).await;
    let first = first.expect_ok();
    let token = first["next_batch"].as_str().expect("a token");
    let second = alice
        .relations(&room, &format!("{parent}?limit=3&from={token}"))
        .await
        .expect_ok();
    let forward = alice
        .relations(&room, &format!("{parent}?limit=2&dir=f&to={token}"))
        .await
        .expect_ok();

    assert_eq!(
        event_ids(&first["chunk"]),
        [&replies[4], &replies[3], &replies[2]]
    );
    assert_eq!(event_ids(&second["chunk"]), [&replies[1], &replies[0]]);
    assert_eq!(second["next_batch"], Value::Null);
    assert_eq!(second["prev_batch"], token);
    assert_eq!(event_ids(&forward["chunk"]), [&replies[0], &replies[1]]);
}

#[tokio::test]
async fn recursion_is_limited_to_three_levels() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let mut chain = vec![alice.says(&room, "root").await];
    for n in 0..5 {
        let next = related_content("m.reference", &chain[n], "next");
        chain.push(alice.sends_related(&room, next).await);
    }

    let direct = alice.relations(&room, &chain[0]).await.expect_ok();
    let recursive = format!("{}?recurse=true", chain[0]);
    let recursive = alice.relations(&room, &recursive).await.expect_ok();
    let filtered = format!("{}/m.thread?recurse=true", chain[0]);
    let filtered = alice.relations(&room, &filtered).await.expect_ok();

    assert_eq!(event_ids(&direct["chunk"]), [&chain[1]]);
    assert_eq!(
        event_ids(&recursive["chunk"]),
        [&chain[3], &chain[2], &chain[1]]
    );
    assert_eq!(recursive["recursion_depth"], 3);
    assert_eq!(filtered, json!({ "chunk": [], "recursion_depth": 1 }));
}

#[tokio::test]
async fn relations_are_visible_only_with_their_event() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_room_with_history("joined").await;
    let before = alice.says(&room, "before").await;
    bob.joins(&room).await;
    let after = alice.says(&room, "after").await;
    let seen = alice
        .sends_related(&room, related_content("m.thread", &after, "x"))
        .await;
    bob.leaves(&room).await;
    alice
        .sends_related(&room, related_content("m.thread", &after, "y"))
        .await;
    let eve = server.register("eve").await;

    let hidden = bob.relations(&room, &before).await;
    let visible = bob.relations(&room, &after).await.expect_ok();
    let bundle = bob.fetch_aggregations(&room, &after).await;
    let of_stranger = eve.relations(&room, &after).await;
    let of_nothing = alice.relations(&room, "$nothing").await;
    let bad_token = alice.relations(&room, &format!("{after}?from=x")).await;

    hidden.expect_error(404, "M_NOT_FOUND");
    assert_eq!(event_ids(&visible["chunk"]), [&seen]);
    assert_eq!(bundle["m.thread"]["count"], 1);
    assert_eq!(bundle["m.thread"]["latest_event"]["event_id"], seen);
    of_stranger.expect_error(403, "M_FORBIDDEN");
    of_nothing.expect_error(404, "M_NOT_FOUND");
    bad_token.expect_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn the_latest_valid_edit_is_bundled_with_the_original_content() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let message = alice.says(&room, "one").await;
    let first = alice.sends_related(&room, edit(&message, "two")).await;
    let last = alice.sends_related(&room, edit(&message, "three")).await;
    // These edits are invalid: by another sender, without new content, of an edit, of another type.
    bob.sends_related(&room, edit(&message, "mine")).await;
    alice
        .sends_related(&room, related_content("m.replace", &message, "x"))
        .await;
    alice.sends_related(&room, edit(&last, "four")).await;
    alice
        .tries_to_send(&room, "m.sticker", edit(&message, "five"))
        .await
        .expect_ok();

    let event = bob.event(&room, &message).await.expect_ok();
    let of_edit = bob.fetch_aggregations(&room, &last).await;
    alice.redacts(&room, &last).await;
    let reverted = bob.fetch_aggregations(&room, &message).await;
    alice.redacts(&room, &message).await;
    let redacted = bob.fetch_aggregations(&room, &message).await;

    let edit = &bundled_aggregations(&event)["m.replace"];
    assert_eq!(edit["event_id"], last);
    assert_eq!(edit["content"]["m.new_content"]["body"], "three");
    assert_eq!(edit["sender"], alice.id);
    assert_eq!(event["content"]["body"], "one");
    assert_eq!(of_edit["m.replace"], Value::Null);
    assert_eq!(reverted["m.replace"]["event_id"], first);
    assert_eq!(redacted["m.replace"], Value::Null);
}

#[tokio::test]
async fn a_thread_summary_has_count_latest_event_and_participation() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let carol = server.register("carol").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    let thread = alice.says(&room, "root").await;
    let one = bob
        .sends_related(&room, related_content("m.thread", &thread, "a"))
        .await;
    let two = bob
        .sends_related(&room, related_content("m.thread", &thread, "b"))
        .await;
    let edit_of_two = bob.sends_related(&room, edit(&two, "B")).await;

    let of_alice = alice.fetch_aggregations(&room, &thread).await;
    let of_bob = bob.fetch_aggregations(&room, &thread).await;
    let of_carol = carol.fetch_aggregations(&room, &thread).await;
    bob.redacts(&room, &two).await;
    let shorter = carol.fetch_aggregations(&room, &thread).await;
    bob.redacts(&room, &one).await;
    let ended = carol.fetch_aggregations(&room, &thread).await;

    let told = &of_alice["m.thread"];
    assert_eq!(told["count"], 2);
    assert_eq!(told["latest_event"]["event_id"], two);
    assert_eq!(told["latest_event"]["room_id"], room);
    let latest = bundled_aggregations(&told["latest_event"]);
    assert_eq!(latest["m.replace"]["event_id"], edit_of_two);
    let participated = |bundle: &Value| bundle["m.thread"]["current_user_participated"].clone();
    assert_eq!(participated(&of_alice), true);
    assert_eq!(participated(&of_bob), true);
    assert_eq!(participated(&of_carol), false);
    assert_eq!(shorter["m.thread"]["count"], 1);
    assert_eq!(shorter["m.thread"]["latest_event"]["event_id"], one);
    assert_eq!(ended, Value::Null);
}

#[tokio::test]
async fn references_are_bundled_and_reactions_are_not() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let message = alice.says(&room, "one").await;
    let one = alice
        .sends_related(&room, related_content("m.reference", &message, "a"))
        .await;
    let two = alice
        .sends_related(&room, related_content("m.reference", &message, "b"))
        .await;
    alice.reacts(&room, &message, "+1").await.expect_ok();

    let bundle = alice.fetch_aggregations(&room, &message).await;

    let chunk = json!([{ "event_id": one }, { "event_id": two }]);
    assert_eq!(bundle, json!({ "m.reference": { "chunk": chunk } }));
}

#[tokio::test]
async fn aggregations_are_bundled_in_every_endpoint() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let message = alice.says(&room, "one").await;
    let before = alice.syncs().await;
    let other = alice.says(&room, "two").await;
    let edited = alice.sends_related(&room, edit(&message, "three")).await;
    let edited_too = alice.sends_related(&room, edit(&other, "four")).await;

    let first = alice.syncs().await;
    let later = alice.syncs_after(&before).await;
    let page = alice.messages(&room, "dir=b").await;
    let context = alice.gets_in_room(&room, &format!("context/{other}")).await;
    let context = context.expect_ok();

    let find = |events: &Value, event_id: &str| {
        let events = events.as_array().expect("a list of events").iter();
        let mut found = events.filter(|event| event["event_id"] == event_id);
        let event = found.next().expect("the event is listed");
        bundled_aggregations(event)["m.replace"]["event_id"].clone()
    };
    assert_eq!(find(timeline(&first, &room), &message), edited);
    assert_eq!(find(timeline(&later, &room), &other), edited_too);
    assert_eq!(find(&page["chunk"], &message), edited);
    assert_eq!(find(&context["events_before"], &message), edited);
    let in_context = bundled_aggregations(&context["event"]);
    assert_eq!(in_context["m.replace"]["event_id"], edited_too);
    let server = server.restart().await;
    let alice = alice.on_server(&server);
    assert_eq!(
        find(timeline(&alice.syncs().await, &room), &message),
        edited
    );
}

#[tokio::test]
async fn events_evicted_from_memory_keep_their_aggregations() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let message = alice.says(&room, "one").await;
    let edited = alice.sends_related(&room, edit(&message, "two")).await;
    for n in 0..100 {
        alice.says(&room, &n.to_string()).await;
    }

    let bundle = alice.fetch_aggregations(&room, &message).await;

    assert_eq!(bundle["m.replace"]["event_id"], edited);
}

#[tokio::test]
async fn a_duplicate_reaction_is_refused_until_the_first_is_redacted() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let message = alice.says(&room, "one").await;
    let first = alice.reacts(&room, &message, "+1").await.expect_ok();

    let again = alice.reacts(&room, &message, "+1").await;
    let other_key = alice.reacts(&room, &message, "-1").await;
    let other_user = bob.reacts(&room, &message, "+1").await;
    let first = first["event_id"].as_str().expect("an ID");
    alice.redacts(&room, first).await;
    let anew = alice.reacts(&room, &message, "+1").await;

    again.expect_error(400, "M_DUPLICATE_ANNOTATION");
    other_key.expect_ok();
    other_user.expect_ok();
    anew.expect_ok();
}

#[tokio::test]
async fn a_redacted_event_has_no_relation() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates_open_room().await;
    let message = alice.says(&room, "one").await;
    let reference = alice
        .sends_related(&room, related_content("m.reference", &message, "a"))
        .await;

    alice.redacts(&room, &reference).await;

    let related = alice.relations(&room, &message).await.expect_ok();
    assert_eq!(related["chunk"], json!([]));
    assert_eq!(alice.fetch_aggregations(&room, &message).await, Value::Null);
}
