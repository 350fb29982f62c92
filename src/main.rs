//! The `parlour` command.

use std::{env, process::ExitCode};

use mimalloc::MiMalloc;

/// Returns the memory that password hashing needs, 19 MiB at a time, to the system. The system's allocator would keep
/// it for every thread.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    parlour::cli::run(env::args_os().skip(1))
}
