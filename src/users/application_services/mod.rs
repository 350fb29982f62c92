//! The application services of this server: their registrations, and the users as whom they make requests.
//!
//! See the [specification](https://spec.matrix.org/v1.19/application-service-api/).

mod registration;
mod registry;

use std::{path::PathBuf, sync::Arc};

use ruma::{OwnedUserId, RoomAliasId, UserId};

pub use self::{
    registration::ServiceRegistration,
    registry::{ApplicationService, ApplicationServiceRegistry, RegistrationSource},
};
use super::{
    Session, UserEnvironment,
    account_creation::{AccountCreation, NewAccount},
    uia::StageResult,
};
use crate::{
    config::{AppservicesSection, Config},
    error::{Error, RefusalCode, Result},
    storage::{
        Db,
        devices::device_table,
        users::{accounts, service_registrations},
    },
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
        let failed = |reason: String| Error::internal("register an application service", reason);
        for path in &config.registrations {
            let registration = ServiceRegistration::read(path)?;
            let added = self.registry.add(registration, RegistrationSource::File);
            self.create_sender(&added.map_err(failed)?.sender).await?;
        }
        let stored = {
            let mut db = self.db.read().await?;
            service_registrations::all(&mut db).await?
        };
        for text in stored {
            let registration = ServiceRegistration::parse(&text).map_err(failed)?;
            let added = self
                .registry
                .add(registration, RegistrationSource::Database);
            added.map_err(failed)?;
        }
        Ok(())
    }

    /// Parses the registration that an administrator adds under an id.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it is not valid, or has another id.
    pub fn parse(&self, service_id: &str, text: &str) -> Result<ServiceRegistration> {
        let registration = ServiceRegistration::parse(text).map_err(Error::InvalidParam)?;
        if text.contains('\0') || registration.id != service_id {
            return Err(Error::invalid_param(
                "the registration has another id than the path, or contains U+0000",
            ));
        }
        Ok(registration)
    }

    /// Registers a service for as long as an administrator does not remove it. `text` is the parsed text.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when its user is not valid, or another service has the same id or token.
    pub async fn register(
        &self,
        registration: ServiceRegistration,
        text: &str,
    ) -> Result<Arc<ApplicationService>> {
        let added = self
            .registry
            .add(registration, RegistrationSource::Database);
        let service = added.map_err(Error::InvalidParam)?;
        self.create_sender(&service.sender).await?;
        let mut tx = self.db.write().await?;
        service_registrations::set(&mut tx, &service.registration.id, text).await?;
        tx.commit().await?;
        Ok(service)
    }

    /// Removes a service that an administrator has registered. Its users stay.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is none; [`Error::Forbidden`] when its registration is in a file.
    pub async fn remove(&self, service_id: &str) -> Result<()> {
        let mut tx = self.db.write().await?;
        if service_registrations::remove(&mut tx, service_id).await? {
            tx.commit().await?;
            self.registry.remove(service_id);
            return Ok(());
        }
        let services = self.registry.all();
        if services
            .iter()
            .any(|service| service.registration.id == service_id)
        {
            return Err(Error::forbidden(
                "the registration is in a file: remove the file from the configuration",
            ));
        }
        Err(Error::not_found("there is no such application service"))
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

/// Returns the problems of the registration files in a configuration.
pub fn find_registration_problems(config: &Config) -> Vec<String> {
    let registry = ApplicationServiceRegistry::new(config.server.name.clone());
    let check = |path: &PathBuf| {
        let registration = ServiceRegistration::read(path).map_err(|error| error.to_string())?;
        let added = registry.add(registration, RegistrationSource::File);
        added.map(drop)
    };
    let paths = config.appservices.registrations.iter();
    let problems = paths.filter_map(|path| {
        let problem = check(path).err()?;
        Some(format!(
            "appservices.registrations: {}: {problem}",
            path.display()
        ))
    });
    problems.collect()
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
