//! Tests the pushers that users set.

use serde_json::{Value, json};

use crate::harness::{HttpAnswer, Server, User, password_of};

const PUSHERS_PATH: &str = "/_matrix/client/v3/pushers";
const SET_PUSHER_PATH: &str = "/_matrix/client/v3/pushers/set";

fn http_pusher(pushkey: &str) -> Value {
    json!({
        "pushkey": pushkey, "app_id": "org.example", "kind": "http", "lang": "en",
        "app_display_name": "Example", "device_display_name": "Phone", "profile_tag": "tag",
        "data": { "url": "https://push.example.org/_matrix/push/v1/notify", "custom": 1 },
    })
}

impl User {
    async fn sets_pusher(&self, pusher: Value) -> HttpAnswer {
        self.client.post(SET_PUSHER_PATH, pusher).await
    }

    /// Returns the user's pushers without the fields that the server adds.
    async fn pushers(&self) -> Value {
        let mut pushers = self.client.get(PUSHERS_PATH).await.expect_ok()["pushers"].clone();
        for pusher in pushers.as_array_mut().expect("a list") {
            let fields = pusher.as_object_mut().expect("an object");
            fields.retain(|name, _| !name.starts_with("org.matrix.msc3881."));
        }
        pushers
    }
}

#[tokio::test]
async fn pushers_are_set_replaced_and_removed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    assert_eq!(alice.pushers().await, json!([]));

    alice.sets_pusher(http_pusher("a")).await.expect_ok();
    let mut other = http_pusher("a");
    other["lang"] = json!("de");
    alice.sets_pusher(other.clone()).await.expect_ok();
    alice.sets_pusher(http_pusher("b")).await.expect_ok();

    assert_eq!(alice.pushers().await, json!([other, http_pusher("b")]));
    let gone = json!({ "pushkey": "a", "app_id": "org.example", "kind": null });
    alice.sets_pusher(gone.clone()).await.expect_ok();
    alice.sets_pusher(gone).await.expect_ok();
    assert_eq!(alice.pushers().await, json!([http_pusher("b")]));
}

#[tokio::test]
async fn a_pusher_moves_to_another_user_unless_appended() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    alice.sets_pusher(http_pusher("a")).await.expect_ok();

    let mut added = http_pusher("a");
    added["append"] = json!(true);
    bob.sets_pusher(added).await.expect_ok();
    assert_eq!(alice.pushers().await, json!([http_pusher("a")]));
    bob.sets_pusher(http_pusher("a")).await.expect_ok();

    assert_eq!(alice.pushers().await, json!([]));
    assert_eq!(bob.pushers().await, json!([http_pusher("a")]));
}

#[tokio::test]
async fn ending_a_session_removes_its_pushers() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (phone, desk) = (server.log_in("alice").await, server.log_in("alice").await);
    alice.sets_pusher(http_pusher("a")).await.expect_ok();
    phone.sets_pusher(http_pusher("p")).await.expect_ok();
    desk.sets_pusher(http_pusher("d")).await.expect_ok();

    let logout = "/_matrix/client/v3/logout";
    phone.client.post(logout, json!({})).await.expect_ok();
    assert_eq!(
        alice.pushers().await,
        json!([http_pusher("a"), http_pusher("d")])
    );
    let body = json!({ "new_password": "second", "auth": password_of("alice") });
    let path = "/_matrix/client/v3/account/password";
    alice.client.post(path, body).await.expect_ok();

    assert_eq!(alice.pushers().await, json!([http_pusher("a")]));
}

#[tokio::test]
async fn an_invalid_pusher_is_refused() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let refused = async |path: &str, value: Value| {
        let mut pusher = http_pusher("a");
        *pusher.pointer_mut(path).expect("a field") = value;
        alice.sets_pusher(pusher).await
    };

    for url in [
        "http://push.example.org/_matrix/push/v1/notify",
        "https://push.example.org/elsewhere",
        "nonsense",
    ] {
        let refused = refused("/data/url", json!(url)).await;
        refused.expect_error(400, "M_INVALID_PARAM");
    }
    let long = json!("x".repeat(513));
    let long = refused("/pushkey", long).await;
    long.expect_error(400, "M_INVALID_PARAM");
    let email = refused("/kind", json!("email")).await;
    email.expect_error(400, "M_INVALID_PARAM");
    let bare = json!({ "pushkey": "a", "app_id": "b", "kind": "http" });
    let bare = alice.sets_pusher(bare).await;
    bare.expect_error(400, "M_BAD_JSON");
    let stranger = server.post(SET_PUSHER_PATH, http_pusher("a")).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
    assert_eq!(alice.pushers().await, json!([]));
}
