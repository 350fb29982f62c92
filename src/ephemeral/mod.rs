//! What lives in memory alone: who types, who is there.
//!
//! Such changes have an order of their own, a *tick*, which begins anew with every start of the server.

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

/// The place of a change in the order of what lives in memory.
pub type Tick = i64;

/// What changed, for whoever wakes those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stir {
    /// Somebody began or ceased to type in a room.
    Typing(RoomNum),
    /// A user's presence changed.
    Presence(UserNum),
}

/// Called with every change; be quick.
pub type Listener = Arc<dyn Fn(Stir) + Send + Sync>;

/// What lives in memory alone. Cheap to clone.
#[derive(Clone)]
pub struct Ephemeral {
    ticks: Ticks,
    /// Who types where.
    pub typing: Arc<Typing>,
    /// Who is there.
    pub presence: Arc<Presence>,
}

impl Ephemeral {
    /// Begins with nobody typing and nobody there.
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

    /// Returns a number that tells this run of the server from others.
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
