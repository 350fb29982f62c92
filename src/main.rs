//! The `parlour` command.

use std::{env, process::ExitCode};

use mimalloc::MiMalloc;

/// Gives back what password hashing takes, 19 MiB at a time; the system's allocator keeps it for every thread.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    parlour::cli::run(env::args_os().skip(1))
}
