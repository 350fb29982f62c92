//! The e-mail addresses of accounts.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information).

use ruma::{
    api::client::{account::add_3pid, uiaa::ThirdpartyIdCredentials},
    thirdparty::{Medium, ThirdPartyIdentifier, ThirdPartyIdentifierInit},
};
use serde_json::json;

use super::{EmailValidations, NewEmail, ValidationPurpose};
use crate::{
    clock::{self, Clock},
    error::{Error, RefusalCode, Result},
    mail::EmailAddress,
    storage::{
        Db,
        users::{email_addresses, pushers},
    },
    users::{InteractiveAuth, Session, UserEnvironment, pushers::EMAIL_APP_ID},
};

/// The largest number of addresses of an account.
const MAX_ADDRESSES_PER_USER: usize = 20;

/// The e-mail addresses of accounts.
#[derive(Clone)]
pub struct EmailAddresses {
    db: Db,
    clock: Clock,
    validations: EmailValidations,
    uia: InteractiveAuth,
}

impl EmailAddresses {
    /// Creates the service.
    pub(in crate::users) fn new(
        environment: &UserEnvironment,
        validations: &EmailValidations,
        uia: &InteractiveAuth,
    ) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            validations: validations.clone(),
            uia: uia.clone(),
        }
    }

    /// Returns the addresses of a user.
    pub async fn list(&self, session: &Session) -> Result<Vec<ThirdPartyIdentifier>> {
        let mut db = self.db.read().await?;
        let rows = email_addresses::of_user(&mut db, session.user).await?;
        let identifiers = rows.into_iter().map(|row| {
            ThirdPartyIdentifier::from(ThirdPartyIdentifierInit {
                address: row.address,
                medium: Medium::Email,
                validated_at: clock::timestamp(row.validated_ts),
                added_at: clock::timestamp(row.added_ts),
            })
        });
        Ok(identifiers.collect())
    }

    /// Adds a validated address to the account of a user, after the user has authenticated with the password.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have; `RefusalCode::ThreepidAuthFailed` when the address is not validated;
    /// `RefusalCode::ThreepidInUse` when another account has it.
    #[tracing::instrument(skip_all, fields(user_id = %session.user_id), err(level = "debug"))]
    pub async fn add(&self, session: &Session, request: add_3pid::v3::Request) -> Result<()> {
        if !self.validations.is_enabled() {
            return Err(Error::refused(
                RefusalCode::ThreepidDenied,
                "accounts have no e-mail addresses on this server",
            ));
        }
        let parameters = json!([request.sid, request.client_secret]);
        self.uia
            .reauthenticate("3pid/add", session, &parameters, request.auth.as_ref())
            .await?;
        let credentials = ThirdpartyIdCredentials::new(request.sid, request.client_secret);
        let validated = self
            .validations
            .validated_address(&credentials, ValidationPurpose::Add)
            .await?;
        let validated = validated.ok_or_else(|| {
            Error::refused(
                RefusalCode::ThreepidAuthFailed,
                "the e-mail address is not confirmed: open the link in the message first",
            )
        })?;
        let mut tx = self.db.write().await?;
        let present = email_addresses::of_user(&mut tx, session.user).await?;
        if present.len() >= MAX_ADDRESSES_PER_USER {
            return Err(Error::invalid_param(
                "there are too many e-mail addresses: remove some of them",
            ));
        }
        let new = NewEmail {
            user: session.user,
            validated,
            added_ts: self.clock.now_ms(),
        };
        new.store(&mut tx).await?;
        tx.commit().await
    }

    /// Removes an address from the account of a user, if it is there, and the pusher that sends to it.
    pub async fn remove(&self, session: &Session, address: &str) -> Result<()> {
        // An address that is not valid is nobody's.
        let Ok(address) = EmailAddress::parse(address) else {
            return Ok(());
        };
        let mut tx = self.db.write().await?;
        let (user, address) = (session.user, address.as_str());
        if email_addresses::remove(&mut tx, user, address).await? {
            pushers::remove_of_address(&mut tx, user, EMAIL_APP_ID, address).await?;
            pushers::announce_change(&mut tx, user);
        }
        tx.commit().await
    }
}
