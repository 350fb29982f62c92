//! The `parlour` command.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    parlour::cli::run(env::args_os().skip(1))
}
