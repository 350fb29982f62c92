//! Collects changes that the journal and the ephemeral services report, without duplicates, until they are distributed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use ruma::{OwnedServerName, OwnedUserId, ServerName};
use tokio::sync::Notify;

use crate::{
    ephemeral::Stir,
    storage::{Change, Follower, Position, Receipt, RoomNum, UserNum},
};

/// The largest number of receipts, rooms and users that wait to be distributed. Further ones are ignored.
const MOST: usize = 20_000;

/// The changes since the last distribution.
#[derive(Default)]
pub(super) struct News {
    /// Whether there are new events.
    pub(super) events: bool,
    /// The users whose devices changed.
    pub(super) lists: BTreeSet<UserNum>,
    /// The servers that have new to-device messages.
    pub(super) messages: BTreeSet<OwnedServerName>,
    /// The newest receipt of each user and thread.
    pub(super) receipts: BTreeMap<(RoomNum, OwnedUserId, String), Arc<Receipt>>,
    /// The rooms in which the typing users changed.
    pub(super) typing: BTreeSet<RoomNum>,
    /// The users whose presence changed.
    pub(super) presence: BTreeSet<UserNum>,
}

/// Collects changes.
pub(super) struct Inbox {
    own: OwnedServerName,
    news: Mutex<News>,
    /// The position of the newest event.
    newest: AtomicI64,
    rung: Notify,
}

impl Inbox {
    pub(super) fn new(own: &ServerName) -> Arc<Self> {
        Arc::new(Self {
            own: own.to_owned(),
            news: Mutex::default(),
            newest: AtomicI64::new(0),
            rung: Notify::new(),
        })
    }

    /// Takes the changes since the last call.
    pub(super) fn take(&self) -> News {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *news)
    }

    /// Returns the position of the newest event since the start.
    pub(super) fn newest_event(&self) -> Position {
        self.newest.load(Ordering::SeqCst)
    }

    /// Waits until there are changes.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// Adds a change that is only in memory.
    pub(super) fn stir(&self, stir: Stir) {
        self.add(|news| match stir {
            Stir::Typing(room) if news.typing.len() < MOST => news.typing.insert(room),
            Stir::Presence(user) if news.presence.len() < MOST => news.presence.insert(user),
            _ => false,
        });
    }

    /// Adds to the changes, and wakes the distribution if something is new.
    fn add(&self, add: impl FnOnce(&mut News) -> bool) {
        let is_new = {
            let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            add(&mut news)
        };
        if is_new {
            self.rung.notify_one();
        }
    }
}

impl Follower for Inbox {
    fn committed(&self, changes: &[(Position, Change)]) {
        self.add(|news| {
            let mut is_new = false;
            for (position, change) in changes {
                if matches!(change, Change::Event { .. }) {
                    self.newest.fetch_max(*position, Ordering::SeqCst);
                }
                is_new |= news.take(change, &self.own);
            }
            is_new
        });
    }

    fn failed(&self) {
        // Nothing is lost: all reported changes are on disk.
    }
}

impl News {
    /// Adds a change; returns whether it may concern other servers.
    fn take(&mut self, change: &Change, own: &ServerName) -> bool {
        match change {
            Change::Event { .. } => self.events = true,
            Change::DeviceList {
                user,
                watcher: None,
            } => {
                self.lists.insert(*user);
            }
            Change::ToServer { server } => {
                self.messages.insert(server.clone());
            }
            Change::Receipt { room, receipt } => {
                let is_public = receipt.kind == "m.read" && receipt.user_id.server_name() == own;
                if !is_public || self.receipts.len() >= MOST {
                    return false;
                }
                let key = (*room, receipt.user_id.clone(), receipt.thread.clone());
                self.receipts.insert(key, receipt.clone());
            }
            _ => return false,
        }
        true
    }
}
