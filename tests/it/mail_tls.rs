//! Tests e-mail over encrypted connections to the SMTP server.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::{
    federation::Network,
    program::RestartableServer,
    smtp_server::{SmtpSecurity, SmtpServer},
};

/// Makes a server send an e-mail through an SMTP server with a certificate of the test.
async fn send_through(encryption: &str, security: impl FnOnce(&Network) -> SmtpSecurity) {
    let network = Network::new();
    let mut smtp = SmtpServer::start_with(security(&network)).await;
    let authority = network.authority_path();
    let mut site = RestartableServer::new(&[
        ("PARLOUR__MAIL__SMTP_HOST", "127.0.0.1"),
        ("PARLOUR__MAIL__SMTP_PORT", &smtp.port().to_string()),
        ("PARLOUR__MAIL__SMTP_ENCRYPTION", encryption),
        ("PARLOUR__MAIL__FROM", "noreply@example.org"),
        ("SSL_CERT_FILE", &authority.to_string_lossy()),
    ])
    .await;
    let server = site.start();

    let body = json!({ "client_secret": "secret", "email": "a@example.org", "send_attempt": 1 });
    let path = "/_matrix/client/v3/register/email/requestToken";
    server.post(path, body).await.expect_ok();

    assert_eq!(smtp.next().await.to, "a@example.org");
    site.kill();
}

#[tokio::test]
async fn an_email_is_sent_over_tls() {
    send_through("tls", |network| {
        SmtpSecurity::Tls(network.tls_acceptor(Ipv4Addr::LOCALHOST))
    })
    .await;
}

#[tokio::test]
async fn an_email_is_sent_only_after_the_connection_has_changed_to_tls() {
    send_through("starttls", |network| {
        SmtpSecurity::StartTls(network.tls_acceptor(Ipv4Addr::LOCALHOST))
    })
    .await;
}
