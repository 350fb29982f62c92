//! Cross-signing keys, with which users sign their devices and each other.

use ruma::{
    canonical_json::CanonicalJsonObject,
    signatures::{Ed25519KeyPair, KeyPair, to_canonical_json_string_for_signing},
};
use serde_json::{Value, json};

use crate::{
    harness::{HttpAnswer, Server, User, password_of},
    keys::{UPLOAD_PATH, device_keys},
};

const DEVICE_SIGNING_PATH: &str = "/_matrix/client/v3/keys/device_signing/upload";
const SIGNATURES_PATH: &str = "/_matrix/client/v3/keys/signatures/upload";

/// A key pair for signing.
pub(crate) struct CrossSigningKey {
    pair: Ed25519KeyPair,
    pub(crate) public: String,
}

impl CrossSigningKey {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate();
        let pair = Ed25519KeyPair::from_der(&document, "x".to_owned()).expect("a key");
        let public =
            ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(pair.public_key());
        let public = public.encode();
        Self { pair, public }
    }

    pub(crate) fn id(&self) -> String {
        format!("ed25519:{}", self.public)
    }

    /// Returns the public key as a user's cross-signing key object.
    pub(crate) fn key_object(&self, user: &User, usage: &str) -> Value {
        json!({ "user_id": user.id, "usage": [usage], "keys": { self.id(): self.public } })
    }

    /// Signs an object as a user, with the key of this id.
    pub(crate) fn sign_object(&self, user: &User, id: &str, mut object: Value) -> Value {
        let signed: CanonicalJsonObject =
            serde_json::from_value(object.clone()).expect("an object");
        let json = to_canonical_json_string_for_signing(&signed).expect("JSON");
        let signature = self.pair.sign(json.as_bytes()).base64();
        object["signatures"] = json!({ &*user.id: { id: signature } });
        object
    }
}

/// The cross-signing keys of a user.
pub(crate) struct CrossSigningKeySet {
    pub(crate) master: CrossSigningKey,
    self_signing: CrossSigningKey,
    pub(crate) user_signing: CrossSigningKey,
}

impl CrossSigningKeySet {
    fn new() -> Self {
        Self {
            master: CrossSigningKey::new(),
            self_signing: CrossSigningKey::new(),
            user_signing: CrossSigningKey::new(),
        }
    }

    fn upload_body(&self, user: &User) -> Value {
        let by_master = |key: &CrossSigningKey, usage: &str| {
            let id = self.master.id();
            self.master
                .sign_object(user, &id, key.key_object(user, usage))
        };
        json!({
            "master_key": self.master.key_object(user, "master"),
            "self_signing_key": by_master(&self.self_signing, "self_signing"),
            "user_signing_key": by_master(&self.user_signing, "user_signing"),
        })
    }

    /// Uploads a new set of keys for a user who has none.
    pub(crate) async fn upload_for(user: &User) -> Self {
        let signer = Self::new();
        let uploaded = user
            .client
            .post(DEVICE_SIGNING_PATH, signer.upload_body(user))
            .await;
        uploaded.expect_ok();
        signer
    }
}

impl User {
    pub(crate) async fn publishes_signature(
        &self,
        whose: &User,
        key: &str,
        signed: Value,
    ) -> Value {
        let body = json!({ &*whose.id: { key: signed } });
        self.client.post(SIGNATURES_PATH, body).await.expect_ok()
    }
}

#[tokio::test]
async fn only_replacing_cross_signing_keys_needs_the_password() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (first, second) = (CrossSigningKeySet::new(), CrossSigningKeySet::new());
    let upload = async |body: Value| alice.client.post(DEVICE_SIGNING_PATH, body).await;

    upload(first.upload_body(&alice)).await.expect_ok();
    upload(first.upload_body(&alice)).await.expect_ok();
    let asked = upload(second.upload_body(&alice)).await;
    assert_eq!(asked.status, 401);
    assert!(asked.body["flows"].is_array(), "{}", asked.text);
    let mut body = second.upload_body(&alice);
    body["auth"] = password_of("alice");
    body["auth"]["session"] = asked.body["session"].clone();
    upload(body.clone()).await.expect_ok();
    upload(body).await.expect_ok();

    let told = alice.queries_keys(&alice.id).await;
    let master = &told["master_keys"][&alice.id];
    assert_eq!(*master, second.master.key_object(&alice, "master"));
    assert!(told["self_signing_keys"][&alice.id]["signatures"].is_object());
}

#[tokio::test]
async fn only_the_owner_sees_the_user_signing_key() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    CrossSigningKeySet::upload_for(&alice).await;

    let (own, others) = (
        alice.queries_keys(&alice.id).await,
        bob.queries_keys(&alice.id).await,
    );

    assert!(own["user_signing_keys"][&alice.id].is_object());
    assert_eq!(others["user_signing_keys"], json!({}));
    assert_eq!(others["master_keys"], own["master_keys"]);
    assert_eq!(others["self_signing_keys"], own["self_signing_keys"]);
}

#[tokio::test]
async fn keys_that_the_master_key_did_not_sign_are_refused() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let signer = CrossSigningKeySet::new();
    let upload = async |change: &dyn Fn(&mut Value)| -> HttpAnswer {
        let mut body = signer.upload_body(&alice);
        change(&mut body);
        alice.client.post(DEVICE_SIGNING_PATH, body).await
    };

    let unsigned = upload(&|body| body["self_signing_key"]["signatures"] = json!({})).await;
    unsigned.expect_error(400, "M_INVALID_SIGNATURE");
    let no_master = upload(&|body| body["master_key"] = Value::Null).await;
    no_master.expect_error(400, "M_MISSING_PARAM");
    let other_usage = upload(&|body| body["master_key"]["usage"] = json!(["self_signing"])).await;
    other_usage.expect_error(400, "M_INVALID_PARAM");
    let of_another = upload(&|body| body["master_key"]["user_id"] = json!(bob.id)).await;
    of_another.expect_error(400, "M_INVALID_PARAM");
    let no_key =
        upload(&|body| body["master_key"]["keys"] = json!({ "ed25519:AAAA": "AAAA" })).await;
    no_key.expect_error(400, "M_INVALID_PARAM");
    let malformed = upload(&|body| body["master_key"] = json!({})).await;
    malformed.expect_error(400, "M_BAD_JSON");
    let stranger = server.post(DEVICE_SIGNING_PATH, json!({})).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
    assert_eq!(bob.queries_keys(&alice.id).await["master_keys"], json!({}));
}

#[tokio::test]
async fn a_key_cannot_have_the_id_of_a_device() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let key = CrossSigningKey::new();
    let mut login = password_of("alice");
    login["device_id"] = json!(key.public);
    server
        .post("/_matrix/client/v3/login", login)
        .await
        .expect_ok();

    let body = json!({ "master_key": key.key_object(&alice, "master") });
    let refused = alice.client.post(DEVICE_SIGNING_PATH, body).await;

    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn other_users_see_device_signatures() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let owner = CrossSigningKeySet::upload_for(&alice).await;
    alice.uploads_device_keys(1).await;

    let by = owner.self_signing.id();
    let signed = owner
        .self_signing
        .sign_object(&alice, &by, device_keys(&alice, 1));
    let told = alice
        .publishes_signature(&alice, &alice.device_id, signed.clone())
        .await;

    assert_eq!(told, json!({ "failures": {} }));
    let keys = &bob.queries_keys(&alice.id).await["device_keys"][&alice.id][&alice.device_id];
    assert_eq!(keys["signatures"], signed["signatures"]);
    alice.uploads_device_keys(2).await;
    let keys = &bob.queries_keys(&alice.id).await["device_keys"][&alice.id][&alice.device_id];
    assert_eq!(keys["signatures"], json!({}), "a different key was signed");
}

#[tokio::test]
async fn a_device_signs_the_master_key() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (owner, device) = (
        CrossSigningKeySet::upload_for(&alice).await,
        CrossSigningKey::new(),
    );
    let by = format!("ed25519:{}", alice.device_id);
    let mut keys = device_keys(&alice, 1);
    keys["keys"] = json!({ &*by: device.public });
    let body = json!({ "device_keys": keys });
    alice.client.post(UPLOAD_PATH, body).await.expect_ok();

    let signed = device.sign_object(&alice, &by, owner.master.key_object(&alice, "master"));
    let told = alice
        .publishes_signature(&alice, &owner.master.public, signed.clone())
        .await;

    assert_eq!(told, json!({ "failures": {} }));
    assert_eq!(
        bob.queries_keys(&alice.id).await["master_keys"][&alice.id],
        signed
    );
}

#[tokio::test]
async fn only_the_verifier_sees_that_a_user_is_verified() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (alices, bobs) = (
        CrossSigningKeySet::upload_for(&alice).await,
        CrossSigningKeySet::upload_for(&bob).await,
    );
    let before = (alice.syncs().await, bob.syncs().await);

    let (by, master) = (
        alices.user_signing.id(),
        bobs.master.key_object(&bob, "master"),
    );
    let signed = alices.user_signing.sign_object(&alice, &by, master.clone());
    let told = alice
        .publishes_signature(&bob, &bobs.master.public, signed.clone())
        .await;

    assert_eq!(told, json!({ "failures": {} }));
    let key = async |user: &User| user.queries_keys(&bob.id).await["master_keys"][&bob.id].clone();
    assert_eq!(key(&alice).await, signed);
    assert_eq!(key(&bob).await, master);
    let alices_sync = alice.syncs_after(&before.0).await;
    assert_eq!(alices_sync["device_lists"]["changed"], json!([bob.id]));
    let bobs_sync = bob.syncs_after(&before.1).await;
    assert_eq!(bobs_sync["device_lists"], Value::Null);
}

#[tokio::test]
async fn invalid_signatures_are_reported_for_each_key() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (alices, bobs) = (
        CrossSigningKeySet::upload_for(&alice).await,
        CrossSigningKeySet::upload_for(&bob).await,
    );
    alice.uploads_device_keys(1).await;
    let by = alices.self_signing.id();

    let forged = bobs
        .self_signing
        .sign_object(&alice, &by, device_keys(&alice, 1));
    let other = alices
        .self_signing
        .sign_object(&alice, &by, device_keys(&alice, 2));
    let errcode = async |whose: &User, key: &str, signed: Value| {
        let told = alice.publishes_signature(whose, key, signed).await;
        told["failures"][&whose.id][key]["errcode"].clone()
    };
    let device = alice.device_id.as_str();
    assert_eq!(
        errcode(&alice, device, forged.clone()).await,
        "M_INVALID_SIGNATURE"
    );
    assert_eq!(errcode(&alice, device, other).await, "M_INVALID_PARAM");
    assert_eq!(
        errcode(&alice, "UNKNOWN", forged.clone()).await,
        "M_NOT_FOUND"
    );
    assert_eq!(errcode(&bob, &bob.device_id, forged).await, "M_NOT_FOUND");
    let master = bobs.master.key_object(&bob, "master");
    let unsigned = errcode(&bob, &bobs.master.public, master).await;
    assert_eq!(unsigned, "M_INVALID_SIGNATURE");

    let refused = server.post(SIGNATURES_PATH, json!({})).await;
    refused.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn the_keys_of_a_deactivated_account_are_gone() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    CrossSigningKeySet::upload_for(&alice).await;
    alice.uploads_device_keys(1).await;

    let body = json!({ "auth": password_of("alice") });
    let path = "/_matrix/client/v3/account/deactivate";
    alice.client.post(path, body).await.expect_ok();

    let told = bob.queries_keys(&alice.id).await;
    assert_eq!(told["device_keys"], json!({ &*alice.id: {} }));
    assert_eq!(told["master_keys"], json!({}));
    assert_eq!(told["self_signing_keys"], json!({}));
}

#[tokio::test]
async fn a_new_master_key_can_keep_the_other_keys() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let first = CrossSigningKeySet::upload_for(&alice).await;
    let second = CrossSigningKeySet {
        master: CrossSigningKey::new(),
        ..first
    };

    let keys = second.upload_body(&alice);
    let mut body = keys.clone();
    body["auth"] = password_of("alice");
    alice
        .client
        .post(DEVICE_SIGNING_PATH, body)
        .await
        .expect_ok();

    let told = alice.queries_keys(&alice.id).await;
    for usage in ["master", "self_signing", "user_signing"] {
        let key = &told[format!("{usage}_keys")][&alice.id];
        assert_eq!(*key, keys[format!("{usage}_key")], "{usage}");
    }
}

#[tokio::test]
async fn a_signature_upload_is_limited_in_users() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let users = |count: u32| -> Value {
        let users = (0..count).map(|n| (format!("@u{n}:localhost"), json!({})));
        Value::Object(users.collect())
    };

    let allowed = alice.client.post(SIGNATURES_PATH, users(10)).await;
    let refused = alice.client.post(SIGNATURES_PATH, users(1_001)).await;

    allowed.expect_ok();
    refused.expect_error(400, "M_INVALID_PARAM");
}
