//! Spaces that lead to rooms of other servers.

use serde_json::{Value, json};

use super::Network;
use crate::{
    chat::percent_encoded,
    harness::{Server, User},
};

/// A server with a space that leads to rooms of another.
struct SpaceScene {
    home: Server,
    away: Server,
    alice: User,
    bob: User,
}

impl SpaceScene {
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

    async fn adds_child(&self, (user, server): (&User, &Server), space: &str, child: &str) {
        let kind = format!("m.space.child/{}", percent_encoded(child));
        user.sets_state(space, &kind, json!({ "via": [server.name()] }))
            .await;
    }
}

async fn create_space(user: &User, name: &str) -> String {
    let kind = json!({ "type": "m.space" });
    user.creates(json!({ "preset": "public_chat", "name": name, "creation_content": kind }))
        .await
}

async fn hierarchy_names(user: &User, space: &str) -> Vec<String> {
    let path = format!(
        "/_matrix/client/v1/rooms/{}/hierarchy",
        percent_encoded(space)
    );
    let page: Value = user.client.get(&path).await.expect_ok();
    let rooms = page["rooms"].as_array().expect("a list");
    let names = rooms
        .iter()
        .map(|room| room["name"].as_str().unwrap_or_default());
    names.map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn the_hierarchy_includes_public_rooms_of_other_servers() {
    let spaces = SpaceScene::new().await;
    let (alice, bob) = (&spaces.alice, &spaces.bob);
    let top = create_space(alice, "top").await;
    let inner = create_space(bob, "inner").await;
    let open = json!({ "preset": "public_chat", "name": "open" });
    let (open, secret) = (
        bob.creates(open).await,
        bob.creates(json!({ "name": "secret" })).await,
    );
    spaces.adds_child((alice, &spaces.away), &top, &inner).await;
    spaces.adds_child((bob, &spaces.away), &inner, &open).await;
    spaces
        .adds_child((bob, &spaces.away), &inner, &secret)
        .await;

    assert_eq!(hierarchy_names(alice, &top).await, ["top", "inner", "open"]);
    // In the other direction, Bob's server knows only the ID of the top space.
    assert_eq!(hierarchy_names(bob, &inner).await.len(), 3);
}

#[tokio::test]
async fn the_hierarchy_of_a_remote_space_needs_no_membership() {
    let spaces = SpaceScene::new().await;
    let kind = json!({ "type": "m.space" });
    let request = json!({
        "preset": "public_chat", "name": "top", "creation_content": kind, "room_version": "11",
    });
    let top = spaces.bob.creates(request).await;

    assert_eq!(hierarchy_names(&spaces.alice, &top).await, ["top"]);
    let path = format!(
        "/_matrix/client/v1/rooms/{}/hierarchy",
        percent_encoded("!nothing:elsewhere")
    );
    let unknown = spaces.alice.client.get(&path).await;
    unknown.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_room_of_another_server_has_a_summary() {
    let spaces = SpaceScene::new().await;
    let open = json!({ "preset": "public_chat", "name": "tea", "room_alias_name": "tea" });
    let open = spaces.bob.creates(open).await;
    let secret = spaces.bob.creates(json!({})).await;
    let summary = async |room: &str| {
        let via = spaces.away.name();
        let room = percent_encoded(room);
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
