//! Checks events of other servers with the policy server of their room.
//!
//! [Validating Policy Server signatures](https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures)

use super::commit_batch::Line;
use crate::{
    matrix::Verified,
    rooms::{Help, Recommends, Room},
    workflows::Workflows,
};

impl Workflows {
    /// Asks the policy server of a room, if it has one, whether it recommends an event.
    pub(super) async fn policy_help(
        &self,
        room: &Room,
        event: &Verified,
        line: &mut Line<'_>,
    ) -> Help {
        let mut help = Help::default();
        if let Some(policy) = room.policy() {
            line.pauses();
            let asking = self
                .federation
                .recommended(&policy, &room.rules, event.json());
            if let Err(error) = asking.await {
                tracing::debug!(%error, "the policy server refused an event");
                help.is_not_recommended = true;
            }
        }
        help
    }
}
