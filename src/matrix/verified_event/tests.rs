//! The checks that need nothing except the event.

use ruma::{
    RoomVersionId,
    serde::Base64,
    signatures::{Ed25519KeyPair, hash_and_sign_event},
};
use serde_json::{Value, json};

use super::*;
use crate::matrix::room_version_rules;

struct EventSigner {
    pair: Ed25519KeyPair,
    rules: RoomVersionRules,
}

impl EventSigner {
    fn new() -> Self {
        Self::with_version(&RoomVersionId::V11)
    }

    fn with_version(version: &RoomVersionId) -> Self {
        let document = Ed25519KeyPair::generate();
        Self {
            pair: Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap(),
            rules: room_version_rules(version).unwrap(),
        }
    }

    fn keys(&self) -> PublicKeyMap {
        let key = Base64::new(self.pair.public_key().to_vec());
        [("there".to_owned(), [("ed25519:1".to_owned(), key)].into())].into()
    }

    fn check(&self, event: Value) -> Result<VerifiedEvent> {
        let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
        let signed = hash_and_sign_event("there", &self.pair, &mut object, &self.rules.redaction);
        if let Err(error) = signed {
            return Err(Error::TooLarge(error.to_string()));
        }
        VerifiedEvent::verify(object, &self.rules, &self.keys())
    }
}

fn event() -> Value {
    json!({
        "type": "m.room.message", "sender": "@dora:there", "room_id": "!room:there",
        "content": {"body": "hello"}, "depth": 7, "origin_server_ts": 1, "prev_events": ["$a"],
        "auth_events": ["$b"],
    })
}

fn event_without(field: &str) -> Value {
    let mut event = event();
    event.as_object_mut().unwrap().remove(field);
    event
}

fn event_with(field: &str, value: Value) -> Value {
    let mut event = event();
    event[field] = value;
    event
}

#[test]
fn a_valid_event_passes_without_its_unsigned_field() {
    let signer = EventSigner::new();

    let event = signer
        .check(event_with("unsigned", json!({"age": 1})))
        .unwrap();

    assert!(!event.is_redacted());
    assert!(!event.json().contains("unsigned"));
    assert_eq!(event.pdu().sender, "@dora:there");
}

#[test]
fn an_event_that_lacks_a_field_is_refused() {
    let signer = EventSigner::new();

    for field in [
        "type",
        "sender",
        "room_id",
        "content",
        "depth",
        "origin_server_ts",
        "prev_events",
        "auth_events",
    ] {
        let checked = signer.check(event_without(field));
        assert!(checked.is_err(), "without {field}: {checked:?}");
    }
}

#[test]
fn an_event_with_a_field_of_another_type_is_refused() {
    let signer = EventSigner::new();
    let many: Vec<String> = (0..21).map(|n| format!("${n}")).collect();

    for (field, value) in [
        ("type", json!(1)),
        ("sender", json!("dora")),
        ("sender", json!({})),
        ("room_id", json!("room")),
        ("state_key", json!(7)),
        ("state_key", json!("a\u{0}b")),
        ("content", json!("hello")),
        ("depth", json!("7")),
        ("depth", json!(-1)),
        ("origin_server_ts", json!("now")),
        ("prev_events", json!("$a")),
        ("prev_events", json!([7])),
        ("prev_events", json!(many)),
        ("auth_events", json!(many)),
        ("auth_events", json!([{}])),
    ] {
        let checked = signer.check(event_with(field, value.clone()));
        assert!(checked.is_err(), "{field} {value}: {checked:?}");
    }
}

#[test]
fn an_event_that_is_too_large_is_refused() {
    let signer = EventSigner::new();
    let long = "x".repeat(66_000);
    let key = "x".repeat(256);

    let large = signer.check(event_with("content", json!({"body": long})));
    let long_key = signer.check(event_with("state_key", json!(key)));

    assert!(matches!(large, Err(Error::TooLarge(_))), "{large:?}");
    assert!(long_key.is_err(), "{long_key:?}");
}

#[test]
fn before_version_11_a_state_key_is_measured_in_characters() {
    let (old, new) = (
        EventSigner::with_version(&RoomVersionId::V10),
        EventSigner::new(),
    );
    let key = |length: usize| event_with("state_key", json!("💥".repeat(length)));
    let full = |length: usize| {
        let mut event = key(255);
        event["content"] = json!({"body": "x".repeat(length)});
        event
    };

    assert!(old.check(key(255)).is_ok());
    assert!(old.check(key(256)).is_err());
    assert!(old.check(full(64_000)).is_ok());
    assert!(old.check(full(65_000)).is_err());
    assert!(new.check(key(64)).is_err());
}

#[test]
fn the_server_that_authorises_a_join_must_sign_it() {
    let signer = EventSigner::new();
    let content = json!({"membership": "join", "join_authorised_via_users_server": "@a:other"});
    let mut join = event_with("content", content);
    join["type"] = json!("m.room.member");
    join["state_key"] = json!("@dora:there");
    let object: CanonicalJsonObject = serde_json::from_value(join.clone()).unwrap();

    let needed = needed_keys(&object, &signer.rules).unwrap();
    let checked = signer.check(join);

    let servers: Vec<&str> = needed.iter().map(|needed| needed.server.as_str()).collect();
    assert_eq!(servers, ["other", "there"]);
    assert!(matches!(checked, Err(Error::InvalidSignature(_))));
}
