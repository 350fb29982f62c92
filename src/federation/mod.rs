//! Communication with other servers: finding them, their signing keys, and requests to them.
//!
//! `resolve` follows the specification's steps to find a server, with the help of `well_known` and `dns`. `client`
//! sends signed requests over the `connections` that are kept alive. `failure` gives the reason why a request failed,
//! and `backoff` remembers servers that do not answer. `keys` fetches signing keys, and acts as a notary; `key_ring`
//! fetches those of many servers together. `join_leave_knock` gets event templates and completes them. `cache` limits
//! what is remembered, and shares one look-up among concurrent callers. `multipart` parses the responses with media.
//!
//! `policy` asks policy servers, `events` verifies the events of other servers, and `sender` sends them the events and
//! EDUs that concern them. `identity_servers` asks identity servers for the users behind addresses.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/).

mod backoff;
mod cache;
mod client;
mod connections;
mod dns;
mod events;
mod failure;
mod identity_servers;
mod join_leave_knock;
mod key_ring;
mod keys;
mod multipart;
mod policy;
mod resolve;
mod send_join_response;
mod sender;
mod verify_unusual_json;
mod well_known;

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    OwnedUserId, ServerName, UserId,
    api::federation::{
        authentication::XMatrix, discovery::ServerSigningKeys, openid::get_openid_userinfo,
        query::get_profile_information,
    },
    canonical_json::CanonicalJsonObject,
    exports::http::Request,
    profile::{ProfileFieldName, UserProfile},
    serde::Raw,
};
use serde_json::value::to_raw_value;

pub use self::{
    cache::LookupCache,
    client::{FederationClient, RequestLimits},
    failure::{RemoteRefusal, RequestFailure},
    identity_servers::{
        IdentityAccess, IdentityServers, StoredInvitation, ThirdPartyAddress, UnbindAnswer,
        ValidationCredentials, parse_name as parse_identity_server_name,
    },
    join_leave_knock::{CompletedEvent, DesiredMembership, MembershipTemplate, OutgoingInvite},
    key_ring::KeyRing,
    keys::{ServerKeyStore, WantedKey},
    multipart::{MultipartPart, MultipartReader},
    send_join_response::JoinAnswer,
    sender::{FederationSender, SenderServices},
};
use self::{connections::ServerConnections, resolve::ServerResolver};
use crate::{
    clock::Clock,
    config::{self, Config},
    error::{Error, RefusalCode, Result},
    matrix::SigningKey,
    outbound::{CertificateTrust, NetworkReach},
    storage::Db,
};

/// The service for communication with other servers. Cheap to clone.
#[derive(Clone)]
pub struct Federation {
    key: Arc<SigningKey>,
    clock: Clock,
    reach: NetworkReach,
    trust: Arc<CertificateTrust>,
    client: FederationClient,
    keys: ServerKeyStore,
    identity_servers: IdentityServers,
}

impl Federation {
    /// Sets up the communication with other servers. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When a file of the configuration's `trusted_ca` cannot be used.
    pub fn new(db: &Db, clock: &Clock, config: &Config, key: Arc<SigningKey>) -> Result<Self> {
        let config::FederationSection {
            enabled,
            trusted_ca,
            verify_certificates,
            allow_private_addresses,
            notaries,
        } = &config.federation;
        let reach = if *allow_private_addresses {
            NetworkReach::Everywhere
        } else {
            NetworkReach::Public
        };
        let trust = CertificateTrust::read(trusted_ca, *verify_certificates)?;
        let servers = ServerResolver::new(clock, reach, trust.clone());
        let http = ServerConnections::new(clock, reach, trust.clone());
        let client = FederationClient::new(*enabled, key.clone(), clock, servers, http);
        let identity_servers = IdentityServers::new(key.clone(), reach, &trust, *enabled)?;
        let keys = ServerKeyStore::new(db, clock, key.clone(), client.clone(), notaries.clone());
        Ok(Self {
            key,
            clock: clock.clone(),
            reach,
            trust: Arc::new(trust),
            client,
            keys,
            identity_servers,
        })
    }

    /// Returns the current time, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Returns the range of addresses to which requests may go.
    pub fn reach(&self) -> NetworkReach {
        self.reach
    }

    /// Returns the certificate authorities that are trusted in addition to the system's.
    pub fn trust(&self) -> &CertificateTrust {
        &self.trust
    }

    /// Returns a cache for answers of other servers.
    pub fn cache<K: Clone + Eq + std::hash::Hash, V: Clone>(
        &self,
        limit: usize,
    ) -> LookupCache<K, V> {
        LookupCache::new(&self.clock, limit)
    }

    /// Returns the client for requests to other servers.
    pub fn client(&self) -> &FederationClient {
        &self.client
    }

    /// Returns the client for requests to identity servers.
    pub fn identity_servers(&self) -> &IdentityServers {
        &self.identity_servers
    }

    /// Returns the signing keys of other servers.
    pub fn keys(&self) -> &ServerKeyStore {
        &self.keys
    }

    /// Returns whether a server name is this server's own.
    pub fn is_own(&self, server: &ServerName) -> bool {
        server == self.key.server_name()
    }

    /// Verifies that a request was sent by the server that it names, and is meant for this one. If the server's key is
    /// not known, `admit` decides whether it may be fetched, because a request can name any server.
    ///
    /// # Errors
    ///
    /// `RefusalCode::Unauthorized` if the verification fails; [`Error::LimitExceeded`] when too many unknown
    /// servers send requests; the errors of `admit`.
    #[tracing::instrument(skip_all, fields(server = %proof.origin), err(level = "debug"))]
    pub async fn authenticate<B: AsRef<[u8]>>(
        &self,
        proof: &XMatrix,
        request: &Request<B>,
        admit: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let origin = &proof.origin;
        if self.is_own(origin) {
            return Err(unauthorized(
                "a request cannot come from this server itself",
            ));
        }
        let (key_id, now) = (proof.key.as_str(), self.clock.now_ms());
        let key = self
            .keys
            .find_caller_key(origin, key_id, now, admit)
            .await?;
        let key =
            key.ok_or_else(|| unauthorized("the key that signed the request cannot be found"))?;
        let set = [(key_id.to_owned(), key)].into_iter().collect();
        let keys = [(origin.to_string(), set)].into_iter().collect();
        let own = self.key.server_name();
        let is_signed = match proof.verify_http_request(request, own, &keys) {
            Ok(()) => Ok(()),
            Err(error) => {
                verify_unusual_json::verify_request(proof, request, own, &keys).ok_or(error)
            }
        };
        is_signed.map_err(|error| unauthorized(error.to_string()))?;
        self.client.record_contact(origin);
        Ok(())
    }

    /// Returns this server's own keys, signed.
    ///
    /// # Errors
    ///
    /// When they cannot be signed.
    pub fn own_keys(&self) -> Result<Raw<ServerSigningKeys>> {
        to_raw_keys(&self.keys.own_document()?)
    }

    /// Returns the keys of a server for a request to this server as a notary, which adds its own signature: the keys
    /// with the wanted ids, or all. They are fetched again if the known ones are not valid until the wanted time.
    ///
    /// # Errors
    ///
    /// When they cannot be read or signed.
    pub async fn notary_keys(
        &self,
        server: &ServerName,
        key_ids: &BTreeSet<String>,
        valid_until_ms: i64,
    ) -> Result<Vec<Raw<ServerSigningKeys>>> {
        if self.is_own(server) {
            return Ok(vec![self.own_keys()?]);
        }
        let mut documents = self
            .keys
            .notary_documents(server, key_ids, valid_until_ms)
            .await?;
        for document in &mut documents {
            self.key.sign(document)?;
        }
        documents.iter().map(to_raw_keys).collect()
    }

    /// Returns the profile of a user of another server, or a field of it.
    ///
    /// # Errors
    ///
    /// The [`RequestFailure`] of the request, converted into an [`Error`].
    pub async fn fetch_profile(
        &self,
        user_id: &UserId,
        field: Option<ProfileFieldName>,
    ) -> Result<UserProfile> {
        let mut request = get_profile_information::v1::Request::new(user_id.to_owned());
        request.field = field;
        let server = user_id.server_name();
        let response = self
            .client
            .send(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        Ok(response.data)
    }

    /// Returns the user whose `OpenID` token someone presents. It must be one of `server`, which issued the token.
    ///
    /// # Errors
    ///
    /// The [`RequestFailure`] of the request, converted into an [`Error`]; [`Error::Forbidden`] for a user of another
    /// server.
    pub async fn fetch_openid_user(
        &self,
        server: &ServerName,
        access_token: &str,
    ) -> Result<OwnedUserId> {
        let request = get_openid_userinfo::v1::Request::new(access_token.to_owned());
        let response = self
            .client
            .send_unsigned(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        if response.sub.server_name() != server {
            return Err(Error::forbidden(
                "a server cannot vouch for the users of another",
            ));
        }
        Ok(response.sub)
    }
}

fn to_raw_keys(document: &CanonicalJsonObject) -> Result<Raw<ServerSigningKeys>> {
    Ok(Raw::from_json(to_raw_value(document)?))
}

fn unauthorized(why: impl Into<String>) -> Error {
    Error::refused(RefusalCode::Unauthorized, why.into())
}
