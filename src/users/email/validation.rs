//! Showing that one receives messages at an e-mail address: the session, the token in a message, and its confirmation.
//!
//! The answers are the same whether or not an account has the address; only the message says it. So nobody but the
//! owner of the address learns whether it has an account here.

use ruma::{ClientSecret, OwnedSessionId, UInt, api::client::uiaa::ThirdpartyIdCredentials};
use url::Url;

use super::{
    ValidationPurpose,
    messages::{MessageSubject, ValidationMessages},
};
use crate::{
    clock::Clock,
    error::{Error, RefusalCode, Result},
    mail::{EmailAddress, MailQueue},
    storage::{
        Db,
        users::{
            email_addresses,
            email_validations::{self, NewValidation, ValidationKey, ValidationRow},
        },
    },
    users::{UserEnvironment, secrets},
};

/// The lifetime of a session after a message was sent, and after the token was presented, in milliseconds.
const LIFETIME_MS: i64 = 60 * 60 * 1000;
/// The number of wrong tokens after which a session has to begin again.
const MAX_FAILURES: i64 = 10;
/// The longest URL of a page that a client wants to be opened, in bytes.
const MAX_NEXT_LINK_BYTES: usize = 2_048;

/// Validates e-mail addresses.
#[derive(Clone)]
pub struct EmailValidations {
    db: Db,
    clock: Clock,
    mail: MailQueue,
    messages: ValidationMessages,
}

/// A request to send a token to an e-mail address.
pub struct TokenRequest<'a> {
    pub purpose: ValidationPurpose,
    /// The secret with which the client shows later that the session is its own.
    pub client_secret: &'a ClientSecret,
    pub address: &'a EmailAddress,
    /// A message is sent only if this is larger than in the earlier requests.
    pub send_attempt: UInt,
    /// The page that the client wants to be opened afterwards.
    pub next_link: Option<&'a str>,
}

/// A session whose user has a link with the right token.
pub struct PendingValidation {
    pub purpose: ValidationPurpose,
    pub address: String,
    /// The page that the client wants to be opened afterwards.
    pub next_link: Option<Url>,
}

/// An address that its owner has confirmed.
#[derive(Clone, Debug)]
pub(in crate::users) struct ValidatedAddress {
    pub(in crate::users) address: String,
    pub(in crate::users) validated_ts: i64,
}

impl EmailValidations {
    /// Creates the service.
    pub(in crate::users) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            mail: environment.mail.clone(),
            messages: ValidationMessages::new(&environment.config),
        }
    }

    /// Returns whether this server can send e-mail.
    pub fn is_enabled(&self) -> bool {
        self.mail.is_enabled()
    }

    /// Sends a token to an address, and returns the id of the session.
    ///
    /// # Errors
    ///
    /// `RefusalCode::ThreepidDenied` when this server sends no e-mail; [`Error::Unavailable`] when too many messages
    /// wait to be sent.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken).
    pub async fn send_token(&self, request: TokenRequest<'_>) -> Result<OwnedSessionId> {
        if !self.is_enabled() {
            return Err(Error::refused(
                RefusalCode::ThreepidDenied,
                "accounts have no e-mail addresses on this server",
            ));
        }
        let place = self.mail.reserve_place()?;
        let client_secret_hash = secrets::hash_token(request.client_secret.as_str());
        let key = ValidationKey {
            client_secret_hash: &client_secret_hash,
            address: request.address.as_str(),
            purpose: request.purpose.as_str(),
        };
        let send_attempt = i64::from(request.send_attempt);
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        let earlier = email_validations::find_by_key(&mut tx, key, now).await?;
        if let Some(earlier) = &earlier
            && (earlier.send_attempt >= send_attempt || earlier.validated_ts.is_some())
        {
            return session_id(&earlier.session_id);
        }
        let sid = match earlier {
            Some(earlier) => earlier.session_id,
            None => secrets::random_token(),
        };
        let token = secrets::random_token();
        let next_link = request.next_link.and_then(web_link);
        let new = NewValidation {
            session_id: &sid,
            key,
            token_hash: &secrets::hash_token(&token),
            send_attempt,
            next_link: next_link.as_ref().map(Url::as_str),
            expires_ts: now.saturating_add(LIFETIME_MS),
        };
        email_validations::set(&mut tx, new, now).await?;
        let owner = match email_addresses::owner(&mut tx, key.address).await? {
            Some(user) => Some(self.db.strings.user_id(&mut tx, user).await?),
            None => None,
        };
        tx.commit().await?;
        place.send(self.messages.write(MessageSubject {
            address: request.address.clone(),
            purpose: request.purpose,
            owner,
            session_id: &sid,
            token: &token,
        }));
        session_id(&sid)
    }

    /// Returns the session to which a link belongs. It is not validated by this: programs open links, too.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the link is not valid.
    pub async fn find(&self, session_id: &str, token: &str) -> Result<PendingValidation> {
        let now = self.clock.now_ms();
        let found = {
            let mut db = self.db.read().await?;
            email_validations::find(&mut db, session_id, now).await?
        };
        let found = found.ok_or_else(invalid_link_error)?;
        if found.failures >= MAX_FAILURES {
            return Err(invalid_link_error());
        }
        // The hashes are compared: how long that takes reveals nothing about the token.
        if found.token_hash != secrets::hash_token(token) {
            let mut tx = self.db.write().await?;
            email_validations::add_failure(&mut tx, session_id).await?;
            tx.commit().await?;
            return Err(invalid_link_error());
        }
        pending(found)
    }

    /// Validates the address of a session whose link the user has confirmed.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the link is not valid.
    pub async fn confirm(&self, session_id: &str, token: &str) -> Result<PendingValidation> {
        let found = self.find(session_id, token).await?;
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        let expires_ts = now.saturating_add(LIFETIME_MS);
        email_validations::set_validated(&mut tx, session_id, now, expires_ts).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// Returns the address of a client's session, if the user has confirmed it.
    pub(in crate::users) async fn validated_address(
        &self,
        credentials: &ThirdpartyIdCredentials,
        purpose: ValidationPurpose,
    ) -> Result<Option<ValidatedAddress>> {
        let secret_hash = secrets::hash_token(credentials.client_secret.as_str());
        let (sid, now) = (credentials.sid.as_str(), self.clock.now_ms());
        let mut db = self.db.read().await?;
        let found = email_validations::find_with_secret(&mut db, sid, &secret_hash, now).await?;
        let found = found.filter(|row| ValidationPurpose::from_name(&row.purpose) == Some(purpose));
        Ok(found.and_then(|row| {
            Some(ValidatedAddress {
                address: row.address,
                validated_ts: row.validated_ts?,
            })
        }))
    }
}

fn session_id(text: &str) -> Result<OwnedSessionId> {
    OwnedSessionId::try_from(text).map_err(|error| Error::internal("read a session id", error))
}

fn pending(row: ValidationRow) -> Result<PendingValidation> {
    let purpose = ValidationPurpose::from_name(&row.purpose);
    let unknown = || Error::internal("read an e-mail validation", "the purpose is unknown");
    Ok(PendingValidation {
        purpose: purpose.ok_or_else(unknown)?,
        address: row.address,
        next_link: row.next_link.as_deref().and_then(web_link),
    })
}

/// Returns the URL of a page. Other links, such as those of apps, are left out: only a page can be opened safely.
fn web_link(text: &str) -> Option<Url> {
    if text.len() > MAX_NEXT_LINK_BYTES {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let is_page = matches!(url.scheme(), "http" | "https") && url.has_host();
    let has_login = !url.username().is_empty() || url.password().is_some();
    (is_page && !has_login).then_some(url)
}

fn invalid_link_error() -> Error {
    Error::forbidden("this link has expired, or a newer message has another link")
}
