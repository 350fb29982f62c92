//! Checks a configuration against the machine: files, directories, addresses and the database.

use std::{
    error::Error as StdError,
    fs::{self, OpenOptions},
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{certificates::ListenerCertificate, signing_key};
use crate::{
    config::{Config, ListenSection},
    outbound::{self, CertificateTrust},
    storage::DatabaseTarget,
    users,
};

/// The time in which the database must answer.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the problems that would keep a server with this configuration from starting. Nothing is changed.
pub(super) async fn find_problems(config: &Config) -> Vec<String> {
    outbound::choose_cryptography();
    let mut problems = Vec::new();
    for (index, listen) in config.listen.iter().enumerate() {
        problems.extend(check_certificate(index, listen));
    }
    let federation = &config.federation;
    for file in &federation.trusted_ca {
        if let Err(error) = CertificateTrust::read(std::slice::from_ref(file), true) {
            problems.push(format!(
                "federation.trusted_ca: {}",
                innermost_cause(&error)
            ));
        }
    }
    let folders = [
        ("server.data_dir", config.server.data_dir.clone()),
        ("media.directory", config.media_directory()),
    ];
    for (key, folder) in folders {
        if let Err(problem) = check_folder(&folder) {
            problems.push(format!("{key} = \"{}\": {problem}", folder.display()));
        }
    }
    if let Err(error) = signing_key::read(&config.server)
        // A data directory that cannot be used is already reported.
        && config.server.data_dir.is_dir()
    {
        problems.push(innermost_cause(&error));
    }
    problems.extend(users::find_registration_problems(config));
    problems.extend(check_database(config).await);
    problems.extend(check_addresses(config));
    problems
}

/// Tries to listen on each address, and reports those where that fails.
///
/// An address in use is not a problem, because a server with this configuration may be running. Two listeners with the
/// same address are a problem.
fn check_addresses(config: &Config) -> Vec<String> {
    let listeners = config.listen.iter().enumerate();
    let listeners = listeners.map(|(index, listen)| (format!("listen[{index}]"), listen.address));
    let metrics = config.metrics.address;
    let metrics = metrics.map(|address| ("metrics".to_owned(), address));
    let mut problems = Vec::new();
    let mut earlier: Vec<(String, SocketAddr, Option<TcpListener>)> = Vec::new();
    for (name, address) in listeners.chain(metrics) {
        let (bound, error) = match TcpListener::bind(address) {
            Ok(bound) => (Some(bound), None),
            Err(error) => (None, Some(error)),
        };
        let is_in_use = error
            .as_ref()
            .is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse);
        let rival = earlier.iter().find(|(_, other, held)| {
            let same_port = address.port() != 0 && other.port() == address.port();
            // 0.0.0.0 and [::] include other addresses, and only the system knows which.
            same_port && (*other == address || is_in_use && held.is_some())
        });
        if let Some((rival, ..)) = rival {
            let text = "listens on the same address";
            problems.push(format!("{name}.address = \"{address}\": {rival} {text}"));
        } else if let Some(error) = error.filter(|_| !is_in_use) {
            problems.push(format!("{name}.address = \"{address}\": {error}"));
        }
        earlier.push((name, address, bound));
    }
    problems
}

fn check_certificate(index: usize, listen: &ListenSection) -> Option<String> {
    let (certificate, key) = (listen.tls_certificate.as_ref()?, listen.tls_key.as_ref()?);
    let (path, error) = ListenerCertificate::read(certificate, key).err()?;
    let set = if path == *key {
        "tls_key"
    } else {
        "tls_certificate"
    };
    let path = path.display();
    Some(format!("listen[{index}].{set} = \"{path}\": {error}"))
}

/// Checks that a directory exists or can be created, and that files can be created in it.
fn check_folder(folder: &Path) -> Result<(), String> {
    let existing = folder
        .ancestors()
        .map(|path| {
            if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            }
        })
        .find(|path| path.exists())
        .ok_or("the path does not exist")?;
    let place = existing.display();
    if !existing.is_dir() {
        return Err(format!("{place} is not a directory"));
    }
    // Only an attempt shows whether a file system is writable.
    let probe = existing.join(format!(".parlour-check-{:016x}", rand::random::<u64>()));
    let written = OpenOptions::new().write(true).create_new(true).open(&probe);
    written
        .map(drop)
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|error: io::Error| format!("cannot write to {place}: {error}"))
}

async fn check_database(config: &Config) -> Option<String> {
    let folder: &PathBuf = &config.server.data_dir;
    let target = match DatabaseTarget::parse(config.database.url.expose(), folder) {
        Ok(target) => target,
        Err(error) => return Some(format!("database.url: {error}")),
    };
    if let Some(parent) = target.sqlite_file().and_then(Path::parent)
        && parent != folder
        && let Err(problem) = check_folder(parent)
    {
        return Some(format!("database.url: {problem}"));
    }
    let probing = target.check_usable(&config.server.name);
    match tokio::time::timeout(DATABASE_TIMEOUT, probing).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("database.url: the database does not answer".to_owned()),
    }
}

/// Returns the innermost text of an error, without the action that failed.
fn innermost_cause(error: &crate::error::Error) -> String {
    let cause: &dyn StdError = match error {
        crate::error::Error::Internal { source, .. } => source.as_ref(),
        other => other,
    };
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatabaseUrl;

    fn in_folder(folder: &Path) -> Config {
        let mut config = Config::default();
        config.server.data_dir = folder.join("data");
        config
    }

    async fn only_problem(config: &Config) -> String {
        let mut problems = find_problems(config).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[tokio::test]
    async fn checking_a_valid_configuration_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();

        let found = find_problems(&in_folder(folder.path())).await;

        assert_eq!(found, Vec::<String>::new());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn missing_and_empty_certificate_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = in_folder(folder.path());
        let (missing, empty) = (
            folder.path().join("missing.pem"),
            folder.path().join("e.pem"),
        );
        fs::write(&empty, "nothing").unwrap();

        config.listen[0].tls_certificate = Some(missing.clone());
        config.listen[0].tls_key = Some(empty.clone());
        let found = only_problem(&config).await;
        assert!(found.starts_with("listen[0].tls_certificate = "), "{found}");
        assert!(found.contains("No such file"), "{found}");

        config.listen[0].tls_certificate = Some(empty.clone());
        let found = only_problem(&config).await;
        assert!(found.contains("no certificate"), "{found}");
        assert!(found.contains("BEGIN CERTIFICATE"), "{found}");

        config.listen[0] = ListenSection::default();
        config.federation.trusted_ca = vec![missing, empty];
        let found = find_problems(&config).await;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found
                .iter()
                .all(|text| text.starts_with("federation.trusted_ca: "))
        );
    }

    #[tokio::test]
    async fn an_impossible_data_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let mut config = in_folder(folder.path());
        config.server.data_dir = file.join("data");
        config.media.directory = Some(folder.path().join("media"));

        let found = only_problem(&config).await;

        assert!(found.starts_with("server.data_dir = "), "{found}");
        assert!(found.ends_with("file is not a directory"), "{found}");
    }

    #[tokio::test]
    async fn an_unusable_database_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = in_folder(folder.path());
        fs::create_dir(&config.server.data_dir).unwrap();
        let file = config.server.data_dir.join("parlour.db");

        fs::write(&file, "this is not a database at all").unwrap();
        let found = only_problem(&config).await;
        assert!(found.starts_with("database.url: "), "{found}");

        // Nothing listens on port 1.
        let closed = DatabaseUrl::parse("postgres://me:swordfish@127.0.0.1:1/parlour");
        config.database.url = closed.unwrap();
        let found = only_problem(&config).await;
        assert!(found.starts_with("database.url: "), "{found}");
        assert!(!found.contains("swordfish"), "{found}");
    }

    #[tokio::test]
    async fn an_invalid_signing_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = in_folder(folder.path());
        fs::create_dir(&config.server.data_dir).unwrap();
        let file = config.server.data_dir.join(signing_key::SIGNING_KEY_FILE);

        fs::write(&file, "").unwrap();
        let found = only_problem(&config).await;
        assert!(
            found.ends_with("signing.key contains no signing key"),
            "{found}"
        );

        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let found = only_problem(&config).await;
        assert!(found.contains("signing.key: Is a directory"), "{found}");
    }

    #[tokio::test]
    async fn unusable_listen_addresses_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = in_folder(folder.path());
        let used = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = used.local_addr().unwrap();
        config.listen[0].address = address;
        assert_eq!(find_problems(&config).await, Vec::<String>::new());

        config.metrics.address = Some(address);
        let found = only_problem(&config).await;
        assert!(found.starts_with("metrics.address = "), "{found}");
        assert!(
            found.ends_with("listen[0] listens on the same address"),
            "{found}"
        );

        drop(used);
        config.listen[0].address.set_ip([0, 0, 0, 0].into());
        let found = only_problem(&config).await;
        assert!(
            found.ends_with("listen[0] listens on the same address"),
            "{found}"
        );

        // No machine has this address.
        config.metrics.address = Some("203.0.113.7:9090".parse().unwrap());
        let found = only_problem(&config).await;
        assert!(found.contains("Cannot assign requested address"), "{found}");
    }
}
