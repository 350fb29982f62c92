//! The rate limits of endpoints, and the endpoints whose use shows that the user is active.
//!
//! The routes take their policy from this table when they are registered, and the extractors apply it as soon as a
//! request is authenticated and parsed. The WebSocket channel uses the same table. Limits that depend on the content of
//! a request, such as the number of invited users, are in the handlers.

use axum::{
    extract::FromRequestParts,
    http::{Method, request::Parts},
};
use ruma::api::auth_scheme::AccessToken;

use super::{
    account_restrictions::path_pattern,
    app::App,
    auth::RequestAuthenticator,
    client_address::ClientAddress,
    rate_limits::{RateLimitKey, RequestClass},
};
use crate::{
    error::{Error, Result},
    users::Session,
};

/// The endpoints that have a policy, by class. Paths are written without version and parameter names.
const ENDPOINT_POLICIES: &[PolicyRow] = &[
    by_sender("PUT", "rooms/{}/send/{}/{}", RequestClass::Send).marking_active(),
    by_sender("PUT", "rooms/{}/state/{}/{}", RequestClass::Send).marking_active(),
    by_sender("PUT", "rooms/{}/redact/{}/{}", RequestClass::Send),
    by_sender("POST", "rooms/{}/redact/{}", RequestClass::Send),
    by_sender("PUT", "rooms/{}/delayed_event/{}/{}", RequestClass::Send),
    by_sender("POST", "createRoom", RequestClass::Send),
    by_sender("POST", "join/{}", RequestClass::Send),
    by_sender("POST", "knock/{}", RequestClass::Send),
    by_sender("POST", "rooms/{}/join", RequestClass::Send),
    by_sender("POST", "rooms/{}/invite", RequestClass::Send),
    by_sender("POST", "rooms/{}/upgrade", RequestClass::Send),
    by_sender("POST", "rooms/{}/report", RequestClass::Send),
    by_sender("POST", "rooms/{}/report/{}", RequestClass::Send),
    by_sender("POST", "users/{}/report", RequestClass::Send),
    by_sender("POST", "search", RequestClass::Send),
    by_sender("POST", "user_directory/search", RequestClass::Send),
    by_sender("POST", "user/{}/openid/request_token", RequestClass::Send),
    by_sender("DELETE", "parlour/rooms/{}", RequestClass::Send),
    by_sender("POST", "parlour/rooms/{}/invite", RequestClass::Send),
    by_sender("POST", "parlour/rooms/{}/invite_links", RequestClass::Send),
    by_sender("POST", "parlour/invite_links/{}/redeem", RequestClass::Send),
    by_sender("PUT", "sendToDevice/{}/{}", RequestClass::SendToDevice),
    by_sender("POST", "/_matrix/media/v3/upload", RequestClass::Upload),
    by_sender(
        "PUT",
        "/_matrix/media/v3/upload/{}/{}",
        RequestClass::Upload,
    ),
    by_sender("POST", "/_matrix/media/v1/create", RequestClass::Upload),
    by_sender("GET", "media/preview_url", RequestClass::Upload),
    by_sender("GET", "/_matrix/media/v3/preview_url", RequestClass::Upload),
    by_address("GET", "room_summary/{}", RequestClass::Send),
    by_address("GET", "summary/{}", RequestClass::Send),
    by_address("POST", "login", RequestClass::Login),
    by_address("POST", "register", RequestClass::Lookup),
    by_address("GET", "register/available", RequestClass::Lookup),
    by_address(
        "POST",
        "register/email/requestToken",
        RequestClass::EmailRequest,
    ),
    by_address(
        "POST",
        "account/password/email/requestToken",
        RequestClass::EmailRequest,
    ),
    by_address(
        "POST",
        "account/3pid/email/requestToken",
        RequestClass::EmailRequest,
    ),
    by_address("GET", "/_parlour/email/confirm", RequestClass::Lookup),
    by_address(
        "PUT",
        "/_matrix/federation/v1/3pid/onbind",
        RequestClass::Lookup,
    ),
    by_address("POST", "/_parlour/email/confirm", RequestClass::Lookup),
    by_address("GET", "/_parlour/email/unsubscribe", RequestClass::Lookup),
    by_address("POST", "/_parlour/email/unsubscribe", RequestClass::Lookup),
    by_address("GET", "/_synapse/admin/v1/register", RequestClass::Lookup),
    by_address("GET", "login/sso/redirect", RequestClass::Lookup),
    by_address("GET", "login/sso/redirect/{}", RequestClass::Lookup),
    by_address(
        "GET",
        "/_parlour/oauth/providers/{}/begin",
        RequestClass::Lookup,
    ),
    by_address(
        "GET",
        "/_parlour/oauth/providers/{}/callback",
        RequestClass::Lookup,
    ),
    by_address("GET", "/_parlour/oauth/authorize", RequestClass::Lookup),
    by_address("GET", "/_parlour/oauth/sso", RequestClass::Lookup),
    by_address("POST", "/_parlour/oauth/clients", RequestClass::Lookup),
    by_address("POST", "/_parlour/oauth/device", RequestClass::Lookup),
    by_address("POST", "/_parlour/oauth/revoke", RequestClass::Lookup),
    by_address("POST", "rendezvous", RequestClass::Lookup),
    by_address("GET", "rendezvous/{}", RequestClass::Rendezvous),
    by_address("PUT", "rendezvous/{}", RequestClass::Rendezvous),
    by_address("GET", "parlour/invite_links/{}", RequestClass::Lookup),
    by_address(
        "POST",
        "/_parlour/livekit/get_token",
        RequestClass::CallToken,
    ),
    by_address("POST", "/_parlour/livekit/sfu/get", RequestClass::CallToken),
    by_anonymous_address("GET", "profile/{}", RequestClass::Lookup),
    by_anonymous_address("GET", "profile/{}/{}", RequestClass::Lookup),
    by_anonymous_address("GET", "directory/room/{}", RequestClass::Lookup),
];

/// The methods of the WebSocket channel that do the same as an endpoint with a policy.
const CHANNEL_METHODS: [ChannelMethod; 2] = [
    ChannelMethod {
        name: "send",
        path: "rooms/{}/send/{}/{}",
    },
    ChannelMethod {
        name: "state",
        path: "rooms/{}/state/{}/{}",
    },
];

/// A method of the WebSocket channel, and the path of the `PUT` request that does the same.
struct ChannelMethod {
    name: &'static str,
    path: &'static str,
}

/// An endpoint and its policy.
struct PolicyRow {
    method: &'static str,
    path: &'static str,
    policy: EndpointPolicy,
}

/// The rate limit of an endpoint, and the effect of a request on the presence of its sender.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointPolicy {
    class: RequestClass,
    subject: LimitSubject,
    /// Whether a request shows that its sender is active.
    marks_active: bool,
}

/// The owner of the bucket that an endpoint uses.
#[derive(Clone, Copy, Debug)]
enum LimitSubject {
    /// The authenticated user.
    Sender,
    /// The network address.
    Address,
    /// The network address, unless the request has a valid access token.
    AnonymousAddress,
}

const fn by_sender(method: &'static str, path: &'static str, class: RequestClass) -> PolicyRow {
    PolicyRow::new(
        method,
        path,
        EndpointPolicy::new(class, LimitSubject::Sender),
    )
}

const fn by_address(method: &'static str, path: &'static str, class: RequestClass) -> PolicyRow {
    PolicyRow::new(
        method,
        path,
        EndpointPolicy::new(class, LimitSubject::Address),
    )
}

const fn by_anonymous_address(
    method: &'static str,
    path: &'static str,
    class: RequestClass,
) -> PolicyRow {
    let policy = EndpointPolicy::new(class, LimitSubject::AnonymousAddress);
    PolicyRow::new(method, path, policy)
}

impl PolicyRow {
    const fn new(method: &'static str, path: &'static str, policy: EndpointPolicy) -> Self {
        Self {
            method,
            path,
            policy,
        }
    }

    /// Returns the same row for an endpoint whose use shows that the user is active.
    const fn marking_active(mut self) -> Self {
        self.policy.marks_active = true;
        self
    }
}

impl EndpointPolicy {
    const fn new(class: RequestClass, subject: LimitSubject) -> Self {
        Self {
            class,
            subject,
            marks_active: false,
        }
    }

    /// Returns the policy of an endpoint that has these paths, if it has one.
    pub(super) fn of_endpoint<'a>(
        method: &Method,
        paths: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let paths: Vec<String> = paths.into_iter().map(path_pattern).collect();
        let mut rows = ENDPOINT_POLICIES.iter();
        let row = rows
            .find(|row| row.method == method.as_str() && paths.iter().any(|path| path == row.path));
        #[cfg(test)]
        row.inspect(|row| tests::record_lookup(row));
        row.map(|row| row.policy)
    }

    /// Returns the policy of a method of the WebSocket channel, if it has one.
    pub(super) fn of_channel_method(name: &str) -> Option<Self> {
        let mut methods = CHANNEL_METHODS.iter();
        let method = methods.find(|method| method.name == name)?;
        Self::of_endpoint(&Method::PUT, [method.path])
    }

    /// Counts a request that comes through the WebSocket channel against its rate limit.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] after too many requests.
    pub(super) fn check_channel_request(self, app: &App, session: &Session) -> Result<()> {
        app.limits.check(self.class, session)
    }
}

/// The policy of the endpoint of a request, to be applied when the request has been parsed.
#[derive(Default)]
pub(super) struct AdmissionCheck {
    /// The rate limit that the request counts against; `None` if there is none.
    cost: Option<RequestCost>,
    marks_active: bool,
}

struct RequestCost {
    class: RequestClass,
    bucket_owner: RateLimitKey,
}

impl AdmissionCheck {
    /// Returns the check of a request with this head and sender.
    pub(super) async fn of_request(app: &App, parts: &Parts, session: Option<&Session>) -> Self {
        let Some(policy) = parts.extensions.get::<EndpointPolicy>().copied() else {
            return Self::default();
        };
        let address = || RateLimitKey::from(&ClientAddress::from_parts(parts));
        let bucket_owner = match (policy.subject, session) {
            (LimitSubject::Sender, Some(session)) => Some(RateLimitKey::from(session)),
            (LimitSubject::Sender | LimitSubject::Address, _) => Some(address()),
            (LimitSubject::AnonymousAddress, _) => {
                // A token that is no longer valid counts as none.
                let session = AccessToken::authenticate(app, parts, &[]).await;
                session.is_err().then(address)
            }
        };
        Self {
            cost: bucket_owner.map(|bucket_owner| RequestCost {
                class: policy.class,
                bucket_owner,
            }),
            marks_active: policy.marks_active,
        }
    }

    /// Counts the request against its rate limit, and records that its sender is active.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] after too many requests.
    pub(super) fn admit(self, app: &App, session: Option<&Session>) -> Result<()> {
        if let Some(cost) = self.cost {
            app.limits.check(cost.class, cost.bucket_owner)?;
        }
        if let Some(session) = session
            && self.marks_active
        {
            app.workflows.activity.record_activity(session);
        }
        Ok(())
    }
}

/// Counts a request against its rate limit, for handlers that have no other typed extractor.
pub struct LimitedRequest;

impl FromRequestParts<App> for LimitedRequest {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let check = AdmissionCheck::of_request(app, parts, None).await;
        check.admit(app, None).map(|()| Self)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use super::*;
    use crate::{api::routes, config::Config};

    thread_local! {
        /// The endpoints whose policies were looked up, which happens when their routes are registered.
        static LOOKED_UP: RefCell<BTreeSet<String>> = RefCell::default();
    }

    pub(super) fn record_lookup(row: &PolicyRow) {
        LOOKED_UP.with_borrow_mut(|names| names.insert(endpoint_name(row)));
    }

    fn endpoint_name(row: &PolicyRow) -> String {
        format!("{} {}", row.method, row.path)
    }

    #[test]
    fn every_policy_is_that_of_a_registered_route() {
        // The endpoints of optional parts need their configuration.
        let rtc = "[rtc]\nlivekit_url = 'ws://a'\nkey = 'a'\nsecret = 'a'";
        let config = Config::from_sources("", rtc, Vec::new());
        drop(routes(&config.expect("it is valid")));

        let registered = LOOKED_UP.take();
        let without_route: Vec<_> = ENDPOINT_POLICIES
            .iter()
            .map(endpoint_name)
            .filter(|name| !registered.contains(name))
            .collect();
        assert!(without_route.is_empty(), "{without_route:?}");
    }

    #[test]
    fn each_endpoint_has_one_policy() {
        let mut names: Vec<_> = ENDPOINT_POLICIES.iter().map(endpoint_name).collect();
        names.sort();

        assert!(names.is_sorted_by(|left, right| left < right), "{names:?}");
    }

    #[test]
    fn sending_through_the_channel_has_the_limit_of_the_endpoint() {
        let classes = ["send", "state", "typing", "ping"]
            .map(|name| EndpointPolicy::of_channel_method(name).map(|policy| policy.class));

        let send = Some(RequestClass::Send);
        assert_eq!(classes, [send, send, None, None]);
    }

    #[test]
    fn a_policy_holds_for_every_path_of_its_endpoint() {
        let paths = [
            "/_matrix/client/unstable/im.nheko.summary/rooms/{room}/summary",
            "/_matrix/client/v1/room_summary/{room}",
        ];

        assert!(EndpointPolicy::of_endpoint(&Method::GET, paths).is_some());
        assert!(EndpointPolicy::of_endpoint(&Method::PUT, paths).is_none());
    }
}
