//! The TURN servers for calls.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State};
use hmac::{Hmac, KeyInit, Mac};
use ruma::{
    UserId,
    api::client::voip::get_turn_server_info,
    serde::{Base64, base64::Standard},
};
use sha1::Sha1;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    clock::Clock,
    config::{Config, TurnSection},
    error::{Error, Result},
};

pub(super) fn routes() -> Router<App> {
    endpoint::<get_turn_server_info::v3::Request, _>(get_turn_server_info)
}

/// `GET /_matrix/client/*/voip/turnServer`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver).
async fn get_turn_server_info(
    State(config): State<Arc<Config>>,
    State(clock): State<Clock>,
    MatrixRequest { from, .. }: MatrixRequest<get_turn_server_info::v3::Request>,
) -> Result<MatrixResponse<get_turn_server_info::v3::Response>> {
    let turn = &config.turn;
    let Some(credentials) = turn_credentials(turn, &from.user_id, clock.now_ms())? else {
        return Err(Error::not_found("this server has no TURN servers"));
    };
    Ok(MatrixResponse(get_turn_server_info::v3::Response::new(
        credentials.username,
        credentials.password,
        turn.uris.clone(),
        Duration::from_secs(turn.lifetime_seconds),
    )))
}

/// The name and password with which a user can use the TURN servers.
#[derive(Debug, PartialEq)]
struct TurnCredentials {
    username: String,
    password: String,
}

/// Returns the name and password with which a user can use the TURN servers until they expire.
///
/// The name contains the expiry time and the user, and the password is an HMAC of it, according to
/// <https://datatracker.ietf.org/doc/html/draft-uberti-behave-turn-rest-00>.
fn turn_credentials(
    turn: &TurnSection,
    user_id: &UserId,
    now_ms: i64,
) -> Result<Option<TurnCredentials>> {
    let Some(secret) = turn
        .shared_secret
        .as_ref()
        .filter(|_| !turn.uris.is_empty())
    else {
        return Ok(None);
    };
    let lifetime = i64::try_from(turn.lifetime_seconds).unwrap_or(i64::MAX);
    let username = format!("{}:{user_id}", (now_ms / 1000).saturating_add(lifetime));
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes())
        .map_err(|e| Error::internal("make a TURN password", e.to_string()))?;
    mac.update(username.as_bytes());
    let tag = mac.finalize().into_bytes();
    // TURN servers compare the password with its padding, which `encode` omits; 20 bytes need one
    // padding character.
    let password = Base64::<Standard, _>::new(tag.as_slice()).encode() + "=";
    Ok(Some(TurnCredentials { username, password }))
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_password_is_an_hmac_of_the_user_name() {
        let turn = json!({ "uris": ["turn:a"], "shared_secret": "secret", "lifetime_seconds": 60 });
        let turn: TurnSection = serde_json::from_value(turn).unwrap();

        let found = turn_credentials(&turn, user_id!("@a:b"), 1_000_000).unwrap();

        // printf 1060:@a:b | openssl dgst -sha1 -hmac secret -binary | base64
        let expected = TurnCredentials {
            username: "1060:@a:b".to_owned(),
            password: "2a3nsmTMlw/TjuvY49XrHlH9XQo=".to_owned(),
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn missing_servers_or_secret_yield_no_credentials() {
        let found = turn_credentials(&TurnSection::default(), user_id!("@a:b"), 0).unwrap();

        assert_eq!(found, None);
    }
}
