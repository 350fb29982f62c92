//! Receives EDUs of other servers: typing, receipts, presence, to-device messages, device lists and keys.
//!
//! A server may only send EDUs about its own users. Those about a room must be from a member of it, and from a server
//! that the room's server ACL permits. Malformed EDUs are ignored; the others are still processed.
//!
//! See [EDUs](https://spec.matrix.org/v1.19/server-server-api/#edus).

mod device_edus;
mod origin;
mod receipts;
mod typing_and_presence;

use ruma::{ServerName, api::federation::transactions::edu::Edu, serde::Raw};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::{
    device_edus::DeviceEdus, origin::EduOrigins, receipts::ReceiptEdus,
    typing_and_presence::EphemeralEdus,
};
use super::{WorkflowSources, device_list_tracker::DeviceListTracker};
use crate::{error::Result, matrix::canonical_object};

/// "The list must not be more than 100 EDUs."
const MAX_EDUS: usize = 100;

#[derive(Deserialize)]
struct EduEnvelope<'a> {
    edu_type: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// The contents of the EDUs by type, in their order.
#[derive(Default)]
struct EdusByType {
    typing: Vec<Box<RawValue>>,
    receipts: Vec<Box<RawValue>>,
    presence: Vec<Box<RawValue>>,
    to_device: Vec<Box<RawValue>>,
    device_lists: Vec<Box<RawValue>>,
    signing_keys: Vec<Box<RawValue>>,
}

/// Receives EDUs of other servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct EduReceiver {
    device: DeviceEdus,
    ephemeral: EphemeralEdus,
    receipts: ReceiptEdus,
}

impl EduReceiver {
    pub(super) fn new(sources: &WorkflowSources, device_list_tracker: &DeviceListTracker) -> Self {
        let origins = EduOrigins::new(sources);
        Self {
            device: DeviceEdus::new(sources, device_list_tracker, &origins),
            ephemeral: EphemeralEdus::new(sources, &origins),
            receipts: ReceiptEdus::new(sources, &origins),
        }
    }

    /// Processes the EDUs of another server. Malformed ones are ignored.
    ///
    /// # Errors
    ///
    /// When they cannot be stored: the server has to send them again.
    #[tracing::instrument(skip_all, fields(server = %origin, count = edus.len()), err(level = "debug"))]
    pub(super) async fn receive_edus(
        &self,
        origin: &ServerName,
        edus: Vec<Raw<Edu>>,
    ) -> Result<()> {
        let mut sorted = EdusByType::default();
        for edu in edus.iter().take(MAX_EDUS) {
            let Ok(envelope) = serde_json::from_str::<EduEnvelope<'_>>(edu.json().get()) else {
                continue;
            };
            let kind = match &*envelope.edu_type {
                "m.typing" => &mut sorted.typing,
                "m.receipt" => &mut sorted.receipts,
                "m.presence" => &mut sorted.presence,
                "m.direct_to_device" => &mut sorted.to_device,
                "m.device_list_update" => &mut sorted.device_lists,
                "m.signing_key_update" | "org.matrix.signing_key_update" => {
                    &mut sorted.signing_keys
                }
                _ => continue,
            };
            if let Some(content) = canonical_object(envelope.content) {
                kind.push(content);
            } else {
                let edu_type = &envelope.edu_type;
                tracing::debug!(edu_type, "dropped an EDU that is nested too deeply");
            }
        }
        self.device
            .receive_messages(origin, &sorted.to_device)
            .await?;
        self.device
            .receive_device_lists(origin, &sorted.device_lists)
            .await?;
        self.device
            .receive_signing_keys(origin, &sorted.signing_keys)
            .await?;
        self.ephemeral
            .receive_typing(origin, &sorted.typing)
            .await?;
        self.ephemeral
            .receive_presence(origin, &sorted.presence)
            .await?;
        self.receipts
            .receive_receipts(origin, &sorted.receipts)
            .await
    }
}
