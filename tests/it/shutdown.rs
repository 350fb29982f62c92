//! Tests the program as a process: start, shutdown by a signal, arguments and configuration errors.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, Output},
};

use serde_json::Value;

use crate::{
    database::Database,
    harness::{Client, Server},
    program::{parlour_command, read_address},
};

fn run_with_arguments(folder: &Path, arguments: &[&str]) -> Output {
    let run = parlour_command(folder).args(arguments).output();
    run.expect("the program runs")
}

/// Sends a signal with the `kill` command of the shell, which every system has.
fn send_signal(child: &Child, signal: &str) {
    let kill = format!("kill -{signal} {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status();
    assert!(status.expect("the shell runs").success());
}

/// Starts the program and returns it with the address that it prints.
fn start_program(folder: &Path, database: &Database) -> (Child, String) {
    let mut child = parlour_command(folder)
        .env("PARLOUR__DATABASE__URL", database.url().expose())
        .spawn()
        .expect("the program starts");
    let address = read_address(&mut child);
    (child, address)
}

#[tokio::test]
async fn the_program_runs_unconfigured_and_stops_on_signals() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let database = Database::new().await;
        let (mut child, address) = start_program(folder.path(), &database);
        let client = Client::for_address(&address);
        let health = client.get("/_parlour/health").await;
        health.expect_ok();

        send_signal(&child, signal);
        let status = child.wait().expect("the program ends");

        assert_eq!(status.code(), Some(0), "after SIG{signal}");
        assert!(folder.path().join("parlour-data").is_dir());
    }
}

#[tokio::test]
async fn a_stopped_server_accepts_no_connections() {
    let server = Server::start().await;
    let address = server.running.addresses()[0];
    server.get("/_parlour/health").await.expect_ok();

    let all_ended = server.running.stop().await;

    assert!(all_ended);
    server.running.wait_until_stopped().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn idle_connections_do_not_delay_shutdown() {
    let server = Server::start().await;
    let address = server.running.addresses()[0];
    let silent = tokio::net::TcpStream::connect(address).await;
    server.get("/_parlour/health").await.expect_ok();

    let all_ended = server.running.stop().await;

    assert!(silent.is_ok());
    assert!(all_ended);
}

#[tokio::test]
async fn the_log_can_be_json() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let database = Database::new().await;
    let mut child = parlour_command(folder.path())
        .env("PARLOUR__DATABASE__URL", database.url().expose())
        .env("PARLOUR__LOGGING__FORMAT", "json")
        .spawn()
        .expect("the program starts");
    read_address(&mut child);

    send_signal(&child, "TERM");
    let said = child.wait_with_output().expect("the program ends").stderr;

    let lines = serde_json::Deserializer::from_slice(&said).into_iter::<Value>();
    let messages: Vec<Value> = lines
        .map(|line| line.expect("a line of JSON")["message"].clone())
        .collect();
    assert!(messages.contains(&"stopping".into()), "{messages:?}");
}

#[test]
fn config_check_accepts_a_valid_configuration() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");

    let checked = run_with_arguments(folder.path(), &["config", "check", "--config", example]);

    assert!(checked.status.success());
    assert_eq!(checked.stdout, b"the configuration is valid\n");
    assert!(!folder.path().join("parlour-data").exists());
}

#[test]
fn an_invalid_configuration_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("parlour.toml");
    std::fs::write(&file, "[server]\nnam = \"example.org\"\n").expect("the file is written");

    let checked = run_with_arguments(folder.path(), &["config", "check", "-c", "parlour.toml"]);
    let served = run_with_arguments(folder.path(), &["-c", "parlour.toml"]);

    let reason = "parlour: parlour.toml: unknown key server.nam: expected one of `name`";
    for refused in [checked, served] {
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1));
        assert!(said.starts_with(reason), "{said}");
    }
}

#[test]
fn config_check_refuses_an_unusable_configuration() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("parlour.toml");
    let text =
        "[server]\ndata_dir = 'parlour.toml/data'\n[federation]\ntrusted_ca = ['missing.pem']\n";
    std::fs::write(&file, text).expect("the file is written");

    let checked = run_with_arguments(folder.path(), &["config", "check", "-c", "parlour.toml"]);

    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1));
    assert!(said.contains("missing.pem: No such file"), "{said}");
    assert!(said.contains("parlour.toml is not a directory"), "{said}");
}

#[test]
fn an_invalid_log_filter_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("parlour.toml");
    std::fs::write(&file, "[logging]\nfilter = 'verbose'\n").expect("the file is written");

    for arguments in [
        &["config", "check", "-c", "parlour.toml"][..],
        &["-c", "parlour.toml"],
    ] {
        let refused = run_with_arguments(folder.path(), arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            said.contains("logging.filter = \"verbose\": expected a level"),
            "{said}"
        );
    }
}

#[test]
fn help_prints_the_usage() {
    let folder = tempfile::tempdir().expect("a temporary directory");

    for ask in ["help", "--help"] {
        let helped = run_with_arguments(folder.path(), &[ask]);
        assert!(helped.status.success());
        assert!(String::from_utf8_lossy(&helped.stdout).contains("Usage:"));
    }
}

#[test]
fn an_address_in_use_is_reported() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("the bound address").to_string();

    let mut child = parlour_command(folder.path())
        .env("PARLOUR__LISTEN__0__ADDRESS", &address)
        .spawn()
        .expect("the program starts");
    let status = child.wait().expect("the program ends");
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("stderr is piped");
    stderr
        .read_to_string(&mut said)
        .expect("stderr is readable");

    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );
}

#[test]
fn an_invalid_argument_prints_the_usage() {
    let folder = tempfile::tempdir().expect("a temporary directory");

    let refused = run_with_arguments(folder.path(), &["--cnfig"]);

    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        said.contains("invalid option '--cnfig'") && said.contains("Usage:"),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_does_not_start_under_another_name() {
    let server = Server::start().await;
    server.register("anna").await;
    let name = "elsewhere.org".try_into().expect("a name");

    let text = server
        .restart_error(|config| config.server.name = name)
        .await;

    assert!(text.contains("server.name = \"elsewhere.org\""), "{text}");
    assert!(text.contains("of the server \"localhost\""), "{text}");
}
