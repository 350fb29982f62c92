//! Pages on which users complete stages of interactive authentication that their client does not know.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Client, HttpAnswer, Server};

const REGISTER_PATH: &str = "/_matrix/client/v3/register";
const PASSWORD_PATH: &str = "/_matrix/client/v3/account/password";

fn stage_path(stage: &str, session: &Value) -> String {
    let session = session.as_str().expect("a session");
    format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={session}")
}

async fn submit_form(client: &Client, path: &str, form: &str) -> HttpAnswer {
    client.send(Method::POST, path, form).await
}

fn is_done(page: &HttpAnswer) -> bool {
    page.text.contains("onAuthDone")
}

#[tokio::test]
async fn auth_pages_run_only_the_completion_script() {
    let server = Server::start().await;
    let asked = server.post(REGISTER_PATH, json!({})).await;
    let path = stage_path("m.login.dummy", &asked.body["session"]);

    let form = server.get(&path).await;
    let done = submit_form(&server.client(), &path, "").await;

    assert_eq!((form.status, done.status), (200, 200));
    assert!(form.text.contains("<form") && !form.text.contains("<script"));
    assert!(is_done(&done), "{}", done.text);
    for (page, script) in [(form, "script-src 'none'"), (done, "script-src 'sha256-")] {
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(policy.contains(script), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("referrer-policy"), "same-origin");
    }
}

#[tokio::test]
async fn a_registration_token_can_be_entered_on_a_page() {
    let server = Server::with_config(|config| config.registration.open = false).await;
    let body = json!({ "username": "alice", "password": "password" });
    let asked = server.post(REGISTER_PATH, body).await;
    let session = &asked.body["session"];
    let path = stage_path("m.login.registration_token", session);
    let alone = json!({ "auth": { "session": session } });

    let wrong = submit_form(&server.client(), &path, "token=wrong").await;
    let early = server.post(REGISTER_PATH, alone.clone()).await;
    let form = format!("token={}", server.first_admin_token());
    let right = submit_form(&server.client(), &path, &form).await;

    assert_eq!((wrong.status, early.status), (403, 401));
    assert!(wrong.text.contains("role=\"alert\"") && !is_done(&wrong));
    assert!(is_done(&right), "{}", right.text);
    let registered = server.post(REGISTER_PATH, alone).await.expect_ok();
    assert_eq!(registered["user_id"], format!("@alice:{}", server.name()));
}

#[tokio::test]
async fn a_password_can_be_entered_on_a_page() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let body = json!({ "new_password": "second" });
    let asked = alice.client.post(PASSWORD_PATH, body).await;
    let session = &asked.body["session"];
    let path = stage_path("m.login.password", session);

    let wrong = submit_form(&server.client(), &path, "password=wrong").await;
    let right = submit_form(&server.client(), &path, "password=password").await;

    assert!(!is_done(&wrong) && is_done(&right), "{}", right.text);
    let alone = json!({ "auth": { "session": session } });
    alice.client.post(PASSWORD_PATH, alone).await.expect_ok();
}

#[tokio::test]
async fn a_page_completes_only_the_next_stage() {
    let server = Server::with_config(|config| config.registration.open = false).await;
    let asked = server.post(REGISTER_PATH, json!({})).await;
    let client = server.client();

    let not_offered = stage_path("m.login.dummy", &asked.body["session"]);
    let not_offered = submit_form(&client, &not_offered, "").await;
    let unknown = stage_path("m.login.dummy", &json!("unknown"));
    let unknown = submit_form(&client, &unknown, "").await;

    assert_eq!((not_offered.status, unknown.status), (403, 403));
    let nameless = "/_matrix/client/v3/auth/m.login.dummy/fallback/web";
    server
        .get(nameless)
        .await
        .expect_error(400, "M_MISSING_PARAM");
    let odd = stage_path("m.login.odd", &json!("x"));
    server.get(&odd).await.expect_error(404, "M_UNRECOGNIZED");
}
