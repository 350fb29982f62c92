//! The program as a child process, with its memory and processor time.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::time::Instant;

use crate::process;

pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    /// Time from the start of the program to its first answer.
    pub(crate) started_in: Duration,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server with a new data directory.
    pub(crate) async fn start() -> Self {
        // The folder is in cargo's target directory, since the system's temporary folder may be in memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let (child, address, started_in) = start_program(&folder).await;
        Self {
            child,
            address,
            started_in,
            folder,
        }
    }

    /// Stops the server cleanly, and starts it again on the same data.
    pub(crate) async fn restart(&mut self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let told = Command::new("sh").args(["-c", &kill]).status();
        assert!(told.expect("a shell").success());
        let ended = self.child.wait().expect("the server ends");
        assert!(ended.success(), "it ended with {ended}");
        (self.child, self.address, self.started_in) = start_program(&self.folder).await;
    }

    /// Returns the resident memory of the process in MiB.
    pub(crate) fn memory_mib(&self) -> f64 {
        process::memory_mib(self.child.id())
    }

    /// Returns the processor time that the process has used, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> f64 {
        process::cpu_ms(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start_program(folder: &tempfile::TempDir) -> (Child, String, Duration) {
    let begin = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_parlour"))
        .current_dir(folder.path())
        .env("PARLOUR__LISTEN__0__ADDRESS", "127.0.0.1:0")
        .env("PARLOUR__REGISTRATION__OPEN", "true")
        .env("PARLOUR__LIMITS__ENABLED", "false")
        .env("PARLOUR__LOGGING__FILTER", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    let told = child.stdout.as_mut().expect("its output is piped");
    let read = BufReader::new(told).read_line(&mut line);
    read.expect("it prints its address");
    let address = line.trim().rsplit(' ').next().expect("the line has words");
    let answer = reqwest::get(format!("{address}/_matrix/client/versions")).await;
    assert!(answer.expect("the server answers").status().is_success());
    (child, address.to_owned(), begin.elapsed())
}
