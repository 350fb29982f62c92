//! The connection of users with e-mail addresses and telephone numbers at identity servers.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidbind).

use ruma::{
    ServerName,
    api::client::account::{ThirdPartyIdRemovalStatus, bind_3pid},
    thirdparty::Medium,
};

use super::WorkflowSources;
use crate::{
    error::Result,
    federation::{
        IdentityAccess, IdentityServers, ThirdPartyAddress, UnbindAnswer, ValidationCredentials,
        parse_identity_server_name,
    },
    users::{IdentityBinding, Session, Users},
};

/// Connects users with addresses at identity servers. Cheap to clone.
#[derive(Clone)]
pub struct IdentityBindings {
    users: Users,
    identity_servers: IdentityServers,
}

impl IdentityBindings {
    pub(super) fn new(sources: &WorkflowSources) -> Self {
        Self {
            users: sources.users.clone(),
            identity_servers: sources.federation.identity_servers().clone(),
        }
    }

    /// Asks an identity server to publish that an address belongs to a user.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`](crate::error::Error::Forbidden) when the identity server refuses it.
    pub async fn bind(&self, session: &Session, request: bind_3pid::v3::Request) -> Result<()> {
        let access = IdentityAccess::parse(
            &request.identity_server_info.id_server,
            &request.identity_server_info.id_access_token,
        )?;
        self.users
            .identity_bindings
            .check_count(session.user)
            .await?;
        let credentials = ValidationCredentials {
            client_secret: request.client_secret.as_str(),
            sid: request.sid.as_str(),
        };
        let bound = self
            .identity_servers
            .bind(&access, credentials, &session.user_id)
            .await?;
        let binding = IdentityBinding {
            medium: bound.medium.to_string(),
            address: bound.address,
            id_server: access.server.to_string(),
        };
        let bindings = &self.users.identity_bindings;
        bindings.add(session.user, &binding).await
    }

    /// Asks an identity server to forget that an address belongs to a user; without its name, all that know it from here.
    pub async fn unbind(
        &self,
        session: &Session,
        id_server: Option<&str>,
        address: ThirdPartyAddress,
    ) -> Result<ThirdPartyIdRemovalStatus> {
        let ThirdPartyAddress { medium, address } = address;
        let mut known = self.users.identity_bindings.list(session.user).await?;
        known.retain(|known| known.address == address && known.medium == medium.as_str());
        if let Some(name) = id_server {
            let name = parse_identity_server_name(name)?;
            known.retain(|known| known.id_server == name.as_str());
            if known.is_empty() {
                // It may know the address from another client.
                known.push(IdentityBinding {
                    medium: medium.to_string(),
                    address,
                    id_server: name.to_string(),
                });
            }
        }
        self.forget(session, &known).await
    }

    /// Asks all identity servers to forget a user whose account ends.
    pub async fn unbind_all(&self, session: &Session) -> Result<ThirdPartyIdRemovalStatus> {
        let known = self.users.identity_bindings.list(session.user).await?;
        if known.is_empty() {
            return Ok(ThirdPartyIdRemovalStatus::Success);
        }
        self.forget(session, &known).await
    }

    async fn forget(
        &self,
        session: &Session,
        known: &[IdentityBinding],
    ) -> Result<ThirdPartyIdRemovalStatus> {
        let mut status = match known {
            [] => ThirdPartyIdRemovalStatus::NoSupport,
            _ => ThirdPartyIdRemovalStatus::Success,
        };
        for binding in known {
            if self.forget_one(session, binding).await? == UnbindAnswer::NotSupported {
                status = ThirdPartyIdRemovalStatus::NoSupport;
            }
        }
        Ok(status)
    }

    async fn forget_one(
        &self,
        session: &Session,
        binding: &IdentityBinding,
    ) -> Result<UnbindAnswer> {
        let address = ThirdPartyAddress {
            medium: Medium::from(binding.medium.as_str()),
            address: binding.address.clone(),
        };
        let Ok(server) = <&ServerName>::try_from(binding.id_server.as_str()) else {
            return Ok(UnbindAnswer::NotSupported);
        };
        let answer = self
            .identity_servers
            .unbind(server, &address, &session.user_id)
            .await;
        let answer = answer.unwrap_or_else(|error| {
            tracing::warn!(%error, "an identity server was not made to forget an address");
            UnbindAnswer::NotSupported
        });
        if answer == UnbindAnswer::Forgotten {
            let bindings = &self.users.identity_bindings;
            bindings.remove(session.user, binding).await?;
        }
        Ok(answer)
    }
}
