//! Signals that stop the server: the first SIGTERM or SIGINT stops it gracefully, and the second
//! immediately.

use std::{io, process};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code after a second signal: 128 plus the number of SIGTERM.
const SIGNAL_EXIT_CODE: i32 = 143;

/// The signals that ask the server to stop.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Starts to listen. From now on these signals no longer end the process by themselves.
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

    /// Waits for another signal while the server is stopping, and ends the process.
    pub(super) async fn exit_at_next(mut self) {
        self.next().await;
        tracing::warn!("received a second stop signal: exiting immediately");
        process::exit(SIGNAL_EXIT_CODE);
    }
}
