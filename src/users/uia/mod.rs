//! User-interactive authentication: its stages, and the stages that a request still needs.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api).

mod flows;
mod interactive_auth;
mod pages;
mod registration_session;
mod sessions;

pub(super) use self::{
    flows::{OperationDigest, StageResult, UiaRequest},
    registration_session::RegistrationSession,
    sessions::UiaSessions,
};
pub use self::{
    interactive_auth::InteractiveAuth,
    pages::{StageInput, UiaPages},
};
