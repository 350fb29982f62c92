//! Signing in on the pages of the server, with the OAuth 2.0 API.

mod account;
mod device_grant;
mod identity_provider;
mod pages;
mod provider_accounts;
mod provider_logout;
mod provider_sign_in;
mod qr_code;
mod sign_in;
mod tokens;

use parlour::{
    clock::Clock,
    config::{BaseUrl, Config},
};
use reqwest::Method;
use serde_json::{Map, Value, json};
use url::{Url, form_urlencoded};

use crate::{
    browser::Browser,
    harness::{Client, HttpAnswer, Server, User},
};

/// The address of the server, as the metadata has it.
const PUBLIC_URL: &str = "https://chat.example.org";
/// The address to which users go after they have signed in an app.
const REDIRECT_URI: &str = "https://app.example.com/callback";
/// The example of RFC 7636.
const CODE_VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CODE_CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
const WHOAMI_PATH: &str = "/_matrix/client/v3/account/whoami";

/// A server with a public address.
async fn start_server() -> Server {
    start_server_with(Clock::system(), |_| {}).await
}

async fn start_server_with(clock: Clock, change: impl FnOnce(&mut Config)) -> Server {
    Server::with_clock(clock, |config| {
        config.server.public_url = BaseUrl::parse(PUBLIC_URL);
        change(config);
    })
    .await
}

/// An app that knows where the endpoints are, and has registered.
struct ClientApp {
    client: Client,
    metadata: Value,
    client_id: String,
}

impl ClientApp {
    async fn register(server: &Server) -> Self {
        let client = server.client();
        let metadata = client
            .get("/_matrix/client/v1/auth_metadata")
            .await
            .expect_ok();
        let mut app = Self {
            client,
            metadata,
            client_id: String::new(),
        };
        let registered = app.register_client(client_metadata()).await;
        assert_eq!(registered.status, 201, "{}", registered.text);
        app.client_id = text(&registered.body, "client_id");
        app
    }

    async fn register_client(&self, metadata: Value) -> HttpAnswer {
        let path = self.endpoint("registration_endpoint");
        self.client.post(&path, metadata).await
    }

    /// Returns the path of an endpoint of the metadata.
    fn endpoint(&self, name: &str) -> String {
        let url = text(&self.metadata, name);
        let path = url.strip_prefix(PUBLIC_URL);
        path.expect("the endpoint is on this server").to_owned()
    }

    /// Returns the parameters of a request to sign in a device.
    fn authorization_parameters(&self, device_id: &str) -> Vec<(&'static str, String)> {
        vec![
            ("response_type", "code".to_owned()),
            ("client_id", self.client_id.clone()),
            ("redirect_uri", REDIRECT_URI.to_owned()),
            ("scope", scope_of(device_id)),
            ("state", "the state".to_owned()),
            ("response_mode", "fragment".to_owned()),
            ("code_challenge", CODE_CHALLENGE.to_owned()),
            ("code_challenge_method", "S256".to_owned()),
        ]
    }

    /// Returns the address of the page on which a user lets the app sign in a device.
    fn authorization_address(&self, device_id: &str) -> String {
        self.authorization_address_with(&self.authorization_parameters(device_id))
    }

    fn authorization_address_with(&self, parameters: &[(&str, String)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        let path = self.endpoint("authorization_endpoint");
        format!("{path}?{}", query.finish())
    }

    async fn request_tokens(&self, fields: &[(&str, &str)]) -> HttpAnswer {
        self.post_form("token_endpoint", fields).await
    }

    async fn post_form(&self, endpoint: &str, fields: &[(&str, &str)]) -> HttpAnswer {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let path = self.endpoint(endpoint);
        self.client
            .send_with_headers(Method::POST, &path, &form.finish(), &headers)
            .await
    }

    async fn exchange_code(&self, code: &str) -> HttpAnswer {
        self.request_tokens(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT_URI),
            ("client_id", &self.client_id),
            ("code_verifier", CODE_VERIFIER),
        ])
        .await
    }

    async fn refresh(&self, refresh_token: &str) -> HttpAnswer {
        self.request_tokens(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
            ("client_id", &self.client_id),
        ])
        .await
    }

    /// Signs in a device of the user who is signed in in the browser. Returns the tokens.
    async fn sign_in(&self, browser: &Browser, device_id: &str) -> Value {
        let code = self.get_code(browser, device_id).await;
        self.exchange_code(&code).await.expect_ok()
    }

    /// Lets the user who is signed in in the browser sign in a device. Returns the code.
    async fn get_code(&self, browser: &Browser, device_id: &str) -> String {
        let page = self.authorization_address(device_id);
        let allowed = browser.submit(&page, &[("decision", "allow")]).await;
        let result = callback_of(&allowed);
        assert_eq!(text(&result, "state"), "the state");
        text(&result, "code")
    }
}

fn client_metadata() -> Value {
    json!({
        "client_name": "Example App",
        "client_uri": "https://example.com/",
        "tos_uri": "https://example.com/terms",
        "redirect_uris": [REDIRECT_URI],
        "response_types": ["code"],
        "grant_types": ["authorization_code", "refresh_token", DEVICE_GRANT],
        "token_endpoint_auth_method": "none",
        "application_type": "web",
    })
}

fn scope_of(device_id: &str) -> String {
    format!("urn:matrix:client:api:* urn:matrix:client:device:{device_id}")
}

/// Returns the parameters that an answer adds to the redirect URI of the app.
fn callback_of(answer: &HttpAnswer) -> Value {
    assert_eq!(answer.status, 303, "{}", answer.text);
    let url = Url::parse(answer.header("location")).expect("is an address");
    assert!(url.as_str().starts_with(REDIRECT_URI), "{url}");
    let parameters = url.fragment().or(url.query()).unwrap_or_default();
    let pairs = form_urlencoded::parse(parameters.as_bytes()).into_owned();
    let fields: Map<String, Value> = pairs
        .map(|(name, value)| (name, Value::from(value)))
        .collect();
    fields.into()
}

/// Signs a user in on the page of the server.
async fn sign_in(browser: &Browser, user: &str, password: &str) -> HttpAnswer {
    let fields = [("user", user), ("password", password)];
    browser.submit("/_parlour/sign-in", &fields).await
}

/// Returns a browser in which a user is signed in who has just registered.
async fn signed_in_browser(server: &Server, name: &str) -> (Browser, User) {
    let user = server.register(name).await;
    let browser = Browser::new(server);
    let done = sign_in(&browser, name, "password").await;
    assert_eq!(done.status, 303, "{}", done.text);
    (browser, user)
}

fn text(body: &Value, key: &str) -> String {
    body[key].as_str().expect(key).to_owned()
}

/// Checks that an answer has this OAuth 2.0 error.
#[track_caller]
fn expect_oauth_error(answer: &HttpAnswer, error: &str) {
    assert_eq!(answer.body["error"], error, "{}", answer.text);
    assert!(answer.status == 400 || answer.status == 401);
}
