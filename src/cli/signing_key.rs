//! The server's signing key. It is created once, and stored in a file that only its owner may read.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use ruma::{serde::Base64, signatures::Ed25519KeyPair};

use crate::{
    config::ServerSection,
    error::{Error, Result},
    matrix::SigningKey,
};

/// The name of the file in the data directory.
pub(super) const SIGNING_KEY_FILE: &str = "signing.key";
const FAILED_ACTION: &str = "use the signing key";

/// Returns the signing key of the server, which is created at the first start.
///
/// The file contains one line: `ed25519 VERSION KEY`, where `KEY` is the PKCS #8 document in
/// base64.
///
/// # Errors
///
/// When the file cannot be read or written, or contains something else.
pub(super) fn load(config: &ServerSection) -> Result<Arc<SigningKey>> {
    if let Some(key) = read(config)? {
        return Ok(key);
    }
    let path = config.data_dir.join(SIGNING_KEY_FILE);
    parse_key_line(config, &path, &create(&path)?)
}

/// Returns the signing key of the server if it exists.
///
/// # Errors
///
/// When the file cannot be read, or contains something else.
pub(super) fn read(config: &ServerSection) -> Result<Option<Arc<SigningKey>>> {
    let path = config.data_dir.join(SIGNING_KEY_FILE);
    match fs::read_to_string(&path) {
        Ok(line) => parse_key_line(config, &path, &line).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::internal(
            FAILED_ACTION,
            format!("{}: {error}", path.display()),
        )),
    }
}

fn parse_key_line(config: &ServerSection, path: &Path, line: &str) -> Result<Arc<SigningKey>> {
    let broken = || {
        Error::internal(
            FAILED_ACTION,
            format!("{} contains no signing key", path.display()),
        )
    };
    let mut words = line.split_whitespace();
    let (Some("ed25519"), Some(version), Some(key)) = (words.next(), words.next(), words.next())
    else {
        return Err(broken());
    };
    let document: Base64 = Base64::parse(key).map_err(|_| broken())?;
    SigningKey::from_der(config.name.clone(), document.as_bytes(), version)
        .map(Arc::new)
        .map_err(|_| broken())
}

fn create(path: &Path) -> Result<String> {
    let document: Base64 = Base64::new(Ed25519KeyPair::generate().to_vec());
    let version = format!("p_{:08x}", rand::random::<u32>());
    let line = format!("ed25519 {version} {}\n", document.encode());
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(line.as_bytes())
                .and_then(|()| file.sync_all())
        });
    // The name of the file is on disk only after the directory has been synced, too.
    let folder = path.parent().unwrap_or(Path::new("."));
    let named = written.and_then(|()| File::open(folder)?.sync_all());
    named
        .map_err(|error| Error::internal(FAILED_ACTION, format!("{}: {error}", path.display())))?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_created_once_and_readable_only_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let config = ServerSection {
            data_dir: dir.path().to_owned(),
            ..ServerSection::default()
        };

        load(&config).unwrap();
        let first = fs::read_to_string(dir.path().join(SIGNING_KEY_FILE)).unwrap();
        load(&config).unwrap();

        assert_eq!(
            fs::read_to_string(dir.path().join(SIGNING_KEY_FILE)).unwrap(),
            first
        );
        let mode = fs::metadata(dir.path().join(SIGNING_KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_without_a_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SIGNING_KEY_FILE), "nonsense").unwrap();
        let config = ServerSection {
            data_dir: dir.path().to_owned(),
            ..ServerSection::default()
        };

        assert!(load(&config).is_err());
    }
}
