//! Changing the password of an account, and deactivating it.

use std::sync::Arc;

use ruma::api::client::account::change_password;
use serde_json::json;

use super::{
    InteractiveAuth, Session, UserEnvironment, ValidationPurpose, passwords::Passwords,
    sessions::delete_devices_except,
};
use crate::{
    clock::Clock,
    error::{Error, Result},
    mail::MailQueue,
    storage::{
        Db, JournalChange,
        devices::{cross_signing, device_list_changes, key_backups},
        rooms::{delayed_events, invite_links, personal_notifications, sticky_events},
        users::{
            account_data, accounts, email_addresses, email_validations, oauth_codes,
            profile_changes, profiles, short_lived_tokens, upstream_accounts, upstream_sessions,
        },
    },
};

/// Changes of an account by its user.
#[derive(Clone)]
pub struct AccountChanges {
    db: Db,
    clock: Clock,
    passwords: Arc<Passwords>,
    uia: InteractiveAuth,
    mail: MailQueue,
}

impl AccountChanges {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment, uia: &InteractiveAuth) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            passwords: environment.passwords.clone(),
            uia: uia.clone(),
            mail: environment.mail.clone(),
        }
    }

    /// Changes a user's password, after the user has authenticated with the old one.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have.
    #[tracing::instrument(skip_all, fields(user_id = %session.user_id), err(level = "debug"))]
    pub async fn change_password(
        &self,
        session: &Session,
        request: change_password::v3::Request,
    ) -> Result<()> {
        session.must_not_be_guest()?;
        Passwords::check(&request.new_password)?;
        let parameters = json!([request.new_password, request.logout_devices]);
        self.uia
            .reauthenticate("password", session, &parameters, request.auth.as_ref())
            .await?;
        self.set_password(session, request.new_password, request.logout_devices)
            .await
    }

    /// Sets another password for a user who has authenticated. The device of the session stays logged in.
    ///
    /// # Errors
    ///
    /// When the password is too long.
    pub async fn set_password(
        &self,
        session: &Session,
        new_password: String,
        logout_devices: bool,
    ) -> Result<()> {
        Passwords::check(&new_password)?;
        let hash = self.passwords.hash(new_password).await?;
        let mut tx = self.db.write().await?;
        accounts::set_password(&mut tx, session.user, &hash).await?;
        if logout_devices {
            delete_devices_except(&mut tx, session.user, Some(session)).await?;
        }
        tx.commit().await
    }

    /// Sets another password for the account with an e-mail address, after someone who is not logged in has confirmed
    /// the address.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have; [`Error::MissingToken`] when this server sends no e-mail.
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn reset_password(&self, request: change_password::v3::Request) -> Result<()> {
        if !self.mail.is_enabled() {
            return Err(Error::MissingToken);
        }
        Passwords::check(&request.new_password)?;
        let parameters = json!([request.new_password, request.logout_devices]);
        let validated = self
            .uia
            .authenticate_by_email(&parameters, request.auth.as_ref())
            .await?;
        let hash = self.passwords.hash(request.new_password).await?;
        let address = &validated.address;
        let mut tx = self.db.write().await?;
        let user = email_addresses::owner(&mut tx, address).await?;
        let user = user.ok_or_else(|| Error::forbidden("no account has this e-mail address"))?;
        accounts::set_password(&mut tx, user, &hash).await?;
        if request.logout_devices {
            delete_devices_except(&mut tx, user, None).await?;
        }
        let purpose = ValidationPurpose::Password.as_str();
        email_validations::remove(&mut tx, address, purpose).await?;
        let user_id = self.db.strings.user_id(&mut tx, user).await?;
        tx.commit().await?;
        tracing::info!(%user_id, "password set with an e-mail address");
        Ok(())
    }

    /// Deactivates an account: nobody can log in to it or register its name again, and its profile is deleted.
    ///
    /// The caller has authenticated the user, and removes the user from their rooms.
    #[tracing::instrument(skip_all, fields(user_id = %session.user_id), err(level = "debug"))]
    pub async fn deactivate(&self, session: &Session, erase: bool) -> Result<()> {
        let user = session.user;
        let mut tx = self.db.write().await?;
        let position = erase.then(|| tx.next_position());
        accounts::deactivate(&mut tx, user, position).await?;
        if let Some(position) = position {
            let user_id = session.user_id.clone();
            tx.publish(position, JournalChange::Erased { user_id });
            sticky_events::remove_of_sender(&mut tx, user).await?;
        }
        delete_devices_except(&mut tx, user, None).await?;
        short_lived_tokens::remove_all(&mut tx, user).await?;
        oauth_codes::remove_all(&mut tx, user).await?;
        upstream_accounts::remove_all(&mut tx, user).await?;
        upstream_sessions::remove_all(&mut tx, user).await?;
        if cross_signing::remove_all(&mut tx, user).await? > 0 {
            device_list_changes::record_device_changes(
                &mut tx,
                user,
                &[device_list_changes::CROSS_SIGNING_DEVICE_ID],
            )
            .await?;
        }
        key_backups::remove_all(&mut tx, user).await?;
        profiles::remove_all(&mut tx, user).await?;
        profile_changes::remove_all(&mut tx, user).await?;
        email_addresses::remove_all(&mut tx, user).await?;
        account_data::remove_all(&mut tx, user).await?;
        personal_notifications::remove_all(&mut tx, user).await?;
        invite_links::remove_of_creator(&mut tx, user).await?;
        delayed_events::cancel_of_user(&mut tx, user, self.clock.now_ms()).await?;
        tx.commit().await?;
        tracing::info!(user_id = %session.user_id, "account deactivated");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{storage::devices::device_table, users::testing::TestUsers};

    fn change(new: &str, old: &str) -> change_password::v3::Request {
        let mut request = change_password::v3::Request::new(new.to_owned());
        let auth = json!({
            "type": "m.login.password", "password": old,
            "identifier": {"type": "m.id.user", "user": "alice"},
        });
        request.auth = Some(serde_json::from_value(auth).unwrap());
        request
    }

    #[tokio::test]
    async fn another_password_logs_out_the_other_devices() {
        let test = TestUsers::new(|_| {}).await;
        let alice = test.session("alice").await;
        let mut tx = test.test.db.write().await.unwrap();
        device_table::upsert(&mut tx, alice.user, "OTHER", None, 1)
            .await
            .unwrap();
        tx.commit().await.unwrap();

        let kept = {
            let mut request = change("second", "password");
            request.logout_devices = false;
            request
        };
        test.users
            .account
            .change_password(&alice, kept)
            .await
            .unwrap();
        let count = async || {
            let mut db = test.test.db.read().await.unwrap();
            device_table::of_user(&mut db, alice.user)
                .await
                .unwrap()
                .len()
        };
        assert_eq!(count().await, 2);
        let refused = test
            .users
            .account
            .change_password(&alice, change("x", "password"))
            .await;
        assert!(matches!(refused, Err(Error::Uia(_))));
        test.users
            .account
            .change_password(&alice, change("third", "second"))
            .await
            .unwrap();
        assert_eq!(count().await, 1);

        let login = test
            .users
            .password_check
            .check("alice", "third".into())
            .await;
        assert!(login.is_ok());
    }

    #[tokio::test]
    async fn a_deactivated_account_can_never_be_used_again() {
        let test = TestUsers::new(|_| {}).await;
        let login = test.register("alice").await;
        let alice = test
            .users
            .sessions
            .authenticate(&login.tokens.access_token)
            .await
            .unwrap();

        test.users.account.deactivate(&alice, true).await.unwrap();

        let token = &login.tokens.access_token;
        assert!(test.users.sessions.authenticate(token).await.is_err());
        let refused = test
            .users
            .password_check
            .check("alice", "password".into())
            .await;
        assert!(matches!(refused, Err(Error::UserDeactivated)));
        let refused = test.users.usernames.available_user_id("alice").await;
        assert!(matches!(refused, Err(Error::UserInUse)));
        let profile = test.users.profiles.get(&alice.user_id).await;
        assert!(matches!(profile, Err(Error::NotFound(_))));
    }
}
