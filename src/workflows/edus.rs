//! What other servers tell beside events: who types, who has read what, who is there, messages to devices, and keys.
//!
//! [EDUs](https://spec.matrix.org/v1.19/server-server-api/#edus)

use ruma::{ServerName, api::federation::transactions::edu::Edu, serde::Raw};

use super::Workflows;

impl Workflows {
    /// Takes what another server tells; what makes no sense is passed over.
    pub async fn receive_edus(&self, origin: &ServerName, edus: Vec<Raw<Edu>>) {
        let _ = (origin, edus);
    }
}
