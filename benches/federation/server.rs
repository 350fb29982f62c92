//! The measured program as a child process, with one registered user.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{
    peer::{Peer, unused_address},
    process, text,
};

pub(crate) struct Server {
    child: Child,
    address: String,
    pub(crate) name: String,
    http: reqwest::Client,
    token: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server that trusts the other one, and registers a user.
    #[expect(
        clippy::disallowed_methods,
        reason = "a client of the server under test needs no timeouts"
    )]
    pub(crate) async fn start(peer: &Peer) -> Self {
        // The folder is in cargo's target directory, since the system's temporary folder may be in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let address = unused_address();
        let config = config_text(peer, address);
        fs::write(folder.path().join("parlour.toml"), config).expect("is written");
        let (child, client_address) = start_program(&folder);
        let mut server = Self {
            child,
            address: client_address,
            name: address.to_string(),
            http: reqwest::Client::new(),
            token: String::new(),
            folder,
        };
        let body = json!({
            "username": "alice", "password": "password", "auth": { "type": "m.login.dummy" },
        });
        let registered = server
            .send_request(server.http.post(server.url("register")).json(&body))
            .await;
        text(&registered["access_token"]).clone_into(&mut server.token);
        server
    }

    /// Stops the server cleanly, runs a function, and starts the server again.
    pub(crate) fn restart_after(&mut self, meanwhile: impl FnOnce()) {
        let kill = format!("kill -TERM {}", self.child.id());
        let told = Command::new("sh").args(["-c", &kill]).status();
        assert!(told.expect("a shell").success());
        self.child.wait().expect("the server ends");
        meanwhile();
        (self.child, self.address) = start_program(&self.folder);
    }

    pub(crate) async fn join_room(&self, room_id: &str, via: &str) {
        let url = self.url(&format!("join/{room_id}?via={via}&server_name={via}"));
        self.send_request(self.http.post(url).json(&json!({})))
            .await;
    }

    pub(crate) async fn count_joined_members(&self, room_id: &str) -> usize {
        let url = self.url(&format!("rooms/{room_id}/joined_members"));
        let answer = self.send_request(self.http.get(url)).await;
        answer["joined"].as_object().expect("has members").len()
    }

    pub(crate) async fn sync(&self, since: Option<&str>) -> Value {
        let since = since.map_or_else(String::new, |since| format!("&timeout=30000&since={since}"));
        let filter = r#"{"room":{"timeline":{"limit":1}}}"#;
        let url = self.url(&format!("sync?filter={filter}{since}"));
        self.send_request(self.http.get(url)).await
    }

    /// Reads the messages of a room backwards, page by page, and returns their number.
    pub(crate) async fn read_history(&self, room_id: &str, enough: usize) -> usize {
        let (mut read, mut from) = (0, String::new());
        loop {
            let url = self.url(&format!("rooms/{room_id}/messages?dir=b&limit=100{from}"));
            let page = self.send_request(self.http.get(url)).await;
            let events = page["chunk"].as_array().expect("has events");
            read += events
                .iter()
                .filter(|event| event["type"] == "m.room.message")
                .count();
            match page["end"].as_str().filter(|_| read <= enough) {
                Some(end) => from = format!("&from={end}"),
                None => return read,
            }
        }
    }

    /// Sends a transaction to the server.
    pub(crate) async fn receive_transaction(&self, path: &str, body: String, proof: &str) -> Value {
        let request = self.http.put(format!("{}{path}", self.address)).body(body);
        let answer = request.header("authorization", proof).send().await;
        let answer = answer.expect("the server answers");
        let status = answer.status();
        let told: Value = answer.json().await.expect("is JSON");
        assert!(status.is_success(), "{status}: {told}");
        told
    }

    /// Returns the resident memory of the process in MiB.
    pub(crate) fn memory_mib(&self) -> f64 {
        process::memory_mib(self.child.id())
    }

    /// Returns the processor time that the process has used, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> f64 {
        process::cpu_ms(self.child.id())
    }

    fn url(&self, path: &str) -> String {
        format!("{}/_matrix/client/v3/{path}", self.address)
    }

    async fn send_request(&self, request: RequestBuilder) -> Value {
        let request = if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        };
        let answer = request.send().await.expect("the server answers");
        let status = answer.status();
        let body: Value = answer.json().await.expect("the answer is JSON");
        assert!(status.is_success(), "{status}: {body}");
        body
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config_text(peer: &Peer, address: Ipv4Addr) -> String {
    let [certificate, key] = peer.write_certificate(address);
    let (certificate, key) = (certificate.display(), key.display());
    format!(
        r#"
        [server]
        name = "{address}"
        [[listen]]
        address = "127.0.0.1:0"
        [[listen]]
        address = "{address}:8448"
        tls_certificate = "{certificate}"
        tls_key = "{key}"
        [registration]
        open = true
        [federation]
        trusted_ca = ["{authority}"]
        allow_private_addresses = true
        notaries = []
        [limits]
        enabled = false
        [logging]
        filter = "warn"
        "#,
        authority = peer.authority_file().display(),
    )
}

fn start_program(folder: &tempfile::TempDir) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_parlour"))
        .current_dir(folder.path())
        .args(["--config", "parlour.toml"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let told = child.stdout.as_mut().expect("its output is piped");
    let read = BufReader::new(told).read_line(&mut line);
    read.expect("it prints its address");
    let address = line.trim().rsplit(' ').next().expect("the line has words");
    (child, address.to_owned())
}
