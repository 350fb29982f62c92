//! Whole bodies of the answers whose shape clients and other servers depend on.
//!
//! The identifiers that a test knows are replaced by short names, and other identifiers, tokens and times by a note in
//! brackets. Tests of the features themselves are in the other files.

#![expect(
    clippy::too_many_lines,
    reason = "a snapshot shows the whole body of an answer"
)]

mod accounts;
mod errors;
mod keys;
mod push_rules;
mod rooms;
mod servers;
mod sync;
mod timeline;

use insta::{
    Settings,
    internals::{Content, SettingsBindDropGuard},
};
use serde_json::Value;

use crate::harness::{Server, User};

/// The length of an event ID: a dollar sign and a hash.
const EVENT_ID_CHARS: usize = 44;

/// The fields whose values differ at each run, and the notes that replace them.
const VARYING_FIELDS: [(&str, &str); 20] = [
    ("access_token", "[token]"),
    ("age", "[duration]"),
    ("auth_events", "[event ids]"),
    ("device_id", "[device id]"),
    ("end", "[token]"),
    ("last_active_ago", "[duration]"),
    ("last_seen_ip", "[address]"),
    ("last_seen_ts", "[time]"),
    ("next_batch", "[token]"),
    ("origin_server_ts", "[time]"),
    ("prev_batch", "[token]"),
    ("prev_events", "[event ids]"),
    ("rank", "[number]"),
    ("refresh_token", "[token]"),
    ("replaces_state", "[event id]"),
    ("session", "[token]"),
    ("start", "[token]"),
    ("transaction_id", "[transaction id]"),
    ("ts", "[time]"),
    ("version", "[version]"),
];

/// Starts a server with one user.
async fn server_with_alice() -> (Server, User) {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    (server, alice)
}

/// Starts a server with two users.
async fn server_with_alice_and_bob() -> (Server, User, User) {
    let (server, alice) = server_with_alice().await;
    let bob = server.register("bob").await;
    (server, alice, bob)
}

/// An identifier of this run, and the short name that replaces it in a snapshot.
struct ShortName<'a> {
    identifier: &'a str,
    name: &'a str,
}

/// Returns the short name of an identifier.
fn called<'a>(identifier: &'a str, name: &'a str) -> ShortName<'a> {
    ShortName { identifier, name }
}

/// Replaces identifiers everywhere in a body, also in the names of fields.
fn with_names(body: &Value, names: &[ShortName]) -> Value {
    let mut text = body.to_string();
    for name in names {
        text = text.replace(name.identifier, name.name);
    }
    serde_json::from_str(&text).expect("short names keep the body valid")
}

/// Replaces the fields that differ at each run in the snapshots of this thread, until the guard is dropped.
fn hide_varying_fields() -> SettingsBindDropGuard {
    let mut settings = Settings::clone_current();
    settings.set_sort_maps(true);
    for (field, note) in VARYING_FIELDS {
        settings.add_redaction(&format!(".**.{field}"), note);
    }
    settings.add_dynamic_redaction(".**.event_id", |value, _| hide_event_id(value));
    settings.bind_to_scope()
}

/// Replaces an event ID that the test has not named.
fn hide_event_id(value: Content) -> Content {
    match value.as_str() {
        Some(id) if id.len() == EVENT_ID_CHARS => Content::from("[event id]"),
        _ => value,
    }
}

impl User {
    /// Returns the body of a successful GET request.
    async fn body_at(&self, path: &str) -> Value {
        self.client.get(path).await.expect_ok()
    }
}
