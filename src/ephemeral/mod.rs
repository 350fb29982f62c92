//! State that is kept in memory only: typing notifications, presence, and rendezvous sessions.
//!
//! Its changes have their own order. A change is numbered by a *tick*, and ticks start from zero with every start of
//! the server.

mod presence;
mod presence_update;
mod rendezvous;
mod typing;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

pub use self::{
    presence::{Presence, VisiblePresence},
    presence_update::{PresenceUpdate, ReportedPresence},
    rendezvous::{RendezvousSession, RendezvousSessions, RendezvousUpdate},
    typing::Typing,
};
use crate::{
    clock::Clock,
    numbers::{RoomNum, UserNum},
    tasks::Tasks,
};

/// The number of a change to the in-memory state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EphemeralTick(i64);

impl EphemeralTick {
    /// The tick before all changes.
    pub const ZERO: Self = Self(0);
    /// The last tick that there can be.
    pub const MAX: Self = Self(i64::MAX);

    /// Returns the tick with this number in a token.
    pub fn new(number: i64) -> Self {
        Self(number)
    }
}

impl fmt::Display for EphemeralTick {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A change to the in-memory state, for the listeners that wake waiting clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EphemeralChange {
    /// A user started or stopped typing in a room.
    Typing(RoomNum),
    /// A user's presence changed.
    Presence(UserNum),
}

/// A function that is called with every change. It must be fast.
pub type EphemeralListener = Arc<dyn Fn(EphemeralChange) + Send + Sync>;

/// The state that is kept in memory only. Cheap to clone.
#[derive(Clone)]
pub struct EphemeralState {
    ticks: TickCounter,
    /// The users who are typing, by room.
    pub typing: Arc<Typing>,
    /// The presence of all users.
    pub presence: Arc<Presence>,
    /// Messages between a user's devices, while one signs the other in.
    pub rendezvous: Arc<RendezvousSessions>,
}

impl EphemeralState {
    /// Starts with no user typing and no presence known.
    pub fn new(clock: Clock, tasks: &Tasks) -> Self {
        let ticks = TickCounter {
            run_id: rand::random(),
            newest: Arc::default(),
            listeners: Arc::default(),
        };
        Self {
            rendezvous: Arc::new(RendezvousSessions::new(clock.clone())),
            typing: Typing::start(ticks.clone(), tasks),
            presence: Presence::start(ticks.clone(), clock, tasks),
            ticks,
        }
    }

    /// Returns the newest tick.
    pub fn newest_tick(&self) -> EphemeralTick {
        EphemeralTick(self.ticks.newest.load(Ordering::SeqCst))
    }

    /// Returns a random number that distinguishes this run of the server from others.
    pub fn run_id(&self) -> u32 {
        self.ticks.run_id
    }

    /// Drops all listeners. They and this state keep each other alive.
    pub fn remove_listeners(&self) {
        let listeners = self.ticks.listeners.write();
        listeners
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
    }

    /// Adds a listener.
    pub fn add_listener(&self, listener: EphemeralListener) {
        self.ticks
            .listeners
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(listener);
    }
}

#[derive(Clone)]
struct TickCounter {
    run_id: u32,
    newest: Arc<AtomicI64>,
    listeners: Arc<std::sync::RwLock<Vec<EphemeralListener>>>,
}

impl TickCounter {
    fn next_tick(&self) -> EphemeralTick {
        EphemeralTick(self.newest.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn notify_listeners(&self, stir: EphemeralChange) {
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
