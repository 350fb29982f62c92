//! Cross-signing keys, with which users sign their devices and each other.

use ruma::{
    canonical_json::CanonicalJsonObject,
    signatures::{Ed25519KeyPair, KeyPair, to_canonical_json_string_for_signing},
};
use serde_json::{Value, json};

use crate::{
    harness::{Answer, Server, User, password_of},
    keys::{UPLOAD, device_keys},
};

const SIGNING: &str = "/_matrix/client/v3/keys/device_signing/upload";
const SIGNATURES: &str = "/_matrix/client/v3/keys/signatures/upload";

/// A key pair for signing.
pub(crate) struct Key {
    pair: Ed25519KeyPair,
    pub(crate) public: String,
}

impl Key {
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
    pub(crate) fn of(&self, user: &User, usage: &str) -> Value {
        json!({ "user_id": user.id, "usage": [usage], "keys": { self.id(): self.public } })
    }

    /// Signs an object as a user, with the key of this id.
    pub(crate) fn signs(&self, user: &User, id: &str, mut object: Value) -> Value {
        let signed: CanonicalJsonObject =
            serde_json::from_value(object.clone()).expect("an object");
        let json = to_canonical_json_string_for_signing(&signed).expect("JSON");
        let signature = self.pair.sign(json.as_bytes()).base64();
        object["signatures"] = json!({ &*user.id: { id: signature } });
        object
    }
}

/// The cross-signing keys of a user.
pub(crate) struct Signer {
    pub(crate) master: Key,
    self_signing: Key,
    pub(crate) user_signing: Key,
}

impl Signer {
    fn new() -> Self {
        Self {
            master: Key::new(),
            self_signing: Key::new(),
            user_signing: Key::new(),
        }
    }

    fn upload(&self, user: &User) -> Value {
        let by_master = |key: &Key, usage: &str| {
            let id = self.master.id();
            self.master.signs(user, &id, key.of(user, usage))
        };
        json!({
            "master_key": self.master.of(user, "master"),
            "self_signing_key": by_master(&self.self_signing, "self_signing"),
            "user_signing_key": by_master(&self.user_signing, "user_signing"),
        })
    }

    /// Uploads a new set of keys for a user who has none.
    pub(crate) async fn of(user: &User) -> Self {
        let signer = Self::new();
        let uploaded = user.client.post(SIGNING, signer.upload(user)).await;
        uploaded.expect_ok();
        signer
    }
}

impl User {
    pub(crate) async fn publishes(&self, whose: &User, key: &str, signed: Value) -> Value {
        let body = json!({ &*whose.id: { key: signed } });
        self.client.post(SIGNATURES, body).await.expect_ok()
    }
}

#[tokio::test]
async fn the_first_keys_need_no_password_and_others_do() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let (first, second) = (Signer::new(), Signer::new());
    let upload = async |body: Value| alice.client.post(SIGNING, body).await;

    upload(first.upload(&alice)).await.expect_ok();
    upload(first.upload(&alice)).await.expect_ok();
    let asked = upload(second.upload(&alice)).await;
    assert_eq!(asked.status, 401);
    assert!(asked.body["flows"].is_array(), "{}", asked.text);
    let mut body = second.upload(&alice);
    body["auth"] = password_of("alice");
    body["auth"]["session"] = asked.body["session"].clone();
    upload(body.clone()).await.expect_ok();
    upload(body).await.expect_ok();

    let told = alice.queries(&alice.id).await;
    let master = &told["master_keys"][&alice.id];
    assert_eq!(*master, second.master.of(&alice, "master"));
    assert!(told["self_signing_keys"][&alice.id]["signatures"].is_object());
}

#[tokio::test]
async fn the_user_signing_key_is_for_its_owner() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    Signer::of(&alice).await;

    let (own, others) = (alice.queries(&alice.id).await, bob.queries(&alice.id).await);

    assert!(own["user_signing_keys"][&alice.id].is_object());
    assert_eq!(others["user_signing_keys"], json!({}));
    assert_eq!(others["master_keys"], own["master_keys"]);
    assert_eq!(others["self_signing_keys"], own["self_signing_keys"]);
}

#[tokio::test]
async fn keys_that_the_master_key_did_not_sign_are_refused() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let signer = Signer::new();
    let upload = async |change: &dyn Fn(&mut Value)| -> Answer {
        let mut body = signer.upload(&alice);
        change(&mut body);
        alice.client.post(SIGNING, body).await
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
    let stranger = server.post(SIGNING, json!({})).await;
    stranger.expect_error(401, "M_MISSING_TOKEN");
    assert_eq!(bob.queries(&alice.id).await["master_keys"], json!({}));
}

#[tokio::test]
async fn a_key_cannot_have_the_name_of_a_device() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let key = Key::new();
    let mut login = password_of("alice");
    login["device_id"] = json!(key.public);
    server
        .post("/_matrix/client/v3/login", login)
        .await
        .expect_ok();

    let body = json!({ "master_key": key.of(&alice, "master") });
    let refused = alice.client.post(SIGNING, body).await;

    refused.expect_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn everyone_sees_which_devices_a_user_signed() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let owner = Signer::of(&alice).await;
    alice.has_keys(1).await;

    let by = owner.self_signing.id();
    let signed = owner
        .self_signing
        .signs(&alice, &by, device_keys(&alice, 1));
    let told = alice
        .publishes(&alice, &alice.device_id, signed.clone())
        .await;

    assert_eq!(told, json!({ "failures": {} }));
    let keys = &bob.queries(&alice.id).await["device_keys"][&alice.id][&alice.device_id];
    assert_eq!(keys["signatures"], signed["signatures"]);
    alice.has_keys(2).await;
    let keys = &bob.queries(&alice.id).await["device_keys"][&alice.id][&alice.device_id];
    assert_eq!(keys["signatures"], json!({}), "a different key was signed");
}

#[tokio::test]
async fn a_device_signs_the_master_key() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (owner, device) = (Signer::of(&alice).await, Key::new());
    let by = format!("ed25519:{}", alice.device_id);
    let mut keys = device_keys(&alice, 1);
    keys["keys"] = json!({ &*by: device.public });
    let body = json!({ "device_keys": keys });
    alice.client.post(UPLOAD, body).await.expect_ok();

    let signed = device.signs(&alice, &by, owner.master.of(&alice, "master"));
    let told = alice
        .publishes(&alice, &owner.master.public, signed.clone())
        .await;

    assert_eq!(told, json!({ "failures": {} }));
    assert_eq!(
        bob.queries(&alice.id).await["master_keys"][&alice.id],
        signed
    );
}

#[tokio::test]
async fn whom_a_user_has_verified_is_nobody_elses_business() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (alices, bobs) = (Signer::of(&alice).await, Signer::of(&bob).await);
    let before = (alice.syncs().await, bob.syncs().await);

    let (by, master) = (alices.user_signing.id(), bobs.master.of(&bob, "master"));
    let signed = alices.user_signing.signs(&alice, &by, master.clone());
    let told = alice
        .publishes(&bob, &bobs.master.public, signed.clone())
        .await;

    assert_eq!(told, json!({ "failures": {} }));
    let key = async |user: &User| user.queries(&bob.id).await["master_keys"][&bob.id].clone();
    assert_eq!(key(&alice).await, signed);
    assert_eq!(key(&bob).await, master);
    let alices_sync = alice.syncs_after(&before.0).await;
    assert_eq!(alices_sync["device_lists"]["changed"], json!([bob.id]));
    let bobs_sync = bob.syncs_after(&before.1).await;
    assert_eq!(bobs_sync["device_lists"], Value::Null);
}

#[tokio::test]
async fn what_is_wrong_with_a_signature_is_told_for_each_key() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (alices, bobs) = (Signer::of(&alice).await, Signer::of(&bob).await);
    alice.has_keys(1).await;
    let by = alices.self_signing.id();

    let forged = bobs.self_signing.signs(&alice, &by, device_keys(&alice, 1));
    let other = alices
        .self_signing
        .signs(&alice, &by, device_keys(&alice, 2));
    let errcode = async |whose: &User, key: &str, signed: Value| {
        let told = alice.publishes(whose, key, signed).await;
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
    let master = bobs.master.of(&bob, "master");
    let unsigned = errcode(&bob, &bobs.master.public, master).await;
    assert_eq!(unsigned, "M_INVALID_SIGNATURE");

    let refused = server.post(SIGNATURES, json!({})).await;
    refused.expect_error(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn the_keys_of_a_deactivated_account_are_gone() {
    let server = Server::start().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    Signer::of(&alice).await;
    alice.has_keys(1).await;

    let body = json!({ "auth": password_of("alice") });
    let path = "/_matrix/client/v3/account/deactivate";
    alice.client.post(path, body).await.expect_ok();

    let told = bob.queries(&alice.id).await;
    assert_eq!(told["device_keys"], json!({ &*alice.id: {} }));
    assert_eq!(told["master_keys"], json!({}));
    assert_eq!(told["self_signing_keys"], json!({}));
}

#[tokio::test]
async fn another_master_key_can_take_over_the_other_keys() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let first = Signer::of(&alice).await;
    let second = Signer {
        master: Key::new(),
        ..first
    };

    let keys = second.upload(&alice);
    let mut body = keys.clone();
    body["auth"] = password_of("alice");
    alice.client.post(SIGNING, body).await.expect_ok();

    let told = alice.queries(&alice.id).await;
    for usage in ["master", "self_signing", "user_signing"] {
        let key = &told[format!("{usage}_keys")][&alice.id];
        assert_eq!(*key, keys[format!("{usage}_key")], "{usage}");
    }
}

#[tokio::test]
async fn users_without_keys_count_among_the_signed() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let users = |count: u32| -> Value {
        let users = (0..count).map(|n| (format!("@u{n}:localhost"), json!({})));
        Value::Object(users.collect())
    };

    let allowed = alice.client.post(SIGNATURES, users(10)).await;
    let refused = alice.client.post(SIGNATURES, users(1_001)).await;

    allowed.expect_ok();
    refused.expect_error(400, "M_INVALID_PARAM");
}
