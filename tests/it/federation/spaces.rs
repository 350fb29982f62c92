//! Spaces that lead to rooms of other servers.

use serde_json::{Value, json};

use super::Network;
use crate::{
    chat::encoded,
    harness::{Server, User},
};

/// A server with a space that leads to rooms of another.
struct Spaces {
    home: Server,
    away: Server,
    alice: User,
    bob: User,
}

impl Spaces {
    async fn new() -> Self {
        let network = Network::new();
        let (home, away) = (network.server().await, network.server().await);
        Self {
            alice: home.register("alice").await,
            bob: away.register("bob").await,
            home,
            away,
        }
    }

    async fn links(&self, (user, server): (&User, &Server), space: &str, child: &str) {
        let kind = format!("m.space.child/{}", encoded(child));
        user.sets(space, &kind, json!({ "via": [server.name()] }))
            .await;
    }
}

async fn space(user: &User, name: &str) -> String {
    let kind = json!({ "type": "m.space" });
    user.creates(json!({ "preset": "public_chat", "name": name, "creation_content": kind }))
        .await
}

async fn names(user: &User, space: &str) -> Vec<String> {
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", encoded(space));
    let page: Value = user.client.get(&path).await.expect_ok();
    let rooms = page["rooms"].as_array().expect("a list");
    let names = rooms
        .iter()
        .map(|room| room["name"].as_str().unwrap_or_default());
    names.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn rooms_of_other_servers_are_shown_in_their_place() {
    let spaces = Spaces::new().await;
    let (alice, bob) = (&spaces.alice, &spaces.bob);
    let top = space(alice, "top").await;
    let inner = space(bob, "inner").await;
    let open = json!({ "preset": "public_chat", "name": "open" });
    let (open, secret) = (
        bob.creates(open).await,
        bob.creates(json!({ "name": "secret" })).await,
    );
    spaces.links((alice, &spaces.away), &top, &inner).await;
    spaces.links((bob, &spaces.away), &inner, &open).await;
    spaces.links((bob, &spaces.away), &inner, &secret).await;

    assert_eq!(names(alice, &top).await, ["top", "inner", "open"]);
    // In the other direction, Bob's server knows only the ID of the top space.
    assert_eq!(names(bob, &inner).await.len(), 3);
}

#[tokio::test]
async fn a_space_of_another_server_may_be_looked_at_from_outside() {
    let spaces = Spaces::new().await;
    let kind = json!({ "type": "m.space" });
    let request = json!({
        "preset": "public_chat", "name": "top", "creation_content": kind, "room_version": "11",
    });
    let top = spaces.bob.creates(request).await;

    assert_eq!(names(&spaces.alice, &top).await, ["top"]);
    let path = format!(
        "/_matrix/client/v1/rooms/{}/hierarchy",
        encoded("!nothing:elsewhere")
    );
    let unknown = spaces.alice.client.get(&path).await;
    unknown.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_room_of_another_server_has_a_summary() {
    let spaces = Spaces::new().await;
    let open = json!({ "preset": "public_chat", "name": "tea", "room_alias_name": "tea" });
    let open = spaces.bob.creates(open).await;
    let secret = spaces.bob.creates(json!({})).await;
    let summary = async |room: &str| {
        let via = spaces.away.name();
        let room = encoded(room);
        let path = format!("/_matrix/client/v1/room_summary/{room}?via={via}");
        spaces.alice.client.get(&path).await
    };

    let told = summary(&open).await.expect_ok();
    assert_eq!(told["name"], "tea");
    assert_eq!(told["membership"], "leave");
    let alias = format!("#tea:{}", spaces.away.name());
    assert_eq!(summary(&alias).await.expect_ok()["room_id"], open.as_str());
    summary(&secret).await.expect_error(404, "M_NOT_FOUND");
    assert_ne!(spaces.home.name(), spaces.away.name());
}
