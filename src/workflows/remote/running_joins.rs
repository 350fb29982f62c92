//! Running joins: concurrent requests to join the same room wait for a single join.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{
    error::{Error, Result},
    tasks::Tasks,
};

type JoinOutcome = std::result::Result<(), Arc<Error>>;

/// A running join, with its user.
#[derive(Clone)]
pub(super) struct RunningJoin {
    pub(super) user_id: OwnedUserId,
    outcome: Shared<BoxFuture<'static, JoinOutcome>>,
}

/// The running joins: one per room, because a second local user no longer needs another server.
#[derive(Clone, Default)]
pub(super) struct RunningJoins {
    by_room: Arc<Mutex<HashMap<OwnedRoomId, RunningJoin>>>,
}

/// Removes a join from the running ones when it is over, even after a panic.
struct RunningJoinGuard {
    joins: RunningJoins,
    room_id: OwnedRoomId,
}

impl Drop for RunningJoinGuard {
    fn drop(&mut self) {
        self.joins.lock().remove(&self.room_id);
    }
}

impl RunningJoins {
    /// Starts to join a room, unless a join of it is already running. The task continues even if no request waits for
    /// it any more.
    pub(super) fn start_join(
        &self,
        tasks: &Tasks,
        room_id: &RoomId,
        user_id: &UserId,
        join: impl Future<Output = Result<()>> + Send + 'static,
    ) -> RunningJoin {
        let mut by_room = self.lock();
        if let Some(joining) = by_room.get(room_id) {
            return joining.clone();
        }
        let ended = RunningJoinGuard {
            joins: self.clone(),
            room_id: room_id.to_owned(),
        };
        let task = tasks.spawn(async move {
            let outcome = join.await;
            drop(ended);
            outcome
        });
        let outcome = async move {
            let outcome = task.await;
            let outcome = outcome.map_err(|source| Error::internal("join a room", source));
            outcome.flatten().map_err(Arc::new)
        };
        let joining = RunningJoin {
            user_id: user_id.to_owned(),
            outcome: outcome.boxed().shared(),
        };
        by_room.insert(room_id.to_owned(), joining.clone());
        joining
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedRoomId, RunningJoin>> {
        self.by_room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningJoin {
    /// Waits until the join is over.
    pub(super) async fn wait_for_end(self) -> Result<()> {
        self.outcome.await.map_err(|error| copy_error(&error))
    }
}

/// Returns a copy of an error, for several waiting requests.
fn copy_error(error: &Error) -> Error {
    let text = error.to_string();
    match error {
        Error::Forbidden(_) => Error::Forbidden(text),
        Error::GuestAccessForbidden => Error::GuestAccessForbidden,
        Error::NotFound(_) => Error::NotFound(text),
        Error::TooLarge(_) => Error::TooLarge(text),
        Error::BadJson(_) => Error::BadJson(text),
        Error::Unreachable(_) => Error::Unreachable(text),
        Error::RefusedElsewhere { errcode, .. } => Error::RefusedElsewhere { errcode, text },
        Error::UnableToAuthoriseJoin(_) => Error::UnableToAuthoriseJoin(text),
        Error::UnableToGrantJoin(_) => Error::UnableToGrantJoin(text),
        Error::UnsupportedRoomVersion(_) => Error::UnsupportedRoomVersion(text),
        Error::IncompatibleRoomVersion(version) => Error::IncompatibleRoomVersion(version.clone()),
        Error::LimitExceeded { retry_after } => Error::LimitExceeded {
            retry_after: *retry_after,
        },
        Error::Unavailable(_) => Error::Unavailable(text),
        Error::StorageFull => Error::StorageFull,
        _ => Error::internal("join a room", text),
    }
}
