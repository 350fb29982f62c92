//! The TLS certificate of a listener, which is reloaded when its files change.

use std::{
    error::Error,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::ServerConfig;
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, Error::NoItemsFound, PemObject},
};

/// A file that cannot be used, and the reason.
pub(super) type UnusableFile = (PathBuf, Box<dyn Error + Send + Sync>);

/// The files of a certificate, and the last valid configuration made from them.
pub(super) struct ListenerCertificate {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<LoadedCertificate>,
}

struct LoadedCertificate {
    stamps: [FileStamp; 2],
    config: Arc<ServerConfig>,
}

/// Inode, modification time and size, by which a changed file is noticed; `None` if the file cannot be accessed.
type FileStamp = Option<(u64, i64, i64, u64)>;

impl ListenerCertificate {
    /// Reads a certificate chain and its private key.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, UnusableFile> {
        // Taken before reading, so that a change in the meantime leads to another read.
        let stamps = [certificate, key].map(file_stamp);
        let config = Arc::new(tls_config(certificate, key)?);
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: Mutex::new(LoadedCertificate { stamps, config }),
        })
    }

    /// Returns the TLS configuration from the current files or, if they are invalid, from the last valid ones.
    ///
    /// Checking for changes costs very little compared with a TLS handshake.
    pub(super) fn current_config(&self) -> Arc<ServerConfig> {
        let stamps = [&*self.certificate, &*self.key].map(file_stamp);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.stamps != stamps {
            current.stamps = stamps;
            match tls_config(&self.certificate, &self.key) {
                Ok(config) => {
                    tracing::info!(path = %self.certificate.display(), "loaded a new certificate");
                    current.config = Arc::new(config);
                }
                // One of the two files may be new while the other is not yet.
                Err((path, error)) => {
                    tracing::warn!(path = %path.display(), %error, "could not load the new certificate; the previous one stays in use");
                }
            }
        }
        current.config.clone()
    }
}

fn file_stamp(path: &Path) -> FileStamp {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.len(),
    ))
}

fn tls_config(certificate: &Path, key: &Path) -> Result<ServerConfig, UnusableFile> {
    let failed = |path: &Path, source: Box<dyn Error + Send + Sync>| -> UnusableFile {
        (path.to_owned(), source)
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| {
            if chain.is_empty() {
                Err(NoItemsFound)
            } else {
                Ok(chain)
            }
        })
        .map_err(|error| failed(certificate, explain_pem_error(error, "certificate").into()))?;
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| failed(key, explain_key_error(error, key).into()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(certificate, e.into()))?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => failed(
                key,
                "the private key does not belong to the certificate".into(),
            ),
            other => failed(certificate, other.into()),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Explains why a PEM file cannot be read.
fn explain_pem_error(error: pem::Error, item: &str) -> String {
    match error {
        NoItemsFound => format!(
            "the file contains no {item}: expected a PEM file with `-----BEGIN {}-----`",
            item.to_uppercase()
        ),
        pem::Error::Io(error) => error.to_string(),
        pem::Error::MissingSectionEnd { .. } => {
            format!("the {item} in the file has no end: a line with `-----END` is missing")
        }
        other => format!("the file is not valid PEM: {other}"),
    }
}

fn explain_key_error(error: pem::Error, path: &Path) -> String {
    let is_encrypted =
        || fs::read_to_string(path).is_ok_and(|text| text.contains("BEGIN ENCRYPTED PRIVATE KEY"));
    if matches!(error, NoItemsFound) && is_encrypted() {
        return "the private key is encrypted: expected one without a passphrase".to_owned();
    }
    explain_pem_error(error, "private key")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    fn write(folder: &Path) -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (cert.pem(), signing_key.serialize_pem());
        fs::write(folder.join("crt"), &certificate).unwrap();
        fs::write(folder.join("key"), &key).unwrap();
        (certificate, key)
    }

    #[test]
    fn unusable_files_are_reported_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (crt, key) = (folder.path().join("crt"), folder.path().join("key"));
        write(folder.path());
        let problem = |certificate: &Path, key: &Path| {
            let (path, error) = ListenerCertificate::read(certificate, key).err().unwrap();
            (path, error.to_string())
        };

        let (path, swapped) = problem(&key, &crt);
        assert_eq!(path, key);
        assert!(
            swapped.starts_with("the file contains no certificate"),
            "{swapped}"
        );
        let (path, no_key) = problem(&crt, &crt);
        assert_eq!(path, crt);
        assert!(no_key.contains("`-----BEGIN PRIVATE KEY-----`"), "{no_key}");
        let other = tempfile::tempdir().unwrap();
        write(other.path());
        let (path, other) = problem(&crt, &other.path().join("key"));
        assert!(path.ends_with("key"));
        assert_eq!(other, "the private key does not belong to the certificate");
        fs::write(
            &key,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
        )
        .unwrap();
        let (_, encrypted) = problem(&crt, &key);
        assert!(encrypted.contains("passphrase"), "{encrypted}");
    }

    #[test]
    fn a_new_certificate_is_used_once_both_files_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (crt, key) = (folder.path().join("crt"), folder.path().join("key"));
        let (_, old_key) = write(folder.path());
        let certificates = ListenerCertificate::read(&crt, &key).unwrap();
        let first = certificates.current_config();
        assert!(Arc::ptr_eq(&first, &certificates.current_config()));

        let (_, new_key) = write(folder.path());
        fs::write(&key, old_key).unwrap();
        let halfway = certificates.current_config();
        fs::remove_file(&key).unwrap();
        let without_key = certificates.current_config();
        fs::write(&key, new_key).unwrap();
        let last = certificates.current_config();

        assert!(Arc::ptr_eq(&first, &halfway));
        assert!(Arc::ptr_eq(&first, &without_key));
        assert!(!Arc::ptr_eq(&first, &last));
    }
}
