//! The log: lines for people or JSON for programs, on standard error.

use std::{
    io::{self, IsTerminal},
    panic,
};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

use crate::config::{LogFormat, Logging};

/// What the filter of the configuration is added to: the state resolution tells at "info" of every event that it
/// allows, which only somebody who asks for it wants to read.
const QUIET: &str = "ruma_state_res=warn";

/// Starts the log, and sends the panics there.
pub(super) fn init(config: &Logging) -> Result<(), Box<dyn std::error::Error>> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.filter))?;
    let log = fmt::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.format {
        LogFormat::Human => log
            .with_ansi(io::stderr().is_terminal())
            .finish()
            .try_init()?,
        LogFormat::Json => log.json().flatten_event(true).finish().try_init()?,
    }
    panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug made a task panic");
    }));
    Ok(())
}
