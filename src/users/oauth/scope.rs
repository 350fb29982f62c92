//! The scope that a client requests: full access to the Matrix API, as one device.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#scope).

use std::fmt;

use ruma::OwnedDeviceId;

use super::{OAuthError, OAuthErrorCode, OAuthResult};

const API_SCOPE: &str = "urn:matrix:client:api:*";
const DEVICE_SCOPE_PREFIX: &str = "urn:matrix:client:device:";
/// The names in MSC2967, which clients still use.
const UNSTABLE_API_SCOPE: &str = "urn:matrix:org.matrix.msc2967.client:api:*";
const UNSTABLE_DEVICE_SCOPE_PREFIX: &str = "urn:matrix:org.matrix.msc2967.client:device:";
/// The longest scope, in bytes.
const MAX_SCOPE_BYTES: usize = 2_048;
/// The longest device id, in bytes.
const MAX_DEVICE_ID_BYTES: usize = 255;

/// The scope of a sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthScope {
    /// The id of the device to be signed in, which the client chose.
    pub device_id: OwnedDeviceId,
}

impl OAuthScope {
    /// Parses a scope. Parts that are not understood are left out of the granted scope.
    ///
    /// # Errors
    ///
    /// `invalid_scope` unless it has full access and exactly one device.
    pub fn parse(scope: &str) -> OAuthResult<Self> {
        let refused = |reason: &str| OAuthError::refused(OAuthErrorCode::InvalidScope, reason);
        if scope.len() > MAX_SCOPE_BYTES {
            return Err(refused("the scope is too long"));
        }
        let mut has_api = false;
        let mut device_id = None;
        for token in scope.split(' ') {
            has_api |= token == API_SCOPE || token == UNSTABLE_API_SCOPE;
            let device = token.strip_prefix(DEVICE_SCOPE_PREFIX);
            let Some(id) = device.or_else(|| token.strip_prefix(UNSTABLE_DEVICE_SCOPE_PREFIX))
            else {
                continue;
            };
            if device_id.is_some_and(|known| known != id) {
                return Err(refused("the scope names more than one device"));
            }
            device_id = Some(id);
        }
        if !has_api {
            return Err(refused("the scope must include urn:matrix:client:api:*"));
        }
        let device_id = device_id.filter(|id| is_device_id(id)).ok_or_else(|| {
            refused(
                "the scope must include urn:matrix:client:device: with a device id of letters, digits, \
                 and the characters - . _ ~",
            )
        })?;
        Ok(Self {
            device_id: device_id.into(),
        })
    }
}

impl fmt::Display for OAuthScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{API_SCOPE} {DEVICE_SCOPE_PREFIX}{}", self.device_id)
    }
}

/// Returns whether a device id has only the characters that the specification recommends.
fn is_device_id(id: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (1..=MAX_DEVICE_ID_BYTES).contains(&id.len()) && id.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(scope: &str) -> OAuthErrorCode {
        match OAuthScope::parse(scope) {
            Err(OAuthError::Refused { code, .. }) => code,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_scope_has_full_access_and_one_device() {
        let scope = "urn:matrix:client:api:* urn:matrix:client:device:ABC-1 openid";

        let parsed = OAuthScope::parse(scope).unwrap();

        assert_eq!(parsed.device_id, "ABC-1");
        let granted = "urn:matrix:client:api:* urn:matrix:client:device:ABC-1";
        assert_eq!(parsed.to_string(), granted);
    }

    #[test]
    fn the_unstable_names_are_accepted() {
        let scope = "urn:matrix:org.matrix.msc2967.client:api:* \
                     urn:matrix:org.matrix.msc2967.client:device:ABC urn:matrix:client:device:ABC";

        assert_eq!(OAuthScope::parse(scope).unwrap().device_id, "ABC");
    }

    #[test]
    fn a_scope_without_access_or_device_or_with_two_devices_is_refused() {
        for scope in [
            "",
            "urn:matrix:client:api:*",
            "urn:matrix:client:device:ABC",
            "urn:matrix:client:api:* urn:matrix:client:device:",
            "urn:matrix:client:api:* urn:matrix:client:device:A/B",
            "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
        ] {
            assert_eq!(code_of(scope), OAuthErrorCode::InvalidScope, "{scope}");
        }
    }
}
