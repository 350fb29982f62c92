//! Policy servers: in a room with a policy server, each event needs its signature before it is sent.
//!
//! The room accepts other events while the policy server checks an event. If one arrived meanwhile, the event is built
//! again. For that reason only one event of this server at a time waits for the policy server of a room.
//!
//! [Policy Servers](https://spec.matrix.org/v1.19/server-server-api/#policy-servers)

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::{
    events::{StateEventType, room::policy::RoomPolicyEventContent},
    room_version_rules::RoomVersionRules,
};
use tokio::sync::OwnedMutexGuard;

use super::{EventSender, send_occasion::SendOccasion};
use crate::{
    error::Result,
    rooms::{Room, log::accepted_event::AcceptedEvent, memory::room::RoomTip},
};

/// A client that asks policy servers for their signature.
pub trait PolicyServerClient: Send + Sync {
    /// Returns an event with the signature of a policy server, or unchanged if it needs none.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`](crate::error::Error::Forbidden) if the policy server refuses the event, and
    /// [`Error::Unreachable`](crate::error::Error::Unreachable) if it does not answer.
    fn request_signature<'a>(
        &'a self,
        policy: &'a RoomPolicyEventContent,
        rules: &'a RoomVersionRules,
        event: &'a str,
    ) -> BoxFuture<'a, Result<String>>;
}

/// The state of an event that the policy server of its room has to sign, if the room has one.
#[derive(Default)]
pub(crate) struct EventVetting {
    turn: Option<OwnedMutexGuard<()>>,
    vetted: Option<AcceptedEvent>,
}

impl EventVetting {
    /// Waits until no other event of this server is waiting for the policy server of the room.
    pub(crate) async fn wait_for_turn(&mut self, room: &Room) {
        if self.turn.is_none() && room.policy_server().is_some() {
            self.turn = Some(room.policy_check_lock.clone().lock_owned().await);
        }
    }

    /// Takes the event that the policy server has signed, if it still follows the tip of the room.
    pub(crate) fn take_vetted(&mut self, tip: &RoomTip) -> Option<AcceptedEvent> {
        let vetted = self.vetted.take();
        vetted.filter(|accepted| accepted.pdu.prev_events == tip.choose_prev_events().ids)
    }

    /// Keeps an event that the policy server has signed.
    pub(crate) fn store_vetted(&mut self, vetted: AcceptedEvent) {
        self.vetted = Some(vetted);
    }
}

impl Room {
    /// Returns the policy server of the room, if it has one. It counts only if a user of that server is in the room.
    pub fn policy_server(&self) -> Option<RoomPolicyEventContent> {
        let view = self.view();
        let kind = StateEventType::from("m.room.policy");
        let policy: RoomPolicyEventContent = view.state.content(&kind)?;
        view.servers.contains_key(&policy.via).then_some(policy)
    }
}

impl EventSender {
    /// Sets the client that asks policy servers. Without a client, no policy server is asked.
    pub fn set_policy_server_client(&self, client: Arc<dyn PolicyServerClient>) {
        // The first client is kept.
        drop(self.policy_servers.set(client));
    }

    /// Returns whether the policy server of the room has to sign an event.
    pub(crate) fn needs_vetting(&self, room: &Room, occasion: &SendOccasion) -> bool {
        // A policy server cannot prevent the deletion of a room.
        let is_deletion = matches!(occasion, SendOccasion::Deletion);
        !is_deletion && self.policy_servers.get().is_some() && room.policy_server().is_some()
    }

    /// Asks the policy server of a room to sign an event that is about to be sent.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`PolicyServerClient::request_signature`].
    pub(crate) async fn vet_event(
        &self,
        room: &Room,
        mut accepted: AcceptedEvent,
    ) -> Result<AcceptedEvent> {
        if let (Some(policies), Some(policy)) = (self.policy_servers.get(), room.policy_server()) {
            let signed = policies.request_signature(&policy, &room.rules, &accepted.json);
            accepted.json = signed.await?;
        }
        Ok(accepted)
    }
}
