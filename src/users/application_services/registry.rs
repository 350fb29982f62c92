//! The registered application services, by their tokens and namespaces.

use std::sync::{Arc, PoisonError, RwLock};

use ruma::{OwnedServerName, OwnedUserId, RoomAliasId, UserId};

use super::ServiceRegistration;
use crate::{
    error::{Error, Result},
    storage::users::tokens::TokenHash,
    users::secrets,
};

/// A registered application service.
#[derive(Debug)]
pub struct ApplicationService {
    pub registration: ServiceRegistration,
    /// The service's own user.
    pub sender: OwnedUserId,
    pub source: RegistrationSource,
    token_hash: TokenHash,
}

/// The place at which a registration is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationSource {
    /// In a file that the configuration names.
    File,
    /// In the database: an administrator added it while the server ran.
    Database,
}

impl ApplicationService {
    /// Returns whether the service may act as a user: its own one, or one of this server in its namespace.
    pub fn controls(&self, user_id: &UserId) -> bool {
        let is_local = user_id.server_name() == self.sender.server_name();
        *user_id == self.sender || is_local && self.registration.namespaces.has_user(user_id)
    }

    /// Returns whether only this service may create the user.
    fn controls_exclusively(&self, user_id: &UserId) -> bool {
        *user_id == self.sender || self.registration.namespaces.has_exclusive_user(user_id)
    }
}

/// The registered application services. Cheap to clone.
#[derive(Clone)]
pub struct ApplicationServiceRegistry {
    server_name: OwnedServerName,
    services: Arc<RwLock<Vec<Arc<ApplicationService>>>>,
}

impl ApplicationServiceRegistry {
    /// Returns a registry without services.
    pub(in crate::users) fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            services: Arc::default(),
        }
    }

    /// Adds a service. One from the database replaces the one with the same id from there.
    ///
    /// # Errors
    ///
    /// The reason, when its user is not valid, or another service has the same id or token.
    pub(super) fn add(
        &self,
        registration: ServiceRegistration,
        source: RegistrationSource,
    ) -> Result<Arc<ApplicationService>, String> {
        let failed = |reason: String| format!("{}: {reason}", registration.id);
        let sender = UserId::parse_with_server_name(
            registration.sender_localpart.as_str(),
            &self.server_name,
        );
        let sender = sender.map_err(|error| {
            failed(format!(
                "sender_localpart is not a valid user name: {error}"
            ))
        })?;
        let token_hash = secrets::hash_token(&registration.as_token);
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let is_replaced = |other: &ApplicationService| {
            let sources = (other.source, source);
            other.registration.id == registration.id
                && sources == (RegistrationSource::Database, RegistrationSource::Database)
        };
        for other in services.iter().filter(|other| !is_replaced(other)) {
            if other.registration.id == registration.id {
                return Err(failed("another service has the same id".to_owned()));
            }
            if other.token_hash == token_hash {
                let other = &other.registration.id;
                return Err(failed(format!("{other} has the same as_token")));
            }
        }
        services.retain(|other| !is_replaced(other));
        let service = Arc::new(ApplicationService {
            registration,
            sender,
            source,
            token_hash,
        });
        services.push(service.clone());
        Ok(service)
    }

    /// Removes a service whose registration is in the database.
    pub(super) fn remove(&self, service_id: &str) {
        let services = self.services.write();
        services
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|service| {
                service.registration.id != service_id || service.source == RegistrationSource::File
            });
    }

    /// Returns all services.
    pub fn all(&self) -> Vec<Arc<ApplicationService>> {
        self.read(Clone::clone)
    }

    /// Returns the service with an `as_token`.
    pub fn find_by_token(&self, token: &str) -> Option<Arc<ApplicationService>> {
        self.read(|services| {
            if services.is_empty() {
                return None;
            }
            let hash = secrets::hash_token(token);
            let mut services = services.iter();
            services.find(|service| service.token_hash == hash).cloned()
        })
    }

    /// Returns whether an application service controls this user.
    pub fn controls_user(&self, user_id: &UserId) -> bool {
        self.read(|services| services.iter().any(|service| service.controls(user_id)))
    }

    /// Checks that a user is not reserved for an application service.
    ///
    /// # Errors
    ///
    /// [`Error::Exclusive`] when it is.
    pub fn check_user(&self, user_id: &UserId) -> Result<()> {
        let is_reserved = self.read(|services| {
            services
                .iter()
                .any(|service| service.controls_exclusively(user_id))
        });
        if is_reserved {
            return Err(Error::Exclusive(
                "this user name is reserved for an application service",
            ));
        }
        Ok(())
    }

    /// Checks that the requester may create or delete an alias: an application service in its own namespace, and
    /// others where no service has reserved it.
    ///
    /// # Errors
    ///
    /// [`Error::Exclusive`] when they may not.
    pub fn check_alias(
        &self,
        alias: &RoomAliasId,
        requester: Option<&ApplicationService>,
    ) -> Result<()> {
        if let Some(service) = requester {
            return if service.registration.namespaces.has_alias(alias) {
                Ok(())
            } else {
                Err(Error::Exclusive(
                    "this alias is not in the namespace of the application service",
                ))
            };
        }
        let is_reserved = self.read(|services| {
            let mut namespaces = services
                .iter()
                .map(|service| &service.registration.namespaces);
            namespaces.any(|namespaces| namespaces.has_exclusive_alias(alias))
        });
        if is_reserved {
            return Err(Error::Exclusive(
                "this alias is reserved for an application service",
            ));
        }
        Ok(())
    }

    fn read<T>(&self, read: impl FnOnce(&Vec<Arc<ApplicationService>>) -> T) -> T {
        read(&self.services.read().unwrap_or_else(PoisonError::into_inner))
    }
}
