//! Collects the content of one transaction: events, from memory or from disk, and EDUs.

use std::sync::Arc;

use super::{
    FederationSenderInner,
    destination::Destination,
    edus,
    recent_events::NextEvents,
    transaction_batch::{SentStickyEvents, TransactionBatch, UnsentEvents},
};
use crate::{
    error::{Error, Result},
    numbers::{Position, RoomNum},
    rooms::{OutgoingEvent, OutgoingStickyPage},
};

/// The largest number of events in a transaction, by the specification.
pub(super) const MAX_PDUS: usize = 50;
/// The number of events that a server receives one by one after it was away, from one room and from all rooms. Beyond
/// that it receives only the newest of each room, and can request the events in between.
const MAX_MISSED_PER_ROOM: usize = 50;
const MAX_MISSED_EVENTS: usize = 400;
/// The number of pages of a room's timeline that are searched for events that a server has missed.
const MAX_TIMELINE_PAGES: usize = 4;

/// The number of events of one room that the next transaction may contain.
#[derive(Clone, Copy)]
struct RoomEventLimits {
    /// A server that missed more events than this receives only the newest.
    max_missed: Option<usize>,
    /// The number of events for which the transaction has space.
    left: usize,
}

impl FederationSenderInner {
    /// Collects the next batch for a server.
    ///
    /// EDUs that exist only in memory are removed from the queue, and put back if the transaction fails.
    pub(super) async fn gather_batch(&self, destination: &Destination) -> Result<TransactionBatch> {
        let (sticky_events, pdus) = self.gather_sticky_events(destination).await?;
        let found = if pdus.is_empty() {
            self.gather_pdus(destination).await?
        } else {
            NextEvents {
                events: pdus,
                ..NextEvents::default()
            }
        };
        let mut batch = TransactionBatch {
            pdus: found.events,
            complete_up_to: found.complete_up_to,
            sticky_events,
            announces_restart: destination.lock().announces_restart,
            ..TransactionBatch::default()
        };
        if let Err(error) = edus::gather_edus(self, destination, &mut batch).await {
            destination.lock().restore_batch(batch);
            return Err(error);
        }
        Ok(batch)
    }

    /// Returns the next sticky events that a server may lack.
    async fn gather_sticky_events(
        &self,
        destination: &Destination,
    ) -> Result<(Option<SentStickyEvents>, Vec<Arc<OutgoingEvent>>)> {
        let next = {
            let state = destination.lock();
            let first = state.sticky_events.first_key_value();
            first.map(|(room, after)| (*room, *after))
        };
        let Some((room, after)) = next else {
            return Ok((None, Vec::new()));
        };
        let server = &destination.server;
        let reader = &self.rooms.federation;
        let page = reader.outgoing_sticky_events(room, after, MAX_PDUS, server);
        let page = match page.await {
            // The room was deleted.
            Err(Error::NotFound(_)) => OutgoingStickyPage::default(),
            page => page?,
        };
        let sent = SentStickyEvents {
            room,
            after,
            up_to: page.up_to,
        };
        let events = page.events.into_iter().map(Arc::new);
        Ok((Some(sent), events.collect()))
    }

    async fn gather_pdus(&self, destination: &Destination) -> Result<NextEvents> {
        let (unsent, catches_up) = {
            let state = destination.lock();
            (state.unsent.clone(), state.is_catching_up)
        };
        if unsent.is_empty() {
            return Ok(NextEvents::default());
        }
        if !catches_up {
            let log = self.recent_events.read();
            let log = log.unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(found) = log.find_unsent(&destination.server, &unsent, MAX_PDUS) {
                return Ok(found);
            }
        }
        let max_missed =
            catches_up.then(|| (MAX_MISSED_EVENTS / unsent.len()).clamp(1, MAX_MISSED_PER_ROOM));
        let mut rooms: Vec<(RoomNum, UnsentEvents)> = unsent.into_iter().collect();
        rooms.sort_unstable_by_key(|(_, unsent)| unsent.first);
        let mut found = NextEvents::default();
        for (room, unsent) in rooms {
            let left = MAX_PDUS.saturating_sub(found.events.len());
            if left == 0 {
                break;
            }
            let limits = RoomEventLimits { max_missed, left };
            let of_room = self.gather_room_pdus(destination, room, unsent, limits);
            let (events, through) = match of_room.await {
                // The room was deleted.
                Err(Error::NotFound(_)) => (Vec::new(), unsent.last),
                of_room => of_room?,
            };
            found.events.extend(events.into_iter().map(Arc::new));
            found.complete_up_to.insert(room, through);
        }
        Ok(found)
    }

    /// Queues the sticky events of a room from a position on, for a server that is not sent all events that it missed.
    fn queue_missed_sticky_events(
        &self,
        destination: &Destination,
        room: RoomNum,
        first: Position,
    ) {
        if self.rooms.federation.has_own_sticky_events(room) {
            let mut state = destination.lock();
            state.queue_sticky_events(room, first.previous());
        }
    }

    /// Returns the next events of a room for a server, and the position up to which they are complete. If the server
    /// missed more than `max_missed` events, these are only the newest. A server that has left the room gets all remaining
    /// events: they are about its own users, and no later event would replace them.
    async fn gather_room_pdus(
        &self,
        destination: &Destination,
        room: RoomNum,
        unsent: UnsentEvents,
        limits: RoomEventLimits,
    ) -> Result<(Vec<OutgoingEvent>, Position)> {
        let server = &destination.server;
        let left = limits.left;
        let max_missed = match limits.max_missed {
            Some(max) if self.rooms.federation.has_server(room, server).await? => Some(max),
            _ => None,
        };
        let enough = max_missed.map_or(left, |max| max.max(left));
        let (mut events, mut next, mut pages) = (Vec::new(), Some(unsent.first), 0);
        while let Some(from) = next
            && events.len() <= enough
            && pages < MAX_TIMELINE_PAGES
        {
            let page = self
                .rooms
                .federation
                .outgoing_room_events(room, from, server)
                .await?;
            events.extend(page.events);
            next = page.next.filter(|next| *next <= unsent.last);
            pages += 1;
        }
        // Events that were added since then have their own turn.
        events.retain(|event| event.position <= unsent.last);
        let is_too_much = |max| events.len() > max || (next.is_some() && events.len() <= enough);
        if max_missed.is_some_and(is_too_much) {
            let missed = unsent.first..=unsent.last;
            let mut newest = self
                .rooms
                .federation
                .newest_outgoing_events(room, missed, server)
                .await?;
            if newest.len() > left && left < MAX_PDUS {
                // They are sent together, in the next transaction.
                return Ok((Vec::new(), unsent.first.previous()));
            }
            newest.truncate(left);
            if !newest.is_empty() {
                self.queue_missed_sticky_events(destination, room, unsent.first);
                return Ok((newest, unsent.last));
            }
        }
        let is_cut = events.len() > left;
        events.truncate(left);
        let through = match (is_cut, next) {
            (true, _) => events.last().map_or(unsent.last, |event| event.position),
            // The position up to which the timeline was searched.
            (false, Some(next)) => next.previous(),
            (false, None) => unsent.last,
        };
        Ok((events, through))
    }
}
