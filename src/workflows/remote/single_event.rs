//! Single events of the history of a room, fetched for users who ask for them by their ids, such as pinned messages from
//! before this server joined.
//!
//! See [Retrieving a single event](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid).

use std::{sync::Arc, time::Duration};

use ruma::{
    EventId, OwnedEventId, ServerName, UserId, api::federation::event::get_event,
    events::room::member::MembershipState,
};
use tokio::time::timeout;

use super::backfill::{HISTORY_TIMEOUT, HistoryFetcher};
use crate::{
    error::{Error, Result},
    federation::RequestLimits,
    matrix::Pdu,
    numbers::{Position, RoomNum, UserNum},
    rooms::{Room, UnplacedEvent},
};

/// The number of events that one user may fetch at the same time, and of further ones that may wait.
pub(super) const MAX_CONCURRENT_FETCHES: usize = 2;
pub(super) const MAX_WAITING_FETCHES: usize = 20;
/// The time after which a user may try again when too many fetches wait.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// The number of fetched events in memory. A list of pinned messages is read again and again.
pub(super) const MAX_CACHED_EVENTS: usize = 500;
/// The time for which an event is in memory, and for which it is remembered that there is none.
const EVENT_TTL: Duration = Duration::from_mins(30);
const MISSING_EVENT_TTL: Duration = Duration::from_mins(2);

/// The key of a fetched event.
pub(super) type FetchedEventKey = (RoomNum, OwnedEventId);

/// An event from another server that a user may see.
pub struct FetchedEvent {
    pub event: Arc<UnplacedEvent>,
    /// The redaction that applies to it.
    pub redaction: Option<Pdu>,
}

impl HistoryFetcher {
    /// Returns whether another server may have an event that this one lacks, and the user is in the room.
    pub async fn may_fetch_event(
        &self,
        room: &Room,
        user_id: &UserId,
        event_id: &EventId,
    ) -> Result<bool> {
        let is_member = room.view().state.membership(user_id) == MembershipState::Join;
        if !is_member || !self.lacks_history(room, Position::MAX).await? {
            return Ok(false);
        }
        let event_ids = [event_id.to_owned()];
        let unknown = self.rooms.receiver.unknown_events(&event_ids).await?;
        Ok(!unknown.is_empty())
    }

    /// Fetches an event of a room from other servers, for a user who is in the room.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when no server has it, it is not allowed, or the user may not see it;
    /// [`Error::LimitExceeded`] when the user fetches too many events at the same time.
    pub async fn fetch_event(
        &self,
        room: &Arc<Room>,
        user: UserNum,
        user_id: &UserId,
        event_id: &EventId,
    ) -> Result<FetchedEvent> {
        let not_found = || Error::not_found("there is no such event, or you may not see it");
        let place = self.event_fetches.enqueue(&user);
        let place = place.ok_or(Error::LimitExceeded {
            retry_after: RETRY_AFTER,
        })?;
        let _permit = place.acquire().await;
        let key = (room.num, event_id.to_owned());
        let look_up = Box::pin(async {
            let fetching = self.fetch_from_any_server(room, event_id);
            match timeout(HISTORY_TIMEOUT, fetching).await.ok().flatten() {
                Some(event) => (Some(Arc::new(event)), EVENT_TTL),
                None => (None, MISSING_EVENT_TTL),
            }
        });
        let event = self.fetched_events.get(&key, look_up).await;
        let event = event.ok_or_else(not_found)?;
        if !event.may_be_seen_by_member(user_id) {
            return Err(not_found());
        }
        let receiver = &self.rooms.receiver;
        let redaction = receiver
            .find_redaction_of_unplaced_event(room, &event.pdu)
            .await?;
        Ok(FetchedEvent { event, redaction })
    }

    async fn fetch_from_any_server(
        &self,
        room: &Room,
        event_id: &EventId,
    ) -> Option<UnplacedEvent> {
        for server in self.history_servers(room) {
            match self.fetch_from(room, &server, event_id).await {
                Ok(Some(event)) => return Some(event),
                Ok(None) => tracing::debug!(%server, %event_id, "a server has no such event"),
                Err(error) => {
                    tracing::debug!(%server, %event_id, %error, "a server returned no event");
                }
            }
        }
        None
    }

    async fn fetch_from(
        &self,
        room: &Room,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Option<UnplacedEvent>> {
        let event_id = event_id.to_owned();
        let request = get_event::v1::Request::new(event_id.clone());
        let client = self.federation.client();
        let answer = client
            .send(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        let verified = self.verify_history(room, server, vec![answer.pdu]).await?;
        let Some(event) = verified
            .iter()
            .find(|event| event.pdu().event_id == event_id)
        else {
            return Ok(None);
        };
        let state = self.fetch_state_before(room, server, &event_id).await?;
        let receiver = &self.rooms.receiver;
        receiver.check_unplaced_event(room, event, &state).await
    }
}
