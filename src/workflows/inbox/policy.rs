//! Checks events of other servers with the policy server of their room.
//!
//! [Validating Policy Server signatures](https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures)

use super::commit_batch::CommitBatch;
use crate::{
    federation::Federation,
    matrix::VerifiedEvent,
    rooms::{PolicyServerClient, ReceiveHints, Room, SoftFailureCheck},
};

/// Asks the policy server of a room, if it has one, whether it recommends an event.
pub(super) async fn ask_policy_server(
    federation: &Federation,
    room: &Room,
    event: &VerifiedEvent,
    batch: &mut CommitBatch<'_>,
) -> ReceiveHints {
    let mut hints = ReceiveHints::default();
    if let Some(policy) = room.policy_server() {
        batch.allow_commit();
        let signature = federation.request_signature(&policy, &room.rules, event.json());
        if let Err(error) = signature.await {
            tracing::debug!(%error, "the policy server refused an event");
            hints.soft_failure = SoftFailureCheck::NotRecommended;
        }
    }
    hints
}
