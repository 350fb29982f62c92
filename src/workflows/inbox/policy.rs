//! Checks events of other servers with the policy server of their room.
//!
//! [Validating Policy Server signatures](https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures)

use super::commit_batch::CommitBatch;
use crate::{
    matrix::VerifiedEvent,
    rooms::{PolicyServerClient, ReceiveHints, Room},
    workflows::Workflows,
};

impl Workflows {
    /// Asks the policy server of a room, if it has one, whether it recommends an event.
    pub(super) async fn ask_policy_server(
        &self,
        room: &Room,
        event: &VerifiedEvent,
        line: &mut CommitBatch<'_>,
    ) -> ReceiveHints {
        let mut help = ReceiveHints::default();
        if let Some(policy) = room.policy_server() {
            line.allow_commit();
            let asking = self
                .federation
                .request_signature(&policy, &room.rules, event.json());
            if let Err(error) = asking.await {
                tracing::debug!(%error, "the policy server refused an event");
                help.is_not_recommended = true;
            }
        }
        help
    }
}
