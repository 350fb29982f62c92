//! Requests that need authentication, their flows and their stages.

use ruma::api::client::uiaa::{AuthFlow, AuthType};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    error::Result,
    users::{Session, ValidationPurpose, email::ValidatedAddress},
};

/// A request that needs authentication.
pub(in crate::users) struct UiaRequest<'a> {
    pub(in crate::users) endpoint: &'static str,
    /// The session of the requesting user, if they are logged in.
    pub(in crate::users) session: Option<&'a Session>,
    /// The digest of the request's parameters, without `auth`; `None` when the request only asks for the flows.
    pub(in crate::users) operation: Option<OperationDigest>,
    /// The flows that the user can choose from.
    pub(in crate::users) flows: Vec<AuthFlow>,
    /// The purpose of an e-mail address that the user confirms.
    pub(in crate::users) email_purpose: ValidationPurpose,
}

/// A digest of the parameters of a request. A session authenticates one request, not others of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::users) struct OperationDigest([u8; 32]);

impl OperationDigest {
    pub(in crate::users) fn of_parameters(parameters: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_vec(parameters)?;
        Ok(Self(Sha256::digest(json).into()))
    }
}

/// The result of completed stages.
#[derive(Clone, Debug, Default)]
pub(in crate::users) struct StageResult {
    /// The registration token that was used.
    pub(in crate::users) registration_token: Option<String>,
    /// The e-mail address that was confirmed.
    pub(in crate::users) email: Option<ValidatedAddress>,
}

impl StageResult {
    /// Adds the result of another stage.
    pub(super) fn add(&mut self, other: Self) {
        self.registration_token = other.registration_token.or(self.registration_token.take());
        self.email = other.email.or(self.email.take());
    }
}

/// "The flow's stages must be completed in order."
pub(super) fn is_next_stage(stage: &AuthType, completed: &[AuthType], flows: &[AuthFlow]) -> bool {
    flows.iter().any(|flow| {
        let next = flow.stages.get(completed.len());
        flow.stages.starts_with(completed) && next == Some(stage)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_completed_in_order() {
        let flows = [AuthFlow::new(vec![AuthType::Dummy, AuthType::Password])];

        assert!(is_next_stage(&AuthType::Dummy, &[], &flows));
        assert!(!is_next_stage(&AuthType::Password, &[], &flows));
        assert!(is_next_stage(
            &AuthType::Password,
            &[AuthType::Dummy],
            &flows
        ));
        assert!(!is_next_stage(&AuthType::Dummy, &[AuthType::Dummy], &flows));
    }
}
