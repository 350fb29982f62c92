//! `[oauth]`: the OAuth 2.0 API.

use serde::{Deserialize, Serialize};

/// `[oauth]`: signing in on the pages of this server, with the OAuth 2.0 API.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OAuthSection {
    /// Whether clients may let users sign in on the pages of this server.
    pub enabled: bool,
}

impl Default for OAuthSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}
