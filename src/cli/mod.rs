//! The command line: parses the arguments and runs the command.
//!
//! `serve` is the composition root. Only `main` and the integration tests import this module.

mod arguments;
mod certificates;
mod check;
mod connection;
mod data_dir;
mod listen;
mod logging;
pub mod serve;
mod shutdown;
mod signing_key;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use self::{
    arguments::{CliCommand, HELP_TEXT},
    shutdown::StopSignals,
};
use crate::config::Config;

/// Runs the program and returns its exit code.
///
/// Requested output goes to standard output; errors and the log go to standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = match arguments::parse(arguments) {
        Ok(CliCommand::Serve { config }) => serve(config.as_deref()),
        Ok(CliCommand::CheckConfig { config }) => check_config(config.as_deref()),
        Ok(CliCommand::Version) => print_line(concat!("parlour ", env!("CARGO_PKG_VERSION"))),
        Ok(CliCommand::Help) => print_line(HELP_TEXT.trim_end()),
        Err(error) => {
            print_error(&format!("{error}\n\n{HELP_TEXT}"));
            // The usual exit code of Unix programs for invalid arguments.
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

type CommandError = Box<dyn std::error::Error>;

fn serve(config: Option<&Path>) -> Result<(), CommandError> {
    let config = Config::load(config)?;
    logging::init_logging(&config.logging)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve_until_signal(config));
    // Blocking work that is stuck must not delay the exit.
    runtime.shutdown_background();
    served
}

async fn serve_until_signal(config: Config) -> Result<(), CommandError> {
    let name = config.server.name.clone();
    let mut signals = StopSignals::listen()?;
    let running = serve::start(config).await?;
    let url = running.public_url();
    for address in running.addresses() {
        tracing::info!(%address, "listening");
    }
    print_line(&format!("Parlour is serving {name} at {url}"))?;
    if let Some(url) = running.first_admin_url() {
        print_line(&format!(
            "Register the first account, which becomes an administrator, at {url}"
        ))?;
    }
    signals.next().await;
    tracing::info!("stopping");
    let all_ended = tokio::select! {
        all_ended = running.stop() => all_ended,
        () = signals.exit_at_next() => false,
    };
    if !all_ended {
        tracing::warn!("stopped before all tasks had finished");
    }
    Ok(())
}

fn check_config(config: Option<&Path>) -> Result<(), CommandError> {
    let config = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let problems = runtime.block_on(check::find_problems(&config));
    if !problems.is_empty() {
        return Err(problems.join("\nparlour: ").into());
    }
    print_line("the configuration is valid")
}

fn print_line(text: &str) -> Result<(), CommandError> {
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

/// Writes to standard error. A failure is ignored, because it cannot be reported anywhere.
fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "parlour: {}", text.trim_end());
}
