//! Events that other servers send: their format, their hashes, and their required signatures.
//!
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu)

use futures_util::{StreamExt, stream};
use ruma::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{Federation, WantedKey};
use crate::{
    error::Result,
    matrix::{VerifiedEvent, needed_keys, read_event},
};

/// The number of events verified at the same time. One whose keys must be fetched does not delay the others.
const MAX_CONCURRENT_VERIFICATIONS: usize = 32;

impl Federation {
    /// Checks the format, the hash and the signatures of an event, with the keys of the servers that must have signed
    /// it.
    ///
    /// # Errors
    ///
    /// When the event must be dropped: [`BadJson`](crate::error::Error::BadJson),
    /// [`TooLarge`](crate::error::Error::TooLarge), [`InvalidSignature`](crate::error::Error::InvalidSignature).
    pub async fn verify_event(
        &self,
        event: &RawValue,
        rules: &RoomVersionRules,
    ) -> Result<VerifiedEvent> {
        let object = read_event(event)?;
        let keys = self.keys().find_keys(wanted_keys(&object, rules)?).await?;
        VerifiedEvent::verify(object, rules, &keys)
    }

    /// Checks events as [`Federation::verify_event`] does, and leaves out those that must be dropped.
    pub async fn verify_events<E: AsRef<RawValue>>(
        &self,
        events: impl IntoIterator<Item = E>,
        rules: &RoomVersionRules,
    ) -> Vec<VerifiedEvent> {
        let checking = stream::iter(events)
            .map(async |event: E| self.verify_event(event.as_ref(), rules).await)
            .buffered(MAX_CONCURRENT_VERIFICATIONS);
        let mut checking = std::pin::pin!(checking);
        let mut verified = Vec::new();
        while let Some(checked) = checking.next().await {
            match checked {
                Ok(event) => verified.push(event),
                Err(error) => tracing::debug!(%error, "an event is dropped"),
            }
            // Checking a signature takes long enough to count against the task's budget.
            tokio::task::consume_budget().await;
        }
        verified
    }
}

/// Returns the keys that are needed to verify an event.
pub(super) fn wanted_keys(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<Vec<WantedKey>> {
    let made_at = object.get("origin_server_ts");
    let made_at = made_at.and_then(CanonicalJsonValue::as_integer);
    let valid_at = if rules.enforce_key_validity {
        made_at.map_or(0, i64::from)
    } else {
        0
    };
    let mut wanted = Vec::new();
    for needed in needed_keys(object, rules)? {
        for key_id in needed.key_ids {
            let server = needed.server.clone();
            wanted.push(WantedKey {
                server,
                key_id,
                valid_at,
            });
        }
    }
    Ok(wanted)
}
