//! Runs the program as a child process.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{database::Database, harness::Client};

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

/// A data directory and the server that runs on it.
pub(crate) struct RestartableServer {
    child: Option<Child>,
    address: String,
    /// Environment variables besides those that every test needs.
    environment: Vec<(&'static str, String)>,
    // These are dropped last, in this order.
    database: Database,
    folder: tempfile::TempDir,
}

impl RestartableServer {
    /// Creates the data directory. The environment variables are set at each start.
    pub(crate) async fn new(environment: &[(&'static str, &str)]) -> Self {
        let environment = environment
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Self {
            child: None,
            address: String::new(),
            environment: environment.collect(),
            database: Database::new().await,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Starts the server.
    pub(crate) fn start(&mut self) -> Client {
        let log = self.folder.path().join("log");
        let log = std::fs::File::options().create(true).append(true).open(log);
        let mut child = parlour_command(self.folder.path())
            .env("PARLOUR__DATABASE__URL", self.database.url().expose())
            .env("PARLOUR__REGISTRATION__OPEN", "true")
            .env("PARLOUR__LIMITS__ENABLED", "false")
            .env("PARLOUR__PASSWORDS__MEMORY_KIB", "8")
            .env("PARLOUR__PASSWORDS__ITERATIONS", "1")
            .envs(self.environment.iter().cloned())
            .stderr(log.map(Stdio::from).expect("a file for the log"))
            .spawn()
            .expect("the program starts");
        self.address = read_address(&mut child);
        self.child = Some(child);
        self.client()
    }

    /// Returns a client of the server.
    pub(crate) fn client(&self) -> Client {
        Client::for_address(&self.address)
    }

    /// Kills the server.
    pub(crate) fn kill(&mut self) {
        let child = self.child.as_mut().expect("the server runs");
        child.kill().expect("the server is killed");
        child.wait().expect("the server has ended");
    }
}

impl Drop for RestartableServer {
    fn drop(&mut self) {
        // A failed test must not leave a server running.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
