//! The application services of this server: their registrations, and the users as whom they make requests.
//!
//! See the [specification](https://spec.matrix.org/v1.19/application-service-api/).

mod registration;
mod registry;

use std::sync::Arc;

use ruma::{OwnedUserId, RoomAliasId, UserId};

use self::registration::ServiceRegistration;
pub use self::registry::{ApplicationService, ApplicationServiceRegistry};
use super::{
    Session, UserEnvironment,
    account_creation::{AccountCreation, NewAccount},
    uia::StageResult,
};
use crate::{
    config::AppservicesSection,
    error::{Error, RefusalCode, Result},
    storage::{Db, devices::device_table, users::accounts},
};

/// The user and the device as which an application service makes a request, as the request names them.
///
/// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#identity-assertion).
#[derive(Clone, Debug, Default)]
pub struct AssertedIdentity {
    /// The user; `None` is the service's own user.
    pub user_id: Option<String>,
    pub device_id: Option<String>,
}

/// The application services of this server. Cheap to clone.
#[derive(Clone)]
pub struct ApplicationServices {
    db: Db,
    registry: ApplicationServiceRegistry,
    creation: AccountCreation,
}

impl ApplicationServices {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, creation: &AccountCreation) -> Self {
        Self {
            db: environment.db.clone(),
            registry: environment.application_services.clone(),
            creation: creation.clone(),
        }
    }

    /// Reads the registration files, and creates the accounts of the services' own users.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is invalid, or two services have the same id or token.
    pub async fn load(&self, config: &AppservicesSection) -> Result<()> {
        for path in &config.registrations {
            let service = self.registry.add(ServiceRegistration::read(path)?)?;
            self.create_sender(&service.sender).await?;
        }
        Ok(())
    }

    async fn create_sender(&self, user_id: &UserId) -> Result<()> {
        let account = NewAccount {
            user_id: user_id.to_owned(),
            password_hash: None,
            admin: false,
            guest: false,
            device: None,
        };
        let created = self.creation.create(account, StageResult::default()).await;
        match created {
            Ok(_) | Err(Error::UserInUse) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the service with an `as_token`.
    pub fn find_by_token(&self, token: &str) -> Option<Arc<ApplicationService>> {
        self.registry.find_by_token(token)
    }

    /// Returns all services.
    pub fn all(&self) -> Vec<Arc<ApplicationService>> {
        self.registry.all()
    }

    /// Checks that the sender of a request may create or delete an alias of this server: an application service in its
    /// own namespace, and others where no service has reserved it.
    ///
    /// # Errors
    ///
    /// [`Error::Exclusive`] when they may not.
    pub fn check_alias(
        &self,
        alias: &RoomAliasId,
        requester: Option<&ApplicationService>,
    ) -> Result<()> {
        self.registry.check_alias(alias, requester)
    }

    /// Returns the session of a request that a service makes as one of its users.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the service does not control the user, or the user has no account;
    /// [`Error::UserDeactivated`]; `RefusalCode::UnknownDevice` when the user has no such device.
    pub async fn session(
        &self,
        service: &Arc<ApplicationService>,
        identity: AssertedIdentity,
    ) -> Result<Session> {
        let user_id = asserted_user(service, identity.user_id)?;
        let mut db = self.db.snapshot().await?;
        let user = self.db.strings.find_user(&mut db, user_id.as_str()).await?;
        let account = match user {
            Some(user) => accounts::find(&mut db, user).await?,
            None => None,
        };
        let account = account.ok_or_else(|| {
            Error::forbidden("the application service has not registered this user")
        })?;
        if account.deactivated {
            return Err(Error::UserDeactivated);
        }
        let device = match &identity.device_id {
            Some(device_id) => {
                let device = device_table::find(&mut db, account.user_num, device_id).await?;
                Some(device.ok_or_else(unknown_device)?)
            }
            None => None,
        };
        Ok(Session::of_service(service, user_id, &account, device))
    }
}

fn unknown_device() -> Error {
    Error::refused(
        RefusalCode::UnknownDevice,
        "the user has no device with the id in the parameter device_id",
    )
}

/// Returns the user as whom a service makes a request.
fn asserted_user(service: &ApplicationService, asserted: Option<String>) -> Result<OwnedUserId> {
    let Some(user_id) = asserted else {
        return Ok(service.sender.clone());
    };
    let user_id = UserId::parse(user_id)
        .map_err(|error| Error::invalid_param(format!("user_id is not valid: {error}")))?;
    if !service.controls(&user_id) {
        return Err(Error::forbidden(
            "the application service cannot act as this user, who is not in its namespace",
        ));
    }
    Ok(user_id)
}
