//! Runs the program as a child process.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Returns a command that runs the program in a folder and listens on a free port.
pub(crate) fn parlour_command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parlour"));
    command
        .current_dir(folder)
        .env("PARLOUR__LISTEN__0__ADDRESS", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits until the program prints its address, and returns it.
pub(crate) fn read_address(child: &mut Child) -> String {
    let mut line = String::new();
    let told = child.stdout.as_mut().expect("stdout is piped");
    BufReader::new(told)
        .read_line(&mut line)
        .expect("the program prints its address");
    let address = line.trim().rsplit(' ').next().expect("the line has words");
    assert!(address.starts_with("http://127.0.0.1:"), "{line}");
    address.to_owned()
}
