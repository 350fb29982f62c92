//! The data directory. It contains secrets and users' data, so other users of the machine cannot read it.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::signing_key;
use crate::{
    config::Config,
    error::{Error, Result},
    storage::DatabaseTarget,
};

const PRIVATE_FOLDER_MODE: u32 = 0o700;
const PRIVATE_FILE_MODE: u32 = 0o600;
/// The permissions of everyone except the owner.
const OTHERS_MODE_BITS: u32 = 0o077;
/// The suffixes of the additional files of SQLite. SQLite creates them with the permissions of the database file.
const SQLITE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Creates the data directory if necessary, and makes its files private.
///
/// # Errors
///
/// When the directory or the database file cannot be created.
pub(super) fn prepare(config: &Config) -> Result<()> {
    let folder = &config.server.data_dir;
    let failed = |path: &Path, source: io::Error| {
        let source = format!("{}: {source}", path.display());
        Error::internal("prepare the data directory", source)
    };
    create_private_folder(folder).map_err(|source| failed(folder, source))?;
    warn_if_open(folder);
    let target = DatabaseTarget::parse(config.database.url.expose(), folder)?;
    let database = target.sqlite_file();
    if let Some(file) = database {
        if let Some(parent) = file.parent() {
            create_private_folder(parent).map_err(|source| failed(parent, source))?;
        }
        create_private_file(file).map_err(|source| failed(file, source))?;
    }
    let database_files = database.into_iter().flat_map(sqlite_files);
    for file in database_files.chain([folder.join(signing_key::SIGNING_KEY_FILE)]) {
        if let Err(error) = make_private(&file) {
            let path = file.display();
            tracing::warn!(%error, %path, "could not make a file private; other users of this machine may read it");
        }
    }
    Ok(())
}

/// Creates a directory and its parents, if they do not exist.
fn create_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER_MODE)
        .create(folder)
}

fn warn_if_open(folder: &Path) {
    let mode = fs::metadata(folder).map(|metadata| metadata.permissions().mode());
    if mode.is_ok_and(|mode| mode & OTHERS_MODE_BITS != 0) {
        tracing::warn!(
            path = %folder.display(),
            "other users of this machine can access the data directory; `chmod 700` prevents it"
        );
    }
}

/// Creates an empty file, which SQLite treats as a new database, if it does not exist.
fn create_private_file(file: &Path) -> io::Result<()> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE_MODE)
        .open(file);
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

fn sqlite_files(database: &Path) -> Vec<PathBuf> {
    let mut files = vec![database.to_owned()];
    for suffix in SQLITE_SUFFIXES {
        let mut name = OsString::from(database);
        name.push(suffix);
        files.push(name.into());
    }
    files
}

/// Removes the permissions of everyone except the owner from an existing file.
fn make_private(file: &Path) -> io::Result<()> {
    let mode = match fs::metadata(file) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & OTHERS_MODE_BITS == 0 {
        return Ok(());
    }
    fs::set_permissions(file, Permissions::from_mode(mode & !OTHERS_MODE_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatabaseUrl;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_and_its_files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = folder.path().join("data");
        let data = &config.server.data_dir;

        prepare(&config).unwrap();
        assert_eq!(mode(data), 0o700);
        assert_eq!(mode(&data.join("parlour.db")), 0o600);

        for name in ["parlour.db", "parlour.db-wal", "signing.key"] {
            let file = data.join(name);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        }
        prepare(&config).unwrap();

        for name in ["parlour.db", "parlour.db-wal", "signing.key"] {
            assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn the_database_folder_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data_dir = folder.path().join("data");
        config.database.url = DatabaseUrl::parse("sqlite:of/the/chat.db").unwrap();

        prepare(&config).unwrap();

        let database = config.server.data_dir.join("of/the/chat.db");
        assert_eq!(mode(&database), 0o600);
        assert_eq!(mode(database.parent().unwrap()), 0o700);
    }
}
