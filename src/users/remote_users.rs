//! The profiles of users of other servers, so that the user directory can find them.
//!
//! The profiles are read from their member events, and only when someone searches the directory. So a join, or
//! receiving a room with many members, does not wait for it.

use std::{sync::Arc, time::Duration};

use ruma::{OwnedServerName, UserId};
use serde::Deserialize;
use tokio::{sync::Mutex, time::timeout};

use super::{UserEnvironment, profile::NAME_BYTES};
use crate::{
    error::{Error, Result},
    numbers::{Position, PositionRange},
    storage::{
        Db, WriteTx, backfilled_tables,
        users::user_directory::{self, RemoteUserProfile, StoredMember},
    },
    tasks::Tasks,
};

/// The number of users that are added in one transaction.
const USERS_PER_TRANSACTION: usize = 200;
/// The number of memberships after which the progress is stored.
const MEMBERSHIPS_PER_STEP: i64 = 1_000;
/// The longest time that a search waits for this work. After it, the search finds only the users added so far.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// The name under which the progress is stored.
const PROGRESS_NAME: &str = "remote_people";

#[derive(Deserialize)]
struct MemberEvent {
    content: MemberProfileContent,
}

#[derive(Deserialize)]
struct MemberProfileContent {
    displayname: Option<String>,
    avatar_url: Option<String>,
}

/// Adds users of other servers to the directory.
#[derive(Clone)]
pub(super) struct RemoteUsers {
    db: Db,
    server_name: OwnedServerName,
    tasks: Tasks,
    /// Held while users are added.
    lock: Arc<Mutex<()>>,
}

impl RemoteUsers {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            server_name: environment.server_name.clone(),
            tasks: environment.tasks.clone(),
            lock: Arc::default(),
        }
    }

    /// Adds the profiles of users of other servers who have joined rooms, or have changed their profile, since the last
    /// search.
    pub(super) async fn add_new_users(&self) -> Result<()> {
        let users = self.clone();
        let listing = self.tasks.spawn(async move { users.add_all_users().await });
        match timeout(MAX_WAIT, listing).await {
            // The task continues in the background.
            Err(_) => Ok(()),
            Ok(listed) => {
                listed.map_err(|source| Error::internal("list users of other servers", source))?
            }
        }
    }

    async fn add_all_users(&self) -> Result<()> {
        let _guard = self.lock.lock().await;
        let mut db = self.db.read().await?;
        let done = backfilled_tables::progress(&mut db, PROGRESS_NAME).await?;
        let mut done = done.map_or(Position::ZERO, |progress| progress.done);
        drop(db);
        while !self.tasks.stopping().is_cancelled() {
            let up_to = {
                let mut db = self.db.read().await?;
                user_directory::batch_end_position(&mut db, done, MEMBERSHIPS_PER_STEP).await?
            };
            if up_to <= done {
                break;
            }
            self.add_users_joined_between(done, up_to).await?;
            done = up_to;
        }
        Ok(())
    }

    async fn add_users_joined_between(&self, after: Position, up_to: Position) -> Result<()> {
        let users = {
            let mut db = self.db.read().await?;
            user_directory::joined_between(&mut db, PositionRange { after, up_to }).await?
        };
        for users in users.chunks(USERS_PER_TRANSACTION) {
            let members = {
                let mut db = self.db.read().await?;
                user_directory::member_events_between(
                    &mut db,
                    users,
                    PositionRange { after, up_to },
                )
                .await?
            };
            let mut tx = self.db.write().await?;
            for member in &members {
                self.add_member(&mut tx, member).await?;
            }
            tx.commit().await?;
        }
        let mut tx = self.db.write().await?;
        backfilled_tables::set_progress(&mut tx, PROGRESS_NAME, up_to).await?;
        tx.commit().await
    }

    async fn add_member(&self, tx: &mut WriteTx, member: &StoredMember) -> Result<()> {
        let is_remote = <&UserId>::try_from(member.user_id.as_str())
            .is_ok_and(|user_id| user_id.server_name() != self.server_name);
        let Some(event) = serde_json::from_str::<MemberEvent>(&member.json)
            .ok()
            .filter(|_| is_remote)
        else {
            return Ok(());
        };
        let short = |text: Option<String>| text.filter(|text| text.len() <= NAME_BYTES);
        let (name, avatar) = (
            short(event.content.displayname),
            short(event.content.avatar_url),
        );
        let profile = RemoteUserProfile {
            user: member.user_num,
            user_id: &member.user_id,
            position: member.position,
            displayname: name.as_deref(),
            avatar_url: avatar.as_deref(),
        };
        user_directory::set_remote_profile(tx, &profile).await
    }
}
