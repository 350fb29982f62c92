//! Tests the registration of application services, in files and by administrators.

use std::fs;

use axum::http::Method;
use serde_json::json;
use tempfile::NamedTempFile;

use super::{TestService, bridge, join, register_ghost};
use crate::harness::Server;

#[tokio::test]
async fn an_invalid_registration_stops_the_start() {
    let server = Server::start().await;
    let file = NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), "id: bridge\n").expect("the file is writable");
    let path = file.path().to_owned();

    let error = server
        .restart_error(|config| config.appservices.registrations = vec![path.clone()])
        .await;

    assert!(error.contains("as_token"), "{error}");
    assert!(error.contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn an_administrator_registers_and_removes_a_service() {
    let mut service = TestService::start("").await;
    let server = Server::start().await;
    let (admin, alice) = (
        server.register_admin("admin").await,
        server.register("alice").await,
    );
    let path = "/_parlour/admin/v1/application_services/bridge";
    let text = service.registration_text();
    let refused = alice.client.send(Method::PUT, path, &text).await;
    refused.expect_error(403, "M_FORBIDDEN");
    let other_path = "/_parlour/admin/v1/application_services/other";
    let refused = admin.client.send(Method::PUT, other_path, &text).await;
    refused.expect_error(400, "M_INVALID_PARAM");

    admin
        .client
        .send(Method::PUT, path, &text)
        .await
        .expect_ok();
    let ghost = register_ghost(&server, "_bridge_ghost").await;
    let room = alice.creates_open_room().await;
    join(&server, &ghost, &room).await;
    alice.says(&room, "hello").await;
    service.next_message("hello").await;
    let server = server.restart().await;
    let (admin, alice) = (admin.on_server(&server), alice.on_server(&server));
    alice.says(&room, "after the restart").await;
    service.next_message("after the restart").await;
    let list = admin.client.get("/_parlour/admin/v1/application_services");
    let list = list.await.expect_ok();
    let listed = &list["application_services"][0];
    assert_eq!(
        (&listed["id"], &listed["source"]),
        (&json!("bridge"), &json!("database"))
    );
    assert!(!list.to_string().contains("token"), "{list}");

    let removed = admin.client.delete(path).await;
    removed.expect_ok();
    let whoami = "/_matrix/client/v3/account/whoami";
    let unknown = bridge(&server).get(whoami).await;
    unknown.expect_error(401, "M_UNKNOWN_TOKEN");
    let again = admin.client.delete(path).await;
    again.expect_error(404, "M_NOT_FOUND");
}
