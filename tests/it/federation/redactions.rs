//! Redactions by users of other servers: clients see one only when its target is known and its sender may redact it.
//!
//! [Handling redactions](https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions)

use serde_json::{Value, json};

use super::{peer_user::PeerEvent, transactions::SharedRoom};
use crate::{
    chat::{event_ids, find_event, percent_encoded, room_path, timeline},
    sliding::list_config,
};

impl SharedRoom {
    /// Makes a redaction of an event, and sends it.
    async fn sends_redaction(&mut self, target: &str) -> PeerEvent {
        let content = json!({ "redacts": target });
        let redaction = self
            .bob
            .makes_event(&self.peer, "m.room.redaction", (None, &content));
        let told = self.peer.sends(&self.server, &[&redaction]).await;
        assert_eq!(told, json!({ &*redaction.id: {} }));
        redaction
    }

    /// Asserts that no client API shows an event.
    async fn assert_not_shown(&self, since: &Value, hidden: &PeerEvent, beside: &str) {
        let (alice, room, id) = (&self.alice, &self.room, &*hidden.id);
        let sync = alice.syncs_after(since).await;
        assert!(!sync.to_string().contains(id), "{sync}");
        let sync = alice.syncs().await;
        assert!(!sync.to_string().contains(id), "{sync}");
        for dir in ["b", "f"] {
            let query = format!("dir={dir}&limit=100");
            let page = alice.messages(room, &query).await;
            assert!(!page.to_string().contains(id), "{page}");
        }
        let context = format!("context/{}?limit=50", percent_encoded(beside));
        let context = alice
            .client
            .get(&room_path(room, &context))
            .await
            .expect_ok();
        assert!(!context.to_string().contains(id), "{context}");
        let event = alice.event(room, id).await;
        event.expect_error(404, "M_NOT_FOUND");
        let mut sliding = alice.opens_list(&list_config([0, 9], 50, &json!([])));
        let answer = sliding.poll().await;
        assert!(!answer.to_string().contains(id), "{answer}");
    }
}

#[tokio::test]
async fn a_redaction_without_enough_power_is_not_shown() {
    for version in ["3", "10", "11", "12"] {
        let request = json!({ "preset": "public_chat", "room_version": version });
        let mut shared = SharedRoom::with_room(request).await;
        let tea = shared.alice.says(&shared.room, "tea").await;
        let since = shared.alice.syncs().await;
        let mut redaction =
            shared
                .bob
                .drafts_event("m.room.redaction", None, &json!({ "redacts": tea }));
        redaction["redacts"] = json!(tea);
        let redaction = shared.peer.signs(&redaction, &shared.bob.rules);
        shared.bob.advances_to(&redaction);
        shared.peer.sends(&shared.server, &[&redaction]).await;
        let coffee = shared.bob.says(&shared.peer, "coffee");
        shared.peer.sends(&shared.server, &[&coffee]).await;

        shared.assert_not_shown(&since, &redaction, &tea).await;

        let event = shared.alice.event(&shared.room, &tea).await.expect_ok();
        assert_eq!(event["content"]["body"], "tea");
        let path = format!(
            "/_matrix/federation/v1/event/{}",
            percent_encoded(&redaction.id)
        );
        let served = shared.peer.gets(&shared.server, &path).await.expect_ok();
        assert_eq!(served["pdus"][0]["type"], "m.room.redaction");
    }
}

#[tokio::test]
async fn a_redaction_of_an_event_in_another_room_is_not_shown() {
    let mut shared = SharedRoom::new().await;
    let other = shared.alice.creates(json!({})).await;
    let secret = shared.alice.says(&other, "secret").await;
    let tea = shared.alice.says(&shared.room, "tea").await;
    let since = shared.alice.syncs().await;

    let redaction = shared.sends_redaction(&secret).await;

    shared.assert_not_shown(&since, &redaction, &tea).await;
}

#[tokio::test]
async fn a_redaction_is_held_back_until_its_target_arrives() {
    let mut shared = SharedRoom::new().await;
    let tea = shared.alice.says(&shared.room, "tea").await;
    let content = json!({ "msgtype": "m.text", "body": "mistake" });
    let mistake = shared.bob.drafts_event("m.room.message", None, &content);
    let mistake = shared.peer.signs(&mistake, &shared.bob.rules);
    let since = shared.alice.syncs().await;
    let redaction = shared.sends_redaction(&mistake.id).await;
    shared.assert_not_shown(&since, &redaction, &tea).await;
    let since = shared.alice.syncs_after(&since).await;

    shared.peer.sends(&shared.server, &[&mistake]).await;

    let sync = shared.alice.syncs_after(&since).await;
    let shown = timeline(&sync, &shared.room);
    assert_eq!(event_ids(shown), [&*mistake.id, &*redaction.id]);
    assert_eq!(shown[0]["content"], json!({}));
    let because = &shown[0]["unsigned"]["redacted_because"];
    assert_eq!(because["event_id"], redaction.id);
    let event = shared.alice.event(&shared.room, &redaction.id).await;
    assert_eq!(event.expect_ok()["event_id"], redaction.id);
    let page = shared.alice.messages(&shared.room, "dir=b&limit=2").await;
    assert_eq!(event_ids(&page["chunk"]), [&*redaction.id, &*mistake.id]);
}

#[tokio::test]
async fn a_held_back_redaction_is_shown_after_a_restart() {
    let mut shared = SharedRoom::new().await;
    let content = json!({ "msgtype": "m.text", "body": "mistake" });
    let mistake = shared.bob.drafts_event("m.room.message", None, &content);
    let mistake = shared.peer.signs(&mistake, &shared.bob.rules);
    let redaction = shared.sends_redaction(&mistake.id).await;
    let tea = shared.alice.says(&shared.room, "tea").await;
    let since = shared.alice.syncs().await;
    let server = shared.server.restart().await;
    let alice = shared.alice.on_server(&server);
    let event = alice.event(&shared.room, &redaction.id).await;
    event.expect_error(404, "M_NOT_FOUND");

    shared.peer.sends(&server, &[&mistake]).await;
    let server = server.restart().await;

    let alice = alice.on_server(&server);
    let sync = alice.syncs_after(&since).await;
    let shown = timeline(&sync, &shared.room);
    assert_eq!(event_ids(shown), [&*mistake.id, &*redaction.id]);
    let page = alice.messages(&shared.room, "dir=b&limit=3").await;
    assert_eq!(
        event_ids(&page["chunk"]),
        [&*redaction.id, &*mistake.id, &*tea]
    );
}

#[tokio::test]
async fn a_late_target_is_redacted_with_the_senders_earlier_power() {
    let mut shared = SharedRoom::new().await;
    let levels = shared
        .alice
        .state(&shared.room, "m.room.power_levels")
        .await;
    let with = |level: u64| {
        let mut levels = levels.clone();
        levels["users"][&*shared.bob.id] = json!(level);
        levels
    };
    let (promoted, demoted) = (with(60), with(0));
    let promotion = shared
        .alice
        .sets_state(&shared.room, "m.room.power_levels", promoted)
        .await;
    let path = format!(
        "/_matrix/federation/v1/event/{}",
        percent_encoded(&promotion)
    );
    let promotion = shared.peer.gets(&shared.server, &path).await.expect_ok();
    let promotion = PeerEvent {
        id: event_id_of(&shared, &promotion["pdus"][0]),
        json: promotion["pdus"][0].clone(),
    };
    shared.bob.advances_to(&promotion);
    // Another user of the peer sends a message. It arrives after Bob has redacted it and lost his power.
    let carol_id = shared.peer.user("carol");
    let carol = shared
        .peer
        .joins(&shared.server, &shared.room, ("carol", &shared.archive))
        .await;
    assert_eq!(carol.id, carol_id);
    let content = json!({ "msgtype": "m.text", "body": "mistake" });
    let mistake = carol.drafts_event("m.room.message", None, &content);
    let mistake = shared.peer.signs(&mistake, &carol.rules);
    let redaction = shared.sends_redaction(&mistake.id).await;
    shared
        .alice
        .sets_state(&shared.room, "m.room.power_levels", demoted)
        .await;
    let since = shared.alice.syncs().await;

    shared.peer.sends(&shared.server, &[&mistake]).await;

    let sync = shared.alice.syncs_after(&since).await;
    let shown = timeline(&sync, &shared.room);
    assert_eq!(event_ids(shown), [&*mistake.id, &*redaction.id]);
    assert_eq!(find_event(shown, "m.room.message", ""), &Value::Null);
    assert_eq!(shown[0]["content"], json!({}));
}

fn event_id_of(shared: &SharedRoom, event: &Value) -> String {
    let rules = &shared.bob.rules;
    let object = serde_json::from_value(event.clone()).expect("an object");
    let hash = ruma::signatures::reference_hash(&object, rules).expect("an event");
    format!("${hash}")
}

#[tokio::test]
async fn the_room_version_determines_the_place_of_redacts() {
    for (version, counted, ignored) in [("6", "top", "content"), ("11", "content", "top")] {
        let request = json!({ "preset": "public_chat", "room_version": version });
        let mut shared = SharedRoom::with_room(request).await;
        let in_content = shared.bob.says(&shared.peer, "content");
        let at_top = shared.bob.says(&shared.peer, "top");
        let content = json!({ "redacts": in_content.id });
        let mut redaction = shared.bob.drafts_event("m.room.redaction", None, &content);
        redaction["redacts"] = json!(at_top.id);
        let redaction = shared.peer.signs(&redaction, &shared.bob.rules);
        let made = [&in_content, &at_top, &redaction];

        shared.peer.sends(&shared.server, &made).await;

        let page = shared.alice.messages(&shared.room, "dir=b&limit=3").await;
        let bodies: Vec<&str> = page["chunk"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|event| event["content"]["body"].as_str())
            .collect();
        assert_eq!(bodies, [ignored], "{version}: {counted} counts");
    }
}

#[tokio::test]
async fn redacts_is_ignored_in_other_event_types() {
    let shared = SharedRoom::new().await;
    let content = json!({ "msgtype": "m.text", "body": "tea" });
    let mut message = shared.bob.drafts_event("m.room.message", None, &content);
    message["redacts"] = json!(5);
    let message = shared.peer.signs(&message, &shared.bob.rules);

    let told = shared.peer.sends(&shared.server, &[&message]).await;

    assert_eq!(told, json!({ &*message.id: {} }));
    let event = shared.alice.event(&shared.room, &message.id).await;
    assert_eq!(event.expect_ok()["content"]["body"], "tea");
}
