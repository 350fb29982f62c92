//! The media files: each content is stored once, under its SHA-256.
//!
//! A file is written under a temporary name, flushed to disk, and only then moved to its final path. So a file at its
//! final path is complete, even after a crash. Incomplete files are removed at the next start.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};

/// The folder for incomplete files; no hash begins with this name.
const INCOMPLETE_FOLDER: &str = "arriving";
/// Other users of the machine must not read the files.
const PRIVATE_FOLDER_MODE: u32 = 0o700;
const PRIVATE_FILE_MODE: u32 = 0o600;

/// The SHA-256 of a content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash([u8; 32]);

/// A content that is stored at its final path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredContent {
    pub(super) hash: ContentHash,
    pub(super) size: u64,
}

/// The folder of the files. Cheap to clone.
#[derive(Clone)]
pub(super) struct MediaFiles {
    directory: Arc<Path>,
}

/// A file that is being received. It is removed if it is dropped without [`IncomingFile::finish`].
pub(super) struct IncomingFile {
    file: tokio::fs::File,
    temporary: TemporaryFile,
    hasher: Sha256,
    size: u64,
    directory: Arc<Path>,
}

/// The path of an incomplete file, which is deleted when this is dropped.
struct TemporaryFile(PathBuf);

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an unfinished file could not be removed");
        }
    }
}

impl ContentHash {
    /// Reads a hash from the database; `None` if it does not have 32 bytes.
    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn path_under(&self, directory: &Path) -> PathBuf {
        let name = self.to_string();
        let (first, rest) = name.split_at(2);
        let (second, rest) = rest.split_at(2);
        directory.join(first).join(second).join(rest)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl MediaFiles {
    /// Creates the folder if necessary, and removes incomplete files of the last run.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        prepare_folders(directory).map_err(|source| {
            let source = format!("{}: {source}", directory.display());
            Error::internal("prepare the media directory", source)
        })?;
        Ok(Self {
            directory: Arc::from(directory),
        })
    }

    /// Creates a file for content that will arrive in parts.
    pub(super) async fn begin_file(&self) -> Result<IncomingFile> {
        let temporary = self.new_temporary_file();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(PRIVATE_FILE_MODE);
        let file = tokio::fs::OpenOptions::from(options)
            .open(&temporary.0)
            .await
            .map_err(storage_error)?;
        Ok(IncomingFile {
            file,
            temporary,
            hasher: Sha256::new(),
            size: 0,
            directory: self.directory.clone(),
        })
    }

    /// Stores content that is in memory. This blocks.
    pub(super) fn store(&self, content: &[u8]) -> Result<StoredContent> {
        let hash = ContentHash(Sha256::digest(content).into());
        let temporary = self.new_temporary_file();
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(PRIVATE_FILE_MODE);
            let mut file = options.open(&temporary.0)?;
            file.write_all(content)?;
            file.sync_all()?;
            move_to_final_path(&temporary.0, hash, &self.directory)
        };
        write().map_err(storage_error)?;
        let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        Ok(StoredContent { hash, size })
    }

    /// Opens a content for reading.
    ///
    /// # Errors
    ///
    /// Also when the file is missing or has another size, because the database refers to it.
    pub(super) async fn open_content(&self, stored: StoredContent) -> Result<tokio::fs::File> {
        let open = async {
            let file = tokio::fs::File::open(self.content_path(stored.hash)).await?;
            let size = file.metadata().await?.len();
            if size == stored.size {
                Ok(file)
            } else {
                Err(io::Error::other(format!("it has {size} bytes")))
            }
        };
        open.await.map_err(|source| {
            Error::internal("read a media file", format!("{}: {source}", stored.hash))
        })
    }

    /// Returns the path of a content.
    pub(super) fn content_path(&self, hash: ContentHash) -> PathBuf {
        hash.path_under(&self.directory)
    }

    fn new_temporary_file(&self) -> TemporaryFile {
        let name = format!("{:032x}", rand::random::<u128>());
        TemporaryFile(self.directory.join(INCOMPLETE_FOLDER).join(name))
    }
}

impl IncomingFile {
    /// Returns the number of bytes that have arrived.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Writes the next part.
    pub(super) async fn write(&mut self, part: &[u8]) -> Result<()> {
        self.file.write_all(part).await.map_err(storage_error)?;
        self.hasher.update(part);
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        self.size = self.size.saturating_add(length);
        Ok(())
    }

    /// Flushes the content to disk, and moves it to its final path.
    pub(super) async fn finish(mut self) -> Result<StoredContent> {
        // The first call reports writes that failed in the background, the second waits for the disk.
        self.file.flush().await.map_err(storage_error)?;
        self.file.sync_all().await.map_err(storage_error)?;
        let hash = ContentHash(self.hasher.finalize().into());
        let (temporary, directory) = (self.temporary, self.directory);
        let placing =
            tokio::task::spawn_blocking(move || move_to_final_path(&temporary.0, hash, &directory))
                .await;
        placing
            .map_err(|source| Error::internal("place a media file", source))?
            .map_err(storage_error)?;
        let size = self.size;
        Ok(StoredContent { hash, size })
    }
}

fn storage_error(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::StorageFull,
        _ => Error::internal("store a media file", source),
    }
}

fn prepare_folders(directory: &Path) -> io::Result<()> {
    let arriving = directory.join(INCOMPLETE_FOLDER);
    make_folder(&arriving)?;
    for entry in fs::read_dir(&arriving)? {
        fs::remove_file(entry?.path())?;
    }
    sync_folder(directory)
}

/// Moves a complete file to its final path.
///
/// An existing file is replaced by its identical copy. That costs no more than a check, and repairs a damaged file.
fn move_to_final_path(temporary: &Path, hash: ContentHash, directory: &Path) -> io::Result<()> {
    let path = hash.path_under(directory);
    // Every folder of the path is synced, even an existing one: the task that created it may not have synced it yet.
    let mut folders: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.starts_with(directory))
        .collect();
    if let Some(folder) = folders.first() {
        make_folder(folder)?;
    }
    fs::rename(temporary, &path)?;
    folders.drain(..).try_for_each(sync_folder)
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER_MODE)
        .create(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn files_under(path: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files_under(&path));
            } else {
                found.push(path);
            }
        }
        found
    }

    async fn receive(files: &MediaFiles, parts: &[&[u8]]) -> StoredContent {
        let mut arriving = files.begin_file().await.unwrap();
        for part in parts {
            arriving.write(part).await.unwrap();
        }
        arriving.finish().await.unwrap()
    }

    #[tokio::test]
    async fn content_is_stored_under_its_hash_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(folder.path()).unwrap();

        let stored = receive(&files, &[b"ab", b"c"]).await;

        let mut text = String::new();
        let mut file = files.open_content(stored).await.unwrap();
        file.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), stored.size), ("abc", 3));
        let place = "ba/78/16bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(files_under(folder.path()), [folder.path().join(place)]);
    }

    #[tokio::test]
    async fn equal_contents_share_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(folder.path()).unwrap();

        let received = receive(&files, &[b"abc"]).await;
        let stored = files.store(b"abc").unwrap();

        assert_eq!(received, stored);
        assert_eq!(files_under(folder.path()).len(), 1);
    }

    #[tokio::test]
    async fn an_interrupted_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(folder.path()).unwrap();
        let mut arriving = files.begin_file().await.unwrap();
        arriving.write(b"half").await.unwrap();
        assert_eq!(files_under(folder.path()).len(), 1);

        drop(arriving);

        assert!(files_under(folder.path()).is_empty());
    }

    #[tokio::test]
    async fn incomplete_files_of_a_crash_are_removed_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(folder.path()).unwrap();
        let stored = receive(&files, &[b"whole"]).await;
        fs::write(folder.path().join(INCOMPLETE_FOLDER).join("0123"), "half").unwrap();

        let files = MediaFiles::open(folder.path()).unwrap();

        assert_eq!(
            files_under(folder.path()),
            [files.content_path(stored.hash)]
        );
    }

    #[tokio::test]
    async fn a_truncated_file_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(folder.path()).unwrap();
        let stored = receive(&files, &[b"whole"]).await;
        fs::write(files.content_path(stored.hash), "who").unwrap();

        assert!(files.open_content(stored).await.is_err());
        receive(&files, &[b"whole"]).await;
        assert!(files.open_content(stored).await.is_ok());
    }
}
