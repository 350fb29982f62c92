//! What leaves this server: connections to others.

/// Chooses which code does the cryptography of TLS, for the whole process; a choice that was made stays.
pub fn choose_cryptography() {
    // An error says only that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
