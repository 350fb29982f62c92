//! The section of the configuration about application services.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[appservices]`: application services, such as bridges to other networks.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppservicesSection {
    /// The registration files.
    pub registrations: Vec<PathBuf>,
    /// Whether application services may have loopback and private addresses, and be reached without TLS.
    pub allow_private_addresses: bool,
}

impl Default for AppservicesSection {
    fn default() -> Self {
        Self {
            registrations: Vec::new(),
            allow_private_addresses: true,
        }
    }
}
