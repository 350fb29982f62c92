//! The interactive authentication of registrations.

use std::{slice::from_ref, sync::Arc};

use ruma::{
    OwnedUserId,
    api::client::{
        account::register::v3::Request,
        uiaa::{AuthFlow, AuthType},
    },
};

use super::{
    InteractiveAuth, NewDevice, UserEnvironment, ValidationPurpose,
    uia::{OperationDigest, RegistrationSession, StageResult, UiaRequest},
};
use crate::error::Result;

/// Authenticates registrations.
#[derive(Clone)]
pub(super) struct RegistrationAuth {
    uia: InteractiveAuth,
    /// The stages from which users can choose.
    flows: Vec<AuthFlow>,
}

impl RegistrationAuth {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, uia: &InteractiveAuth) -> Self {
        Self {
            uia: uia.clone(),
            flows: registration_flows(environment),
        }
    }

    /// Returns the registration of an authentication session, or `None` if it is unknown or has expired.
    pub(super) fn session(
        &self,
        id: &str,
        now: i64,
    ) -> Option<Arc<tokio::sync::Mutex<RegistrationSession>>> {
        self.uia.sessions.registration(id, now)
    }

    /// Handles one stage of a registration, and returns the result once all stages are complete.
    pub(super) async fn authorize(
        &self,
        request: &Request,
        user_id: Option<&OwnedUserId>,
    ) -> Result<StageResult> {
        let uia_request = UiaRequest {
            endpoint: "register",
            session: None,
            // A request without a user name and password only asks for the flows.
            operation: match (user_id, &request.password) {
                (None, None) => None,
                parameters => Some(OperationDigest::of_parameters(&parameters)?),
            },
            flows: self.flows.clone(),
            email_purpose: ValidationPurpose::Register,
        };
        self.uia
            .authorize(&uia_request, request.auth.as_ref())
            .await
    }
}

fn registration_flows(environment: &UserEnvironment) -> Vec<AuthFlow> {
    let settings = &environment.registration;
    let mut flows = Vec::new();
    let mut add = |stages: &[AuthType]| flows.push(AuthFlow::new(stages.to_vec()));
    let (token, email) = (AuthType::RegistrationToken, AuthType::EmailIdentity);
    if settings.open && !settings.require_email {
        add(&[AuthType::Dummy]);
    }
    if settings.open && environment.mail.is_enabled() {
        add(from_ref(&email));
    }
    if settings.require_email {
        add(&[token, email]);
    } else {
        add(from_ref(&token));
        if environment.mail.is_enabled() {
            // A flow that began with the token would be over before the e-mail address is confirmed.
            add(&[email, token]);
        }
    }
    flows
}

/// Returns the device that a registration requests.
pub(super) fn requested_device(request: &Request) -> Result<NewDevice> {
    let device = NewDevice {
        device_id: request
            .device_id
            .clone()
            .filter(|id| !id.as_str().is_empty()),
        display_name: request.initial_device_display_name.clone(),
        refresh_token: request.refresh_token,
    };
    device.check()?;
    Ok(device)
}
