//! The grammar of user names for registration, and the user that a login names.
//!
//! See the [specification](https://spec.matrix.org/v1.19/appendices/#user-identifiers).

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use super::{ApplicationService, ApplicationServiceRegistry, UserEnvironment, secrets};
use crate::{
    error::{Error, RefusalCode, Result},
    storage::{Db, users::accounts},
};

/// The longest user id in bytes, with the sigil and the server name.
const MAX_USER_ID_BYTES: usize = 255;
/// The length of a user name that the server generates.
const GENERATED_LETTERS: usize = 16;

/// The error for a user who does not belong to the application service.
pub(super) const NOT_IN_NAMESPACE: Error =
    Error::Exclusive("this user is not in the namespace of the application service");

/// The user names of this server.
#[derive(Clone)]
pub struct UserNames {
    db: Db,
    server_name: OwnedServerName,
    notices_sender: Option<OwnedUserId>,
    application_services: ApplicationServiceRegistry,
}

impl UserNames {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
            notices_sender: environment.notices_sender.clone(),
            application_services: environment.application_services.clone(),
        }
    }

    /// Returns the user id for a user name that can be registered.
    ///
    /// # Errors
    ///
    /// `RefusalCode::InvalidUsername`, [`Error::Exclusive`] or [`Error::UserInUse`] when it cannot.
    pub async fn available_user_id(&self, name: &str) -> Result<OwnedUserId> {
        let user_id = registrable_user_id(name, &self.server_name)?;
        self.application_services.check_user(&user_id)?;
        self.unused_user_id(user_id).await
    }

    /// Returns the user id for a user name that an application service can register.
    ///
    /// # Errors
    ///
    /// As [`Self::available_user_id`]; [`Error::Exclusive`] when the name is not in the service's namespace.
    pub(super) async fn available_to_service(
        &self,
        name: &str,
        service: &ApplicationService,
    ) -> Result<OwnedUserId> {
        let user_id = registrable_user_id(name, &self.server_name)?;
        if !service.controls(&user_id) {
            return Err(NOT_IN_NAMESPACE);
        }
        self.unused_user_id(user_id).await
    }

    async fn unused_user_id(&self, user_id: OwnedUserId) -> Result<OwnedUserId> {
        if self.notices_sender.as_ref() == Some(&user_id) {
            return Err(Error::UserInUse);
        }
        let mut db = self.db.read().await?;
        let strings = &self.db.strings;
        let Some(user) = strings.find_user(&mut db, user_id.as_str()).await? else {
            return Ok(user_id);
        };
        match accounts::find(&mut db, user).await? {
            Some(_) => Err(Error::UserInUse),
            None => Ok(user_id),
        }
    }

    /// Returns a user id with a generated name.
    pub(super) fn generated_user_id(&self) -> Result<OwnedUserId> {
        registrable_user_id(
            &secrets::random_letters(b'a', GENERATED_LETTERS),
            &self.server_name,
        )
    }
}

/// Returns the user id for a user name to register.
///
/// Upper-case letters become lower-case, so that two names cannot differ only in case.
///
/// # Errors
///
/// `RefusalCode::InvalidUsername` unless the localpart follows the grammar of new user ids.
fn registrable_user_id(name: &str, server_name: &ServerName) -> Result<OwnedUserId> {
    let localpart = name.to_ascii_lowercase();
    // "The localpart of a user ID MUST NOT be empty."
    if localpart.is_empty() {
        return Err(Error::refused(
            RefusalCode::InvalidUsername,
            "the user name is empty".to_owned(),
        ));
    }
    // "The length of a user ID, including the @ sigil and the domain, MUST NOT exceed 255 bytes."
    if localpart.len() + server_name.as_str().len() + 2 > MAX_USER_ID_BYTES {
        return Err(Error::refused(
            RefusalCode::InvalidUsername,
            "the user name is too long".to_owned(),
        ));
    }
    // "MUST contain only the characters a-z, 0-9, ., _, =, -, /, and +"
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._=-/+".contains(&b);
    if !localpart.bytes().all(is_allowed) {
        return Err(Error::refused(
            RefusalCode::InvalidUsername,
            "the user name may contain only a-z, 0-9, ., _, =, -, / and +".to_owned(),
        ));
    }
    UserId::parse_with_server_name(localpart, server_name).map_err(|e| {
        Error::refused(
            RefusalCode::InvalidUsername,
            format!("the user name is not allowed: {e}"),
        )
    })
}

/// Returns the user of this server that a login names by localpart or user id, if the name is valid.
pub(super) fn named_user_id(name: &str, server_name: &ServerName) -> Option<OwnedUserId> {
    let name = name.to_ascii_lowercase();
    let user_id = if name.starts_with('@') {
        UserId::parse(name).ok()?
    } else {
        UserId::parse_with_server_name(name, server_name).ok()?
    };
    (user_id.server_name() == server_name).then_some(user_id)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::users::testing::TestUsers;

    #[test]
    fn upper_case_letters_become_lower_case() {
        let user_id = registrable_user_id("Alice.B", server_name!("a.b")).unwrap();

        assert_eq!(user_id, "@alice.b:a.b");
    }

    #[test]
    fn only_the_characters_of_new_user_ids_are_allowed() {
        for name in [
            "a b", "é", "a:b", "a@b", "{a}", "a!", "a\n", "a\0", "", "a~",
        ] {
            let refused = registrable_user_id(name, server_name!("a.b"));
            assert!(
                matches!(
                    refused,
                    Err(Error::Refused {
                        code: RefusalCode::InvalidUsername,
                        ..
                    })
                ),
                "{name}"
            );
        }
        for name in ["3", "q", ".", "_", "=", "-", "/", "+"] {
            assert!(
                registrable_user_id(name, server_name!("a.b")).is_ok(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_user_id_has_at_most_255_bytes() {
        let longest = "a".repeat(255 - "@:a.b".len());

        assert!(registrable_user_id(&longest, server_name!("a.b")).is_ok());
        assert!(registrable_user_id(&(longest + "a"), server_name!("a.b")).is_err());
    }

    #[test]
    fn a_login_names_a_user_by_localpart_or_full_id() {
        let server = server_name!("a.b");

        assert_eq!(named_user_id("alice", server).unwrap(), "@alice:a.b");
        assert_eq!(named_user_id("@ALICE:a.b", server).unwrap(), "@alice:a.b");
        assert_eq!(named_user_id("@alice:c.d", server), None);
        assert_eq!(named_user_id("@alice", server), None);
    }

    #[tokio::test]
    async fn a_generated_name_is_registrable() {
        let test = TestUsers::new(|_| {}).await;

        assert!(test.users.usernames.generated_user_id().is_ok());
    }
}
