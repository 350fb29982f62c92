//! Calls with MatrixRTC through a LiveKit server, which passes media on between the participants of a call.
//!
//! `livekit_server` sends requests to the LiveKit server and signs the tokens with which clients connect to it;
//! `call_tokens` decides who gets such a token. `pseudonyms` makes the names that the LiveKit server learns instead of
//! rooms and users.
//!
//! See [MSC4143](https://github.com/matrix-org/matrix-spec-proposals/pull/4143) and
//! [MSC4195](https://github.com/matrix-org/matrix-spec-proposals/pull/4195).

mod call_tokens;
mod livekit_server;
mod pseudonyms;

use std::sync::Arc;

use self::livekit_server::LiveKitServer;
pub use self::{
    call_tokens::{CallToken, CallTokenRequest, CallTokens, MemberClaim, OpenIdProof},
    pseudonyms::{LiveKitRoomName, ParticipantIdentity},
};
use crate::{
    clock::Clock,
    config::Config,
    error::{Error, RefusalCode, Result},
    federation::Federation,
    rooms::Rooms,
    users::Users,
};

/// The path below which clients get tokens.
pub const CALL_SERVICE_PATH: &str = "/_parlour/livekit";

/// Calls through a LiveKit server, if one is configured. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    services: Option<Arc<CallServices>>,
}

/// The services of [`Calls`].
pub struct CallServices {
    /// The URL below which clients get tokens, without a slash at the end.
    pub service_url: String,
    /// The tokens with which clients connect to the LiveKit server.
    pub tokens: CallTokens,
}

/// The services that calls use.
pub struct CallSources {
    pub users: Users,
    pub rooms: Rooms,
    pub federation: Federation,
    pub clock: Clock,
}

impl Calls {
    /// Sets up the connection to the LiveKit server. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When the system's certificates cannot be used.
    pub fn new(sources: &CallSources, config: &Config) -> Result<Self> {
        let Some(settings) = config.rtc.livekit() else {
            return Ok(Self { services: None });
        };
        let livekit = LiveKitServer::new(settings, &sources.clock, sources.federation.trust())?;
        let services = CallServices {
            service_url: format!("{}{CALL_SERVICE_PATH}", config.public_url()),
            tokens: CallTokens::new(sources, Arc::new(livekit)),
        };
        Ok(Self {
            services: Some(Arc::new(services)),
        })
    }

    /// Returns the services, if a LiveKit server is configured.
    pub fn services(&self) -> Option<&CallServices> {
        self.services.as_deref()
    }

    /// Returns the services.
    ///
    /// # Errors
    ///
    /// `RefusalCode::Unrecognized` when no LiveKit server is configured.
    pub fn required_services(&self) -> Result<&CallServices> {
        self.services().ok_or_else(|| {
            let reason = "this server has no LiveKit server".to_owned();
            Error::refused(RefusalCode::Unrecognized, reason)
        })
    }
}
