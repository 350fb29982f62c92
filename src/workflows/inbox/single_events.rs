//! Fetches events of a room one by one, verifies them, and stores them.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use ruma::{OwnedEventId, ServerName, api::federation::event::get_event::v1 as get_event};
use serde_json::value::RawValue;

use crate::{
    error::Result,
    federation::{Federation, RequestFailure, RequestLimits},
    matrix::VerifiedEvent,
    rooms::{Room, Rooms},
};

/// The limits for events requested one by one: at the same time, and in total.
const MAX_CONCURRENT_EVENTS: usize = 8;
pub(super) const MAX_SINGLE_EVENTS: usize = 500;

/// A room, and the server that sent an event of it.
#[derive(Clone, Copy)]
pub(super) struct EventSource<'a> {
    pub(super) rooms: &'a Rooms,
    pub(super) federation: &'a Federation,
    pub(super) origin: &'a ServerName,
    pub(super) room: &'a Arc<Room>,
}

/// Events that were requested one by one.
#[derive(Default)]
pub(super) struct SingleEvents {
    pub(super) events: Vec<VerifiedEvent>,
    /// Whether some could not be requested.
    pub(super) is_unreachable: bool,
}

impl EventSource<'_> {
    /// Fetches events one by one.
    pub(super) async fn fetch_singly(
        &self,
        server: &ServerName,
        ids: Vec<OwnedEventId>,
    ) -> SingleEvents {
        let client = self.federation.client();
        let asking = stream::iter(ids).map(async |id| {
            let request = get_event::Request::new(id.clone());
            (
                id,
                client
                    .send(server, request, RequestLimits::QUICK_RESPONSE)
                    .await,
            )
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(MAX_CONCURRENT_EVENTS));
        let mut singles = SingleEvents::default();
        while let Some((id, answer)) = asking.next().await {
            let event = match answer {
                Ok(answer) => answer.pdu,
                Err(failure) => {
                    singles.is_unreachable |= matches!(failure, RequestFailure::Unreachable(_));
                    continue;
                }
            };
            let verified = self.verify_for_room([event]).await;
            let is_it = |event: &VerifiedEvent| event.pdu().event_id == id;
            singles.events.extend(verified.into_iter().filter(is_it));
        }
        singles
    }

    /// Returns the events that are properly signed and belong to the room.
    pub(super) async fn verify_for_room(
        &self,
        events: impl IntoIterator<Item = Box<RawValue>>,
    ) -> Vec<VerifiedEvent> {
        let mut verified = self
            .federation
            .verify_events(events, &self.room.rules)
            .await;
        verified.retain(|event| event.pdu().room_id == self.room.room_id);
        verified
    }

    /// Stores events as outliers, if the auth rules permit them as far as that can be checked.
    pub(super) async fn store_outliers(&self, events: Vec<VerifiedEvent>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let outcomes = self.rooms.receiver.store_outliers(self.room, events);
        let outcomes = outcomes.await?;
        tracing::debug!(?outcomes, "auth events were stored");
        Ok(())
    }
}
