//! A server for each test, and an HTTP client with short methods for the tests.

use std::{net::SocketAddr, path::PathBuf};

use parlour::{
    cli::serve::{self, RunningServer},
    clock::Clock,
    config::{Config, DatabaseUrl},
    outbound,
};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

use crate::database::Database;

/// A running server with its own data directory and database; both are deleted when it is dropped.
pub(crate) struct Server {
    pub(crate) running: RunningServer,
    client: Client,
    config: Config,
    clock: Clock,
    // These are dropped after the server, in this order.
    database: Database,
    folder: tempfile::TempDir,
}

/// An HTTP client of a server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// An answer from the server.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// The body as text, for answers that are not JSON.
    pub(crate) text: String,
    /// The body as bytes, for answers that are not text.
    pub(crate) bytes: Vec<u8>,
}

/// A user who is logged in on a device.
pub(crate) struct User {
    pub(crate) client: Client,
    pub(crate) id: String,
    pub(crate) device_id: String,
    pub(crate) token: String,
}

/// Returns the password object of a user for a login or an interactive authentication.
pub(crate) fn password_of(name: &str) -> Value {
    json!({
        "type": "m.login.password", "password": "password",
        "identifier": { "type": "m.id.user", "user": name },
    })
}

impl Server {
    /// Starts a server with the configuration that suits most tests.
    pub(crate) async fn start() -> Self {
        Self::with_config(|_| {}).await
    }

    /// Starts a server with a configuration that the test changes.
    pub(crate) async fn with_config(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_clock(Clock::system(), change).await
    }

    /// Starts a server that uses the clock of the test.
    pub(crate) async fn with_clock(clock: Clock, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = Database::new().await;
        let mut config = Config::default();
        config.server.data_dir = folder.path().join("data");
        config.database.url = database.url();
        config.listen[0].address = SocketAddr::from(([127, 0, 0, 1], 0));
        config.limits.enabled = false;
        config.passwords.memory_kib = 8;
        config.passwords.iterations = 1;
        config.registration.open = true;
        // Tests of federation enable it; others must not contact servers that do not exist.
        config.federation.enabled = false;
        config.federation.notaries = Vec::new();
        change(&mut config);
        Self::start_on(config, clock, database, folder).await
    }

    async fn start_on(
        config: Config,
        clock: Clock,
        database: Database,
        folder: tempfile::TempDir,
    ) -> Self {
        let running = serve::start_at(config.clone(), clock.clone())
            .await
            .expect("the server starts");
        let address = running.addresses()[0];
        Self {
            client: Client::for_address(&format!("http://{address}")),
            running,
            config,
            clock,
            database,
            folder,
        }
    }

    /// Stops the server and starts it again on the same data, on another port.
    pub(crate) async fn restart(self) -> Self {
        self.running.stop().await;
        self.running.wait_until_stopped().await;
        Box::pin(Self::start_on(
            self.config,
            self.clock,
            self.database,
            self.folder,
        ))
        .await
    }

    /// Restarts like [`Server::restart`], with a changed configuration.
    pub(crate) async fn restart_with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self.restart().await
    }

    /// Stops the server, and returns the error with which it fails to start with a changed configuration.
    pub(crate) async fn restart_error(mut self, change: impl FnOnce(&mut Config)) -> String {
        self.running.stop().await;
        self.running.wait_until_stopped().await;
        change(&mut self.config);
        let started = serve::start_at(self.config, self.clock).await;
        started
            .err()
            .expect("the server fails to start")
            .to_string()
    }

    /// Returns the URL of the database, and the folder that contains the file of an SQLite database.
    pub(crate) fn database_location(&self) -> (DatabaseUrl, PathBuf) {
        let folder = self.config.server.data_dir.clone();
        (self.config.database.url.clone(), folder)
    }

    /// Stops the server, lets the test change its data, and starts it again.
    pub(crate) async fn restart_after(self, change: impl AsyncFnOnce(&Self)) -> Self {
        self.running.stop().await;
        self.running.wait_until_stopped().await;
        change(&self).await;
        Box::pin(Self::start_on(
            self.config,
            self.clock,
            self.database,
            self.folder,
        ))
        .await
    }

    /// Returns a client of this server.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Returns the name of this server.
    pub(crate) fn name(&self) -> &str {
        self.config.server.name.as_str()
    }

    /// Registers a user whose password is "password".
    pub(crate) async fn register(&self, name: &str) -> User {
        let body = json!({
            "username": name, "password": "password", "auth": { "type": "m.login.dummy" },
        });
        let registered = self.post("/_matrix/client/v3/register", body).await;
        self.user_from_login(&registered.expect_ok())
    }

    /// Registers the administrator with the link that the server shows at its first start.
    pub(crate) async fn register_admin(&self, name: &str) -> User {
        let auth =
            json!({ "type": "m.login.registration_token", "token": self.first_admin_token() });
        let body = json!({ "username": name, "password": "password", "auth": auth });
        let registered = self.post("/_matrix/client/v3/register", body).await;
        self.user_from_login(&registered.expect_ok())
    }

    /// Returns the token of the link that the server shows at its first start.
    pub(crate) fn first_admin_token(&self) -> String {
        let url = self.running.first_admin_url();
        let url = url.expect("there is no administrator yet");
        let (_, token) = url.split_once("/?registration_token=").expect("a token");
        token.to_owned()
    }

    /// Registers a guest.
    pub(crate) async fn register_guest(&self) -> User {
        let path = "/_matrix/client/v3/register?kind=guest";
        let registered = self.post(path, json!({})).await;
        self.user_from_login(&registered.expect_ok())
    }

    /// Logs a user in on another device.
    pub(crate) async fn log_in(&self, name: &str) -> User {
        let login = self
            .post("/_matrix/client/v3/login", password_of(name))
            .await;
        self.user_from_login(&login.expect_ok())
    }

    /// Returns the logged-in user from the answer to a registration or a login.
    pub(crate) fn user_from_login(&self, answer: &Value) -> User {
        let text = |key: &str| answer[key].as_str().expect("is a text").to_owned();
        User {
            client: self.client.with_token(&text("access_token")),
            id: text("user_id"),
            device_id: text("device_id"),
            token: text("access_token"),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> HttpAnswer {
        self.client.get(path).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> HttpAnswer {
        self.client.post(path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> HttpAnswer {
        self.client.put(path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> HttpAnswer {
        self.client.delete(path).await
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for the server as long as necessary"
)]
pub(crate) fn http_client() -> reqwest::Client {
    outbound::choose_cryptography();
    reqwest::Client::new()
}

impl Client {
    pub(crate) fn for_address(base: &str) -> Self {
        Self {
            http: http_client(),
            base: base.to_owned(),
            token: None,
        }
    }

    /// Returns a client with other settings for HTTP.
    pub(crate) fn with_http(self, http: reqwest::Client) -> Self {
        Self { http, ..self }
    }

    /// Returns a client that sends this access token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) async fn get(&self, path: &str) -> HttpAnswer {
        self.send(Method::GET, path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> HttpAnswer {
        self.send(Method::POST, path, &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> HttpAnswer {
        self.send(Method::PUT, path, &body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> HttpAnswer {
        self.send(Method::DELETE, path, "").await
    }

    /// Sends a request with a body as text.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &str) -> HttpAnswer {
        self.send_with_headers(method, path, body, &[]).await
    }

    /// Sends a request with additional headers.
    pub(crate) async fn send_with_headers(
        &self,
        method: Method,
        path: &str,
        body: &str,
        headers: &[(&'static str, &str)],
    ) -> HttpAnswer {
        self.send_bytes(method, path, body.to_owned(), headers)
            .await
    }

    /// Sends a request with any body.
    pub(crate) async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
        headers: &[(&'static str, &str)],
    ) -> HttpAnswer {
        let answer = self.try_send(method, path, body, headers).await;
        answer.expect("the server answers")
    }

    /// Sends a request to a server that may have been killed before it answers.
    pub(crate) async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
        headers: &[(&'static str, &str)],
    ) -> reqwest::Result<HttpAnswer> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, url).body(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let bytes = response.bytes().await?.to_vec();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(HttpAnswer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or_default(),
            text,
            bytes,
        })
    }
}

impl HttpAnswer {
    /// Returns the body of a successful answer, and panics for any other.
    #[track_caller]
    pub(crate) fn expect_ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.body
    }

    /// Returns the body of an answer with this error, and panics for any other.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, errcode: &str) -> Value {
        let found = (self.status, self.body["errcode"].as_str());
        assert_eq!(found, (status, Some(errcode)), "{}", self.text);
        assert!(self.body["error"].is_string(), "{}", self.text);
        self.body
    }

    /// Returns the value of a header, or an empty text if it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("the header is text"))
    }
}
