//! The health of the server: the problem that keeps it from storing data, for the operator's tools.

use std::sync::{Arc, PoisonError, RwLock};

/// The problem that currently keeps the server from storing data. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    problem: Arc<RwLock<Option<&'static str>>>,
}

impl Health {
    /// Returns the problem that keeps the server from storing data, or `None`.
    pub fn problem(&self) -> Option<&'static str> {
        *self.problem.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that nothing can be stored, and why.
    pub fn set_problem(&self, problem: &'static str) {
        self.set(Some(problem));
    }

    /// Records that something was stored.
    pub fn clear(&self) {
        if self.problem().is_some() {
            self.set(None);
        }
    }

    fn set(&self, problem: Option<&'static str>) {
        *self.problem.write().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}
