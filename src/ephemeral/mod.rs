//! State that is kept in memory only: typing notifications and presence.
//!
//! Its changes have their own order. A change is numbered by a *tick*, and ticks start from zero with every start of
//! the server.

mod presence;
mod typing;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

pub use self::{
    presence::{Presence, PresenceUpdate, Shown, Told},
    typing::Typing,
};
use crate::{
    clock::Clock,
    storage::{RoomNum, UserNum},
    tasks::Tasks,
};

/// The number of a change to the in-memory state.
pub type Tick = i64;

/// A change to the in-memory state, for the listeners that wake waiting clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stir {
    /// A user started or stopped typing in a room.
    Typing(RoomNum),
    /// A user's presence changed.
    Presence(UserNum),
}

/// A function that is called with every change. It must be fast.
pub type Listener = Arc<dyn Fn(Stir) + Send + Sync>;

/// The state that is kept in memory only. Cheap to clone.
#[derive(Clone)]
pub struct Ephemeral {
    ticks: Ticks,
    /// The users who are typing, by room.
    pub typing: Arc<Typing>,
    /// The presence of all users.
    pub presence: Arc<Presence>,
}

impl Ephemeral {
    /// Starts with no user typing and no presence known.
    pub fn new(clock: Clock, tasks: &Tasks) -> Self {
        let ticks = Ticks {
            boot: rand::random(),
            last: Arc::default(),
            listeners: Arc::default(),
        };
        Self {
            typing: Typing::start(ticks.clone(), tasks),
            presence: Presence::start(ticks.clone(), clock, tasks),
            ticks,
        }
    }

    /// Returns the newest tick.
    pub fn now(&self) -> Tick {
        self.ticks.last.load(Ordering::SeqCst)
    }

    /// Returns a random number that distinguishes this run of the server from others.
    pub fn boot(&self) -> u32 {
        self.ticks.boot
    }

    /// Adds a listener.
    pub fn listen(&self, listener: Listener) {
        self.ticks
            .listeners
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(listener);
    }
}

#[derive(Clone)]
struct Ticks {
    boot: u32,
    last: Arc<AtomicI64>,
    listeners: Arc<std::sync::RwLock<Vec<Listener>>>,
}

impl Ticks {
    fn next(&self) -> Tick {
        self.last.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn stir(&self, stir: Stir) {
        for listener in self
            .listeners
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .iter()
        {
            listener(stir);
        }
    }
}
