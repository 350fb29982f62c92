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

use super::{EventSender, send::Occasion};
use crate::{
    error::Result,
    rooms::{Room, log::append::Accepted, memory::room::Tip},
};

/// A client that asks policy servers for their signature.
pub trait Recommends: Send + Sync {
    /// Returns an event with the signature of a policy server, or unchanged if it needs none.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`](crate::error::Error::Forbidden) if the policy server refuses the event, and
    /// [`Error::Unreachable`](crate::error::Error::Unreachable) if it does not answer.
    fn recommended<'a>(
        &'a self,
        policy: &'a RoomPolicyEventContent,
        rules: &'a RoomVersionRules,
        event: &'a str,
    ) -> BoxFuture<'a, Result<String>>;
}

/// The state of an event that the policy server of its room has to sign, if the room has one.
#[derive(Default)]
pub(crate) struct Vetting {
    turn: Option<OwnedMutexGuard<()>>,
    vetted: Option<Accepted>,
}

impl Vetting {
    /// Waits until no other event of this server is waiting for the policy server of the room.
    pub(crate) async fn wait_for_turn(&mut self, room: &Room) {
        if self.turn.is_none() && room.policy().is_some() {
            self.turn = Some(room.vetting.clone().lock_owned().await);
        }
    }

    /// Takes the event that the policy server has signed, if it still follows the tip of the room.
    pub(crate) fn take(&mut self, tip: &Tip) -> Option<Accepted> {
        let vetted = self.vetted.take();
        vetted.filter(|accepted| accepted.pdu.prev_events == tip.followed().0)
    }

    /// Keeps an event that the policy server has signed.
    pub(crate) fn put(&mut self, vetted: Accepted) {
        self.vetted = Some(vetted);
    }
}

impl Room {
    /// Returns the policy server of the room, if it has one. It counts only if a user of that server is in the room.
    pub fn policy(&self) -> Option<RoomPolicyEventContent> {
        let view = self.view();
        let kind = StateEventType::from("m.room.policy");
        let policy: RoomPolicyEventContent = view.state.content(&kind)?;
        view.servers.contains_key(&policy.via).then_some(policy)
    }
}

impl EventSender {
    /// Sets the client that asks policy servers. Without a client, no policy server is asked.
    pub fn ask_policy_servers(&self, asker: Arc<dyn Recommends>) {
        // The first client is kept.
        drop(self.policy_servers.set(asker));
    }

    /// Returns whether the policy server of the room has to sign an event.
    pub(crate) fn is_to_be_vetted(&self, room: &Room, occasion: &Occasion) -> bool {
        // A policy server cannot prevent the deletion of a room.
        let is_deletion = matches!(occasion, Occasion::Deletion);
        !is_deletion && self.policy_servers.get().is_some() && room.policy().is_some()
    }

    /// Asks the policy server of a room to sign an event that is about to be sent.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Recommends::recommended`].
    pub(crate) async fn vet(&self, room: &Room, mut accepted: Accepted) -> Result<Accepted> {
        if let (Some(policies), Some(policy)) = (self.policy_servers.get(), room.policy()) {
            let asking = policies.recommended(&policy, &room.rules, &accepted.json);
            accepted.json = asking.await?;
        }
        Ok(accepted)
    }
}
