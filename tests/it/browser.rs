//! A browser for the tests of the web pages: it keeps cookies, follows no redirect, and sends forms.

use std::{collections::BTreeMap, sync::Mutex};

use reqwest::{Method, redirect::Policy};
use url::{Position, Url, form_urlencoded};

use crate::harness::{Client, HttpAnswer, Server};

/// A browser that shows pages of a server.
pub(crate) struct Browser {
    client: Client,
    /// The values of the cookies, by name.
    cookies: Mutex<BTreeMap<String, String>>,
}

impl Browser {
    pub(crate) fn new(server: &Server) -> Self {
        Self {
            client: server.client().without_redirects(),
            cookies: Mutex::default(),
        }
    }

    /// Opens a page, whose address may have the public URL of the server.
    pub(crate) async fn open(&self, address: &str) -> HttpAnswer {
        self.send(Method::GET, address, "", &[]).await
    }

    /// Opens a page and those to which it leads, until one leads nowhere.
    pub(crate) async fn follow(&self, address: &str) -> HttpAnswer {
        let mut answer = self.open(address).await;
        while answer.status == 303 && answer.header("location").starts_with('/') {
            answer = self.open(answer.header("location")).await;
        }
        answer
    }

    /// Sends a form of a page of the server.
    pub(crate) async fn submit(&self, address: &str, fields: &[(&str, &str)]) -> HttpAnswer {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let headers = [("sec-fetch-site", "same-origin")];
        self.send(Method::POST, address, &form.finish(), &headers)
            .await
    }

    /// Sends a form that a page of another site contains.
    pub(crate) async fn submit_from_other_site(&self, address: &str, form: &str) -> HttpAnswer {
        let headers = [("sec-fetch-site", "cross-site")];
        self.send(Method::POST, address, form, &headers).await
    }

    async fn send(
        &self,
        method: Method,
        address: &str,
        body: &str,
        headers: &[(&'static str, &str)],
    ) -> HttpAnswer {
        let path = match Url::parse(address) {
            Ok(url) => url[Position::BeforePath..].to_owned(),
            Err(_) => address.to_owned(),
        };
        let cookies = self.cookie_header();
        let mut headers = headers.to_vec();
        headers.push(("cookie", &cookies));
        headers.push(("content-type", "application/x-www-form-urlencoded"));
        let answer = self
            .client
            .send_with_headers(method, &path, body, &headers)
            .await;
        let set = answer.header("set-cookie").split(';').next();
        if let Some((name, value)) = set.and_then(|cookie| cookie.split_once('=')) {
            let mut cookies = self.cookies.lock().expect("no test has failed");
            cookies.insert(name.to_owned(), value.to_owned());
        }
        answer
    }

    fn cookie_header(&self) -> String {
        let cookies = self.cookies.lock().expect("no test has failed");
        let pairs = cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }
}

impl Client {
    /// Returns a client that shows redirects instead of following them.
    fn without_redirects(self) -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).build();
        self.with_http(http.expect("a client"))
    }
}
