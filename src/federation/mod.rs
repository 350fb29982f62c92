//! Talking to other servers: where they are, the keys with which they sign, and requests to them.
//!
//! `resolve` finds a server in the specification's steps, with `well_known` and `names`; `client` sends requests,
//! signed, over `connections` that are kept; `failure` says why nothing came of one, and `backoff` remembers who does
//! not answer; `keys` knows with what others sign, and is a notary; `key_ring` gathers those of many; `handshake` gets
//! templates of events and completes them; `cache` bounds what is remembered, and lets those who look for the same wait
//! for one look-up; `multipart` reads the form in which media comes.
//!
//! `policy` asks policy servers; `events` verifies what others send, and `sender` sees to it that they are sent what
//! concerns them.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/

mod backoff;
mod cache;
mod client;
mod connections;
mod events;
mod failure;
mod handshake;
mod join_answer;
mod key_ring;
mod keys;
mod multipart;
mod names;
mod policy;
mod resolve;
mod sender;
mod signed_text;
mod well_known;

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    ServerName, UserId,
    api::federation::{
        authentication::XMatrix, discovery::ServerSigningKeys, query::get_profile_information,
    },
    canonical_json::CanonicalJsonObject,
    exports::http::Request,
    profile::{ProfileFieldName, UserProfile},
    serde::Raw,
};
use serde_json::value::to_raw_value;

pub use self::{
    cache::Cache,
    client::{Allowance, Client},
    failure::{Failure, Refusal},
    handshake::{Member, Signed, Template},
    join_answer::JoinAnswer,
    key_ring::KeyRing,
    keys::{Keys, WantedKey},
    multipart::{Part, Parts},
    sender::Sender,
};
use self::{connections::Http, resolve::Servers};
use crate::{
    clock::Clock,
    config::{self, Config},
    error::{Error, Result},
    matrix::SigningKey,
    outbound::{Reach, Trust},
    storage::Db,
};

/// The other servers. Cheap to clone.
#[derive(Clone)]
pub struct Federation {
    key: Arc<SigningKey>,
    clock: Clock,
    reach: Reach,
    trust: Arc<Trust>,
    client: Client,
    keys: Keys,
}

impl Federation {
    /// Gets ready to talk to other servers; nothing is sent before somebody asks.
    ///
    /// # Errors
    ///
    /// When a file of the configuration's `trusted_ca` cannot be used.
    pub fn new(db: &Db, clock: &Clock, config: &Config, key: Arc<SigningKey>) -> Result<Self> {
        let config::Federation {
            enabled,
            trusted_ca,
            verify_certificates,
            allow_private_addresses,
            notaries,
        } = &config.federation;
        let reach = if *allow_private_addresses {
            Reach::Everywhere
        } else {
            Reach::Public
        };
        let trust = Trust::read(trusted_ca, *verify_certificates)?;
        let servers = Servers::new(clock, reach, trust.clone());
        let http = Http::new(clock, reach, trust.clone());
        let client = Client::new(*enabled, key.clone(), clock, servers, http);
        let keys = Keys::new(db, clock, key.clone(), client.clone(), notaries.clone());
        Ok(Self {
            key,
            clock: clock.clone(),
            reach,
            trust: Arc::new(trust),
            client,
            keys,
        })
    }

    /// Returns the present time, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Returns which addresses other servers may be at.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Returns whose certificates are believed beside those that the system knows.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Returns a cache for what other servers tell.
    pub fn cache<K: Clone + Eq + std::hash::Hash, V: Clone>(&self, limit: usize) -> Cache<K, V> {
        Cache::new(&self.clock, limit)
    }

    /// Returns what sends requests to other servers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the keys with which servers sign.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Returns whether a server is this one.
    pub fn is_own(&self, server: &ServerName) -> bool {
        server == self.key.server_name()
    }

    /// Proves that a request is of the server that it says, and meant for this one. If the server's key is not known,
    /// `admit` says whether it may be asked for: anybody can name any server.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`] where it is not; [`Error::LimitExceeded`] when too many servers of which nothing is
    /// known seem to ask; those of `admit`.
    #[tracing::instrument(skip_all, fields(server = %proof.origin), err(level = "debug"))]
    pub async fn authenticate<B: AsRef<[u8]>>(
        &self,
        proof: &XMatrix,
        request: &Request<B>,
        admit: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let origin = &proof.origin;
        if self.is_own(origin) {
            return Err(unauthorized("this server asks itself nothing"));
        }
        let (key_id, now) = (proof.key.as_str(), self.clock.now_ms());
        let key = self
            .keys
            .key_of_caller(origin, (key_id, now), admit)
            .await?;
        let key = key.ok_or_else(|| {
            unauthorized("the key with which the request is signed cannot be found")
        })?;
        let set = [(key_id.to_owned(), key)].into_iter().collect();
        let keys = [(origin.to_string(), set)].into_iter().collect();
        let own = self.key.server_name();
        let is_signed = match proof.verify_http_request(request, own, &keys) {
            Ok(()) => Ok(()),
            Err(error) => signed_text::verify(proof, request, (own, &keys)).ok_or(error),
        };
        is_signed.map_err(|error| unauthorized(error.to_string()))?;
        self.client.heard_from(origin);
        Ok(())
    }

    /// Returns the keys of this server, signed.
    ///
    /// # Errors
    ///
    /// When they cannot be signed.
    pub fn own_keys(&self) -> Result<Raw<ServerSigningKeys>> {
        raw(&self.keys.published()?)
    }

    /// Returns the keys of a server for somebody who asks this one as a notary, signed by this one, too: those with some
    /// ids, or all. They are asked for again if those known are not valid until a time.
    ///
    /// # Errors
    ///
    /// When they cannot be read or signed.
    pub async fn keys_of(
        &self,
        server: &ServerName,
        wanted: (&BTreeSet<String>, i64),
    ) -> Result<Vec<Raw<ServerSigningKeys>>> {
        if self.is_own(server) {
            return Ok(vec![self.own_keys()?]);
        }
        let mut documents = self.keys.documents(server, wanted).await?;
        for document in &mut documents {
            self.key.sign(document)?;
        }
        documents.iter().map(raw).collect()
    }

    /// Returns the profile of a user of another server, or a field of it.
    ///
    /// # Errors
    ///
    /// As [`Failure`] becomes an [`Error`].
    pub async fn profile(
        &self,
        user_id: &UserId,
        field: Option<ProfileFieldName>,
    ) -> Result<UserProfile> {
        let mut request = get_profile_information::v1::Request::new(user_id.to_owned());
        request.field = field;
        let server = user_id.server_name();
        let response = self.client.send(server, request, Allowance::QUICK).await?;
        Ok(response.data)
    }
}

fn raw(document: &CanonicalJsonObject) -> Result<Raw<ServerSigningKeys>> {
    Ok(Raw::from_json(to_raw_value(document)?))
}

fn unauthorized(why: impl Into<String>) -> Error {
    Error::Unauthorized(why.into())
}
