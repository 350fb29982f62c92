//! Tests listeners with a certificate.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use parlour::config::ListenSection;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::Server;

/// Writes a self-signed certificate for `localhost`, and returns it and a listener that uses it.
fn tls_listener(folder: &Path) -> (CertificateDer<'static>, ListenSection) {
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(names).expect("the certificate is generated");
    let (certificate, key) = (folder.join("fullchain.pem"), folder.join("privkey.pem"));
    fs::write(&certificate, cert.pem()).expect("the certificate is written");
    fs::write(&key, signing_key.serialize_pem()).expect("the key is written");
    let listen = ListenSection {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls_certificate: Some(certificate),
        tls_key: Some(key),
    };
    (cert.der().clone(), listen)
}

async fn connect_tls(
    address: SocketAddr,
    trusted: CertificateDer<'static>,
    protocol: &str,
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).expect("the certificate is trusted");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the protocols")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address)
        .await
        .expect("the server listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect(name, stream)
        .await
        .expect("the TLS handshake succeeds")
}

#[tokio::test]
async fn a_listener_with_a_certificate_serves_over_tls() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (certificate, listen) = tls_listener(folder.path());
    let server = Server::with_config(|config| config.listen.push(listen)).await;

    let mut stream = connect_tls(server.running.addresses()[1], certificate, "http/1.1").await;
    let request = "GET /_parlour/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the request is sent");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("the response is read");

    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(r#"{"status":"ok"}"#), "{answer}");
}

#[tokio::test]
async fn http_2_is_negotiated_over_tls() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (certificate, listen) = tls_listener(folder.path());
    let server = Server::with_config(|config| config.listen.push(listen)).await;

    let stream = connect_tls(server.running.addresses()[1], certificate, "h2").await;

    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (_, listen) = tls_listener(folder.path());
    let server = Server::with_config(|config| config.listen.push(listen)).await;

    let (renewed, _) = tls_listener(folder.path());
    let stream = connect_tls(server.running.addresses()[1], renewed, "http/1.1").await;

    assert!(stream.get_ref().0.peer_addr().is_ok());
}

#[tokio::test]
async fn idle_connections_do_not_block_new_ones() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (certificate, listen) = tls_listener(folder.path());
    let server = Server::with_config(|config| config.listen.push(listen)).await;
    let address = server.running.addresses()[1];

    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(
            TcpStream::connect(address)
                .await
                .expect("the server listens"),
        );
    }
    let stream = connect_tls(address, certificate, "http/1.1").await;

    assert_eq!(silent.len(), 300);
    assert!(stream.get_ref().1.alpn_protocol().is_some());
}
