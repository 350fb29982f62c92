//! The program as a child process, and its users.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{process, receiver::SERVICE_TOKEN};

pub(crate) struct Server {
    child: Child,
    address: String,
    /// The client of all users: the server limits the connections from one address.
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server with a new data directory, and these environment variables.
    #[expect(
        clippy::disallowed_methods,
        reason = "a client of the server under test needs no timeouts"
    )]
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        // The folder is in cargo's target directory, since the system's temporary folder may be in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_parlour"))
            .current_dir(folder.path())
            .env("PARLOUR__LISTEN__0__ADDRESS", "127.0.0.1:0")
            .env("PARLOUR__REGISTRATION__OPEN", "true")
            .env("PARLOUR__LIMITS__ENABLED", "false")
            .env("PARLOUR__LOGGING__FILTER", "warn")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("its output is piped");
        let read = BufReader::new(output).read_line(&mut line);
        read.expect("it prints its address");
        let address = line.trim().rsplit(' ').next().expect("the line has words");
        let address = address.to_owned();
        let http = reqwest::Client::new();
        let versions = format!("{address}/_matrix/client/versions");
        let answer = http.get(versions).send().await;
        assert!(answer.expect("the server answers").status().is_success());
        Self {
            child,
            address,
            http,
            _folder: folder,
        }
    }

    /// Returns the resident memory of the process in MiB.
    pub(crate) fn memory_mib(&self) -> f64 {
        process::memory_mib(self.child.id())
    }

    /// Returns the processor time that the process has used, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> f64 {
        process::cpu_ms(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A logged-in user.
#[derive(Clone)]
pub(crate) struct User {
    http: reqwest::Client,
    address: String,
    name: String,
    token: String,
    transactions: Arc<AtomicU64>,
}

impl User {
    fn new(server: &Server, name: &str, token: &str) -> Self {
        Self {
            http: server.http.clone(),
            address: server.address.clone(),
            name: name.to_owned(),
            token: token.to_owned(),
            transactions: Arc::default(),
        }
    }

    pub(crate) async fn register(server: &Server, name: &str) -> Self {
        let mut user = Self::new(server, name, "");
        let body = json!({
            "username": name, "password": "password", "auth": { "type": "m.login.dummy" },
        });
        let registered = user.post("register", body).await;
        text(&registered, "access_token").clone_into(&mut user.token);
        user
    }

    /// Returns the user of the application service.
    pub(crate) fn of_service(server: &Server) -> Self {
        Self::new(server, "bench", SERVICE_TOKEN)
    }

    pub(crate) async fn create_room(&self) -> String {
        let created = self
            .post("createRoom", json!({ "preset": "public_chat" }))
            .await;
        text(&created, "room_id").to_owned()
    }

    pub(crate) async fn join(&self, room: &str) {
        self.post(&format!("join/{room}"), json!({})).await;
    }

    pub(crate) async fn set_pusher(&self, url: &str) {
        let body = json!({
            "pushkey": self.name, "app_id": "bench", "kind": "http", "lang": "en",
            "app_display_name": "Bench", "device_display_name": "Bench", "data": { "url": url },
        });
        self.post("pushers/set", body).await;
    }

    /// Sends messages, each after the one before it is on disk.
    pub(crate) async fn send_messages(&self, room: &str, count: usize) {
        for _ in 0..count {
            self.send_message(room).await;
        }
    }

    async fn send_message(&self, room: &str) {
        let n = self.transactions.fetch_add(1, Ordering::Relaxed);
        let url = self.url(&format!("rooms/{room}/send/m.room.message/{n}"));
        let body = json!({ "msgtype": "m.text", "body": "A message of a usual length, as people send it." });
        self.request(self.http.put(url).json(&body)).await;
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.request(self.http.post(self.url(path)).json(&body))
            .await
    }

    fn url(&self, path: &str) -> String {
        format!("{}/_matrix/client/v3/{path}", self.address)
    }

    async fn request(&self, request: RequestBuilder) -> Value {
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

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body.get(field).and_then(Value::as_str).expect("a text")
}
