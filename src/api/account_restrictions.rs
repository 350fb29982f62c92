//! The requests that guests and locked or suspended users may not make.
//!
//! This is checked where every request is authenticated, by the path of the endpoint. A new endpoint is closed to
//! guests until it is listed here.

use axum::{
    extract::MatchedPath,
    http::{Method, request::Parts},
};

use crate::{
    error::{Error, Result},
    users::Session,
};

/// The requests that a locked account may still make.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#account-locking).
const ALLOWED_WHEN_LOCKED: [(&str, &str); 2] = [("POST", "logout"), ("POST", "logout/all")];

/// The requests that a suspended account may not make. Whether it may redact an event depends on the event, so the
/// endpoint itself checks that.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#account-suspension).
const FORBIDDEN_WHEN_SUSPENDED: [(&str, &str); 20] = [
    ("POST", "createRoom"),
    ("POST", "join/{}"),
    ("POST", "knock/{}"),
    ("POST", "rooms/{}/ban"),
    ("POST", "rooms/{}/invite"),
    ("POST", "rooms/{}/join"),
    ("POST", "rooms/{}/kick"),
    ("POST", "rooms/{}/unban"),
    ("POST", "rooms/{}/upgrade"),
    ("PUT", "directory/room/{}"),
    ("PUT", "profile/{}/{}"),
    ("DELETE", "profile/{}/{}"),
    ("PUT", "rooms/{}/send/{}/{}"),
    ("PUT", "rooms/{}/state/{}/{}"),
    ("PUT", "rooms/{}/state/{}"),
    ("PUT", "rooms/{}/delayed_event/{}/{}"),
    ("POST", "parlour/rooms/{}/invite"),
    ("POST", "parlour/rooms/{}/invite_links"),
    ("POST", "parlour/invite_links/{}/redeem"),
    ("DELETE", "parlour/rooms/{}"),
];

/// The requests that guests may make, in the specification's order, followed by those that every client needs.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#guest-access).
const ALLOWED_FOR_GUESTS: [(&str, &str); 44] = [
    ("GET", "rooms/{}/state"),
    ("GET", "rooms/{}/context/{}"),
    ("GET", "rooms/{}/event/{}"),
    ("GET", "rooms/{}/state/{}/{}"),
    ("GET", "rooms/{}/state/{}"),
    ("GET", "rooms/{}/messages"),
    ("GET", "rooms/{}/members"),
    ("GET", "rooms/{}/initialSync"),
    ("GET", "sync"),
    ("POST", "sync"),
    ("GET", "stream"),
    ("GET", "events"),
    ("GET", "media/download/{}/{}"),
    ("GET", "media/download/{}/{}/{}"),
    ("GET", "media/thumbnail/{}/{}"),
    ("POST", "rooms/{}/join"),
    ("POST", "join/{}"),
    ("POST", "rooms/{}/leave"),
    ("PUT", "rooms/{}/send/{}/{}"),
    ("PUT", "rooms/{}/state/{}/{}"),
    ("PUT", "rooms/{}/state/{}"),
    ("PUT", "sendToDevice/{}/{}"),
    ("PUT", "profile/{}/{}"),
    ("DELETE", "profile/{}/{}"),
    ("GET", "devices"),
    ("GET", "devices/{}"),
    ("PUT", "devices/{}"),
    ("GET", "account/whoami"),
    ("POST", "keys/upload"),
    ("POST", "keys/query"),
    ("POST", "keys/claim"),
    ("GET", "capabilities"),
    ("GET", "pushrules"),
    ("GET", "media/config"),
    ("GET", "joined_rooms"),
    ("GET", "rooms/{}/joined_members"),
    ("GET", "room_summary/{}"),
    ("POST", "rooms/{}/forget"),
    ("PUT", "rooms/{}/typing/{}"),
    ("POST", "rooms/{}/receipt/{}/{}"),
    ("POST", "rooms/{}/read_markers"),
    ("POST", "user/{}/filter"),
    ("GET", "user/{}/filter/{}"),
    ("POST", "logout"),
];

/// Checks that the restrictions of the account allow this request.
///
/// # Errors
///
/// [`Error::UserLocked`], [`Error::UserSuspended`], [`Error::GuestAccessForbidden`].
pub(super) fn check(session: &Session, parts: &Parts) -> Result<()> {
    if !(session.is_locked || session.is_suspended || session.is_guest) {
        return Ok(());
    }
    let path = parts.extensions.get::<MatchedPath>();
    let path = path.map_or("", MatchedPath::as_str);
    check_path(session, &parts.method, path)
}

fn check_path(session: &Session, method: &Method, path: &str) -> Result<()> {
    let pattern = path_pattern(path);
    let is_in = |list: &[(&str, &str)]| list.contains(&(method.as_str(), pattern.as_str()));
    if session.is_locked && !is_in(&ALLOWED_WHEN_LOCKED) {
        return Err(Error::UserLocked);
    }
    if session.is_suspended && is_in(&FORBIDDEN_WHEN_SUSPENDED) {
        return Err(Error::UserSuspended);
    }
    if session.is_guest && !is_in(&ALLOWED_FOR_GUESTS) {
        return Err(Error::GuestAccessForbidden);
    }
    Ok(())
}

/// Returns the path of an endpoint without its version and parameter names.
pub(super) fn path_pattern(path: &str) -> String {
    let path = match path.strip_prefix("/_parlour/client/v1/") {
        Some(rest) => &format!("parlour/{rest}"),
        None => path,
    };
    let path = path
        .strip_prefix("/_matrix/client/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(path, |(version, rest)| match rest.split_once('/') {
            // Unstable endpoints have the name of their proposal in the path.
            Some((proposal, rest)) if version == "unstable" && proposal.contains('.') => rest,
            _ => rest,
        });
    let segments = path.trim_end_matches('/').split('/');
    let segments: Vec<&str> = segments
        .map(|segment| {
            if segment.starts_with('{') {
                "{}"
            } else {
                segment
            }
        })
        .collect();
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_patterns_ignore_versions_with_parameter_names() {
        let path = "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/";

        assert_eq!(path_pattern(path), "rooms/{}/state/{}");
        assert_eq!(path_pattern("/_matrix/client/v3/sync"), "sync");
        let unstable = "/_matrix/client/unstable/xyz.amorgan.knock/knock/{room}";
        assert_eq!(path_pattern(unstable), "knock/{}");
        assert_eq!(path_pattern("/_matrix/client/unstable/stream"), "stream");
        assert_eq!(path_pattern("/_parlour/health"), "/_parlour/health");
        let own = "/_parlour/client/v1/rooms/{room_id}/invite";
        assert_eq!(path_pattern(own), "parlour/rooms/{}/invite");
    }
}
