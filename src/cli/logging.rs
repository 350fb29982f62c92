//! The log: text for people or JSON for programs, on standard error.

use std::{
    io::{self, IsTerminal},
    panic,
};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

use crate::config::{LogFormat, LoggingSection};

/// A filter that precedes the configured one. The state resolution logs every event that it allows at the level "info",
/// which is useful only on request.
const QUIET_FILTER: &str = "ruma_state_res=warn";

/// Starts the log, and logs panics there.
pub(super) fn init_logging(config: &LoggingSection) -> Result<(), Box<dyn std::error::Error>> {
    let filter = EnvFilter::try_new(format!("{QUIET_FILTER},{}", config.filter))?;
    let log = fmt::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.format {
        LogFormat::Human => log
            .with_ansi(io::stderr().is_terminal())
            .finish()
            .try_init()?,
        LogFormat::Json => log.json().flatten_event(true).finish().try_init()?,
    }
    panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a task panicked because of a bug");
    }));
    Ok(())
}
