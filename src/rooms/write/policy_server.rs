//! Rooms that use a policy server: it signs what is sent there before it is sent, or refuses.
//!
//! The room is not held up by it: it goes on while the policy server thinks about an event, and if it did, the event is
//! made anew. So the users of this server send one after the other there.
//!
//! [Policy Servers](https://spec.matrix.org/v1.19/server-server-api/#policy-servers)

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::{
    events::{StateEventType, room::policy::RoomPolicyEventContent},
    room_version_rules::RoomVersionRules,
};
use tokio::sync::OwnedMutexGuard;

use super::{EventSender, send::Occasion};
use crate::{
    error::Result,
    rooms::{Room, log::append::Accepted, memory::room::Tip},
};

/// Whoever asks policy servers for their recommendation.
pub trait Recommends: Send + Sync {
    /// Returns an event with the signature of a policy server, or as it is if it needs none.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`](crate::error::Error::Forbidden) when the policy server does not recommend the event, and
    /// [`Error::Unreachable`](crate::error::Error::Unreachable) when it does not answer.
    fn recommended<'a>(
        &'a self,
        policy: &'a RoomPolicyEventContent,
        rules: &'a RoomVersionRules,
        event: &'a str,
    ) -> BoxFuture<'a, Result<String>>;
}

/// The way of an event by the policy server of its room, if it has one.
#[derive(Default)]
pub(crate) struct Vetting {
    turn: Option<OwnedMutexGuard<()>>,
    vetted: Option<Accepted>,
}

impl Vetting {
    /// Waits until nobody else of this server is about to send to a room that uses a policy server.
    pub(crate) async fn wait_for_turn(&mut self, room: &Room) {
        if self.turn.is_none() && room.policy().is_some() {
            self.turn = Some(room.vetting.clone().lock_owned().await);
        }
    }

    /// Returns the event that the policy server has signed, if it still follows the tip of the room.
    pub(crate) fn take(&mut self, tip: &Tip) -> Option<Accepted> {
        let vetted = self.vetted.take();
        vetted.filter(|accepted| accepted.pdu.prev_events == tip.followed().0)
    }

    /// Notes an event that the policy server has signed.
    pub(crate) fn put(&mut self, vetted: Accepted) {
        self.vetted = Some(vetted);
    }
}

impl Room {
    /// Returns the policy server that the room uses, if it uses one: a user of that server has to be in the room.
    pub fn policy(&self) -> Option<RoomPolicyEventContent> {
        let view = self.view();
        let kind = StateEventType::from("m.room.policy");
        let policy: RoomPolicyEventContent = view.state.content(&kind)?;
        view.servers.contains_key(&policy.via).then_some(policy)
    }
}

impl EventSender {
    /// Has policy servers asked by somebody from now on. Without this, nobody asks them.
    pub fn ask_policy_servers(&self, asker: Arc<dyn Recommends>) {
        // The first one stays.
        drop(self.policy_servers.set(asker));
    }

    /// Returns whether an event has to be signed by the policy server of its room.
    pub(crate) fn is_to_be_vetted(&self, room: &Room, occasion: &Occasion) -> bool {
        // A room is deleted whatever others think of it.
        let is_deletion = matches!(occasion, Occasion::Deletion);
        !is_deletion && self.policy_servers.get().is_some() && room.policy().is_some()
    }

    /// Asks the policy server of a room to sign an event that is about to be sent.
    ///
    /// # Errors
    ///
    /// As [`Recommends::recommended`].
    pub(crate) async fn vet(&self, room: &Room, mut accepted: Accepted) -> Result<Accepted> {
        if let (Some(policies), Some(policy)) = (self.policy_servers.get(), room.policy()) {
            let asking = policies.recommended(&policy, &room.rules, &accepted.json);
            accepted.json = asking.await?;
        }
        Ok(accepted)
    }
}
