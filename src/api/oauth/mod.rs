//! The OAuth 2.0 API and its pages: signing in, registering, letting an app sign in, and the user's account.
//!
//! The pages are forms that need no script. `browser` has the cookie, and the protection of the forms from other sites.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api).

mod account;
mod account_pages;
mod authorize;
mod browser;
mod clients;
mod error;
mod link;
mod metadata;
mod provider_confirmation;
mod provider_link;
mod provider_pages;
mod provider_registration;
mod providers;
mod registration;
mod sign_in;
mod sso;
mod tokens;

use axum::Router;

pub(super) use self::metadata::pages_are_reachable;

use super::app::App;
use crate::{config::Config, users::ACCOUNT_PATH};

/// The paths of the endpoints and pages.
const AUTHORIZE_PATH: &str = "/_parlour/oauth/authorize";
const CLIENTS_PATH: &str = "/_parlour/oauth/clients";
const TOKEN_PATH: &str = "/_parlour/oauth/token";
const REVOKE_PATH: &str = "/_parlour/oauth/revoke";
const DEVICE_PATH: &str = "/_parlour/oauth/device";
const SSO_PATH: &str = "/_parlour/oauth/sso";
const PROVIDER_REGISTRATION_PATH: &str = "/_parlour/oauth/provider-registration";
const PROVIDER_LINK_PATH: &str = "/_parlour/oauth/provider-link";
const SIGN_IN_PATH: &str = "/_parlour/sign-in";
const SIGN_OUT_PATH: &str = "/_parlour/sign-out";
const REGISTER_PATH: &str = "/_parlour/register";
/// The page for codes of waiting devices. It is short, because users type it.
const LINK_PATH: &str = "/link";

pub(super) fn routes(config: &Config) -> Router<App> {
    if !config.oauth.enabled {
        return Router::new();
    }
    Router::new()
        .merge(account::routes())
        .merge(authorize::routes())
        .merge(clients::routes())
        .merge(link::routes())
        .merge(metadata::routes())
        .merge(provider_confirmation::routes())
        .merge(provider_link::routes())
        .merge(provider_registration::routes())
        .merge(providers::routes())
        .merge(registration::routes())
        .merge(sign_in::routes())
        .merge(sso::routes())
        .merge(tokens::routes())
}
