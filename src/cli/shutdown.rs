//! When the server stops: at the first SIGTERM or SIGINT in order, at the second at once.

use std::{io, process};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The status of a program that a second signal ended: 128 and the number of SIGTERM.
const ENDED_BY_SIGNAL: i32 = 143;

/// The signals that tell the server to stop.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to listen; from now on these signals no longer end the process by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for a signal that comes while the server stops already, and ends the process.
    pub(super) async fn end_at_next(mut self) {
        self.next().await;
        tracing::warn!("told to stop again: ending at once");
        process::exit(ENDED_BY_SIGNAL);
    }
}
