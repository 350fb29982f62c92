//! Whether the server can do its work: what keeps it from storing anything, as the operator's tools are told.

use std::sync::{Arc, PoisonError, RwLock};

/// What keeps the server from storing anything now. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    problem: Arc<RwLock<Option<&'static str>>>,
}

impl Health {
    /// Returns what keeps the server from storing anything; `None` when all is well.
    pub fn problem(&self) -> Option<&'static str> {
        *self.problem.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that nothing can be stored, and why.
    pub fn set_problem(&self, problem: &'static str) {
        self.set(Some(problem));
    }

    /// Notes that something was stored.
    pub fn clear(&self) {
        if self.problem().is_some() {
            self.set(None);
        }
    }

    fn set(&self, problem: Option<&'static str>) {
        *self.problem.write().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}
