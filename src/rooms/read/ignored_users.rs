//! The ignored users and the invite permissions of all users.
//!
//! The settings are kept in memory for the few users that have any, so that sending messages and
//! syncing do not read them from the database.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use ruma::{OwnedUserId, UserId};

use super::RoomAccess;
use crate::{
    error::Result,
    matrix::IgnoreSettings,
    numbers::UserNum,
    rooms::memory::room::Room,
    storage::{Db, JournalChange, users::account_data},
};

/// The ignored users and invite permissions of each user that has any.
#[derive(Default)]
pub(crate) struct IgnoreSettingsByUser {
    by_user: RwLock<HashMap<UserNum, Arc<IgnoreSettings>>>,
}

impl IgnoreSettingsByUser {
    /// Loads the settings of all users.
    pub(crate) async fn load(db: &Db) -> Result<Self> {
        let mut conn = db.read().await?;
        let settings = Self::default();
        for kind in IgnoreSettings::ACCOUNT_DATA_TYPES {
            for row in account_data::of_all_users(&mut conn, kind).await? {
                settings.set_account_data(row.user_num, kind, &row.content);
                settings.stop_ignoring_self(row.user_num, &row.user_id);
            }
        }
        Ok(settings)
    }

    fn set_account_data(&self, user: UserNum, kind: &str, content: &str) {
        if !IgnoreSettings::ACCOUNT_DATA_TYPES.contains(&kind) {
            return;
        }
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        let mut settings = by_user
            .get(&user)
            .map_or_else(IgnoreSettings::default, |settings| {
                IgnoreSettings::clone(settings)
            });
        settings.apply_account_data(kind, content);
        replace_settings(&mut by_user, user, settings);
    }

    /// Removes a user from their own list of ignored users. Lists stored before this was refused
    /// may contain the user.
    fn stop_ignoring_self(&self, user: UserNum, user_id: &str) {
        let Ok(user_id) = <&UserId>::try_from(user_id) else {
            return;
        };
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        let Some(settings) = by_user.get(&user).filter(|s| s.ignores_user(user_id)) else {
            return;
        };
        let mut settings = IgnoreSettings::clone(settings);
        settings.stop_ignoring(user_id);
        replace_settings(&mut by_user, user, settings);
    }

    /// Applies a change of account data.
    pub(crate) fn apply_change(&self, change: &JournalChange) {
        if let JournalChange::AccountData {
            user,
            room: None,
            kind,
            content,
        } = change
        {
            self.set_account_data(*user, kind, content);
        }
    }

    pub(crate) fn find(&self, user: UserNum) -> Option<Arc<IgnoreSettings>> {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        by_user.get(&user).cloned()
    }

    /// Returns the members of a room who ignore a user.
    pub(crate) fn members_ignoring(&self, room: &Room, sender: &UserId) -> Vec<OwnedUserId> {
        let by_user = self.by_user.read().unwrap_or_else(PoisonError::into_inner);
        let view = room.view();
        let members = &view.local_members;
        if members.len() < by_user.len() {
            let ignores = |user: &UserNum| {
                let settings = by_user.get(user);
                settings.is_some_and(|settings| settings.ignores_user(sender))
            };
            let ignoring = members.iter().filter(|(user, _)| ignores(user));
            return ignoring.map(|(_, user_id)| user_id.clone()).collect();
        }
        let ignoring = by_user
            .iter()
            .filter(|(_, settings)| settings.ignores_user(sender))
            .filter_map(|(user, _)| view.local_members.get(user).cloned());
        ignoring.collect()
    }
}

/// Stores the settings of a user, or removes them if they are empty.
fn replace_settings(
    by_user: &mut HashMap<UserNum, Arc<IgnoreSettings>>,
    user: UserNum,
    settings: IgnoreSettings,
) {
    if settings.is_empty() {
        by_user.remove(&user);
    } else {
        by_user.insert(user, Arc::new(settings));
    }
}

impl RoomAccess {
    /// Returns the ignored users and invite permissions of a user, if there are any.
    pub fn find_ignore_settings(&self, user: UserNum) -> Option<Arc<IgnoreSettings>> {
        self.ignored_users.find(user)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn a_stored_list_never_ignores_its_own_user() {
        let settings = IgnoreSettingsByUser::default();
        let (alice, bob) = (user_id!("@alice:localhost"), user_id!("@bob:localhost"));
        let content = format!(r#"{{"ignored_users":{{"{alice}":{{}},"{bob}":{{}}}}}}"#);
        settings.set_account_data(UserNum::new(1), "m.ignored_user_list", &content);

        settings.stop_ignoring_self(UserNum::new(1), alice.as_str());

        let settings = settings.find(UserNum::new(1)).unwrap();
        assert!(!settings.ignores_user(alice));
        assert!(settings.ignores_user(bob));
    }
}
