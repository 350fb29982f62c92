//! Questions to application services: whether a user or an alias exists, whether the service can be reached, and what
//! is in the networks to which it bridges.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use ruma::{RoomAliasId, UserId};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::service_client::{QUERY_TIMEOUT, ServiceClient, ServiceFailure, ServiceRequest};
use crate::{
    config::AppservicesSection,
    error::{Error, Result},
    users::{ApplicationService, ServiceRegistration, Users},
};

/// The largest part of a service's response that is repeated in an error, in characters.
const MAX_SHOWN_RESPONSE_CHARS: usize = 1_000;

/// Asks application services. Cheap to clone.
#[derive(Clone)]
pub struct ServiceQueries {
    users: Users,
    client: ServiceClient,
    /// Notified when a service has answered a ping, by the id of the service.
    answered_pings: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
}

/// The way in which an application service did not answer a ping.
pub enum PingFailure {
    Timeout,
    Connection(String),
    /// It answered with a status that is no success.
    BadStatus {
        status: u16,
        body: String,
    },
}

/// The kind of things in another network.
#[derive(Clone, Copy, Debug)]
pub enum ThirdPartyKind {
    Location,
    User,
}

impl ThirdPartyKind {
    fn path_segment(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::User => "user",
        }
    }
}

impl ServiceQueries {
    /// Creates the service.
    ///
    /// # Errors
    ///
    /// When the HTTP client cannot be set up.
    pub fn new(users: &Users, config: &AppservicesSection) -> Result<Self> {
        Ok(Self {
            users: users.clone(),
            client: ServiceClient::new(config)?,
            answered_pings: Arc::default(),
        })
    }

    /// Returns what is notified when a service has answered a ping.
    pub(super) fn answered_ping(&self, service: &ApplicationService) -> Arc<Notify> {
        let mut answered = self
            .answered_pings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = service.registration.id.clone();
        answered.entry(id).or_default().clone()
    }

    pub(super) fn client(&self) -> &ServiceClient {
        &self.client
    }

    /// Checks that this server may contact the URL of a registration.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it is not a valid URL, or leads to an address that is not allowed.
    pub fn check_url(&self, registration: &ServiceRegistration) -> Result<()> {
        let checked = self.client.url_of(registration);
        checked.map(drop).map_err(|error| match error {
            Error::Internal { source, .. } => Error::InvalidParam(source.to_string()),
            error => Error::InvalidParam(error.to_string()),
        })
    }

    /// Asks the services whose namespace has a user of this server without an account whether the user exists. Such a
    /// service creates the account before it answers. Services that do not answer count as not knowing the user.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#get_matrixappv1usersuserid).
    pub async fn create_user_on_demand(&self, user_id: &UserId) -> Result<()> {
        let mut services = self.users.application_services.all();
        services.retain(|service| service.controls(user_id));
        if services.is_empty() || self.users.lookup.has_account(user_id).await? {
            return Ok(());
        }
        for service in services {
            let request = ServiceRequest::get(["users", user_id.as_str()]);
            if self.exists(&service, &request).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks the services whose namespace has an alias of this server whether the alias exists. Such a service creates
    /// the alias before it answers. Returns whether one did.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#get_matrixappv1roomsroomalias).
    pub async fn create_alias_on_demand(&self, alias: &RoomAliasId) -> bool {
        for service in self.users.application_services.all() {
            let request = ServiceRequest::get(["rooms", alias.as_str()]);
            if service.registration.namespaces.has_alias(alias)
                && self.exists(&service, &request).await
            {
                return true;
            }
        }
        false
    }

    async fn exists(&self, service: &ApplicationService, request: &ServiceRequest) -> bool {
        if service.registration.url.is_none() {
            return false;
        }
        match self.client.send(service, request).await {
            Ok(response) => response.status.is_success(),
            Err(failure) => {
                let error = Error::from(failure);
                tracing::warn!(%error, id = service.registration.id, "an application service does not answer");
                false
            }
        }
    }

    /// Asks a service to answer, and returns the time that it took in milliseconds. An answer ends a pause after
    /// transactions that failed.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#pinging).
    pub async fn ping(
        &self,
        service: &ApplicationService,
        transaction_id: Option<&str>,
    ) -> Result<u64, PingFailure> {
        let mut body = serde_json::Map::new();
        body.extend(transaction_id.map(|id| ("transaction_id".to_owned(), json!(id))));
        let request = ServiceRequest {
            method: Method::POST,
            path: vec!["ping".to_owned()],
            query: Vec::new(),
            body: Some(Value::Object(body).to_string()),
            timeout: QUERY_TIMEOUT,
        };
        let started = Instant::now();
        match self.client.send(service, &request).await {
            Ok(response) if response.status.is_success() => {
                self.answered_ping(service).notify_one();
                Ok(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
            }
            Ok(response) => Err(PingFailure::BadStatus {
                status: response.status.as_u16(),
                body: response
                    .body
                    .chars()
                    .take(MAX_SHOWN_RESPONSE_CHARS)
                    .collect(),
            }),
            Err(ServiceFailure::Timeout) => Err(PingFailure::Timeout),
            Err(ServiceFailure::Connection(reason)) => Err(PingFailure::Connection(reason)),
        }
    }

    /// Returns the networks to which services bridge. The instances of a network that several services serve are joined.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3thirdpartyprotocols).
    pub async fn protocols(&self) -> BTreeMap<String, Value> {
        let services = self.users.application_services.all();
        let names = services
            .iter()
            .flat_map(|service| service.registration.protocols.iter().flatten());
        let mut names: Vec<String> = names.cloned().collect();
        names.sort();
        names.dedup();
        let found = join_all(names.iter().map(|name| self.protocol(name))).await;
        let found = names.iter().cloned().zip(found);
        found
            .filter_map(|(name, protocol)| Some((name, protocol?)))
            .collect()
    }

    /// Returns a network, if a service bridges to it and answers.
    pub async fn protocol(&self, name: &str) -> Option<Value> {
        let requests = self.services_for(name).into_iter().map(async |service| {
            let request = ServiceRequest::get(["thirdparty", "protocol", name]);
            let answer = self.answer(&service, &request).await;
            answer.map(|protocol| with_instance_ids(protocol, &service.registration.id))
        });
        let mut protocols = join_all(requests).await.into_iter().flatten();
        let mut joined = protocols.find(Value::is_object)?;
        let instances =
            protocols.filter_map(|protocol| protocol.get("instances")?.as_array().cloned());
        let further: Vec<Value> = instances.flatten().collect();
        if let Some(instances) = joined.get_mut("instances").and_then(Value::as_array_mut) {
            instances.extend(further);
        }
        Some(joined)
    }

    /// Returns the locations or users of a network that match the fields.
    pub async fn search_network(
        &self,
        kind: ThirdPartyKind,
        protocol: &str,
        fields: Vec<(String, String)>,
    ) -> Vec<Value> {
        let path = ["thirdparty", kind.path_segment(), protocol];
        let request = ServiceRequest {
            query: fields,
            ..ServiceRequest::get(path)
        };
        self.lists(self.services_for(protocol), &request).await
    }

    /// Returns the locations of other networks that belong to an alias, or their users that belong to a user id.
    pub async fn find_in_networks(&self, kind: ThirdPartyKind, id: &str) -> Vec<Value> {
        let parameter = match kind {
            ThirdPartyKind::Location => "alias",
            ThirdPartyKind::User => "userid",
        };
        let request = ServiceRequest {
            query: vec![(parameter.to_owned(), id.to_owned())],
            ..ServiceRequest::get(["thirdparty", kind.path_segment()])
        };
        let mut services = self.users.application_services.all();
        services.retain(|service| service.registration.protocols.is_some());
        self.lists(services, &request).await
    }

    fn services_for(&self, protocol: &str) -> Vec<Arc<ApplicationService>> {
        let mut services = self.users.application_services.all();
        services.retain(|service| {
            let mut protocols = service.registration.protocols.iter().flatten();
            protocols.any(|name| name == protocol)
        });
        services
    }

    async fn lists(
        &self,
        services: Vec<Arc<ApplicationService>>,
        request: &ServiceRequest,
    ) -> Vec<Value> {
        let answers = services.iter().map(|service| self.answer(service, request));
        let answers = join_all(answers).await.into_iter().flatten();
        let lists = answers.filter_map(|answer| match answer {
            Value::Array(items) => Some(items),
            _ => None,
        });
        lists.flatten().collect()
    }

    /// Returns the JSON with which a service answers successfully.
    async fn answer(
        &self,
        service: &ApplicationService,
        request: &ServiceRequest,
    ) -> Option<Value> {
        let response = self.client.send(service, request).await.ok()?;
        if response.status != StatusCode::OK {
            return None;
        }
        serde_json::from_str(&response.body).ok()
    }
}

/// Adds to each instance of a network the id by which clients choose it in the room directory.
fn with_instance_ids(mut protocol: Value, service_id: &str) -> Value {
    let instances = protocol.get_mut("instances").and_then(Value::as_array_mut);
    for instance in instances.into_iter().flatten() {
        let network = instance.get("network_id").and_then(Value::as_str);
        if let Some(id) = network.map(|network| format!("{service_id}|{network}"))
            && let Some(instance) = instance.as_object_mut()
        {
            instance.insert("instance_id".to_owned(), json!(id));
        }
    }
    protocol
}
