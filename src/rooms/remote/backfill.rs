//! Stores history that arrives later: events that precede others which are already in the timeline.
//!
//! The timeline has free places for missing events. Before the oldest known event of a
//! room, the number of free places is unlimited. History is not new to clients: a sync response
//! does not include it, and memory does not hold it.
//!
//! [Backfilling](https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events)

use std::collections::{HashMap, HashSet};

use ruma::{OwnedEventId, OwnedServerName, ServerName};

use super::EventReceiver;
use crate::{
    error::{Error, Result},
    matrix::{Pdu, VerifiedEvent},
    numbers::{Position, PositionRange, RoomNum},
    rooms::{
        ReceiveHints, ReceiveOutcome,
        memory::{room::Room, stored_events::parse_event_id},
    },
    storage::rooms::{event_graph, timeline_gaps},
};

/// The largest number of missing events that are read for one list of gaps.
const MAX_GAPS_PER_QUERY: i64 = 100;
/// The largest number of events in one call.
const MAX_BACKFILL_EVENTS: usize = 500;

/// A place in a timeline before which events are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineGap {
    /// The place of the event that follows what is missing.
    pub place: Position,
    /// The missing events that this event follows.
    pub missing: Vec<OwnedEventId>,
}

/// The outcome of a backfill.
#[derive(Debug, Default)]
pub struct BackfillOutcome {
    /// The number of events that were added to the timeline.
    pub stored: usize,
    /// Events that were not stored because others are missing: the state before them is needed, or
    /// their auth events.
    pub missing: Vec<(OwnedEventId, ReceiveOutcome)>,
}

impl EventReceiver {
    /// Returns the gaps in a span of a room's timeline, the newest first.
    pub async fn find_gaps(
        &self,
        room: &Room,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<TimelineGap>> {
        let mut conn = self.db.read().await?;
        let mut found: Vec<TimelineGap> = Vec::new();
        for row in timeline_gaps::gaps_between(
            &mut conn,
            room.num,
            PositionRange { after, up_to },
            MAX_GAPS_PER_QUERY,
        )
        .await?
        {
            let event_id = parse_event_id(&row.event_id)?;
            match found.last_mut().filter(|gap| gap.place == row.timeline) {
                Some(gap) => gap.missing.push(event_id),
                None => found.push(TimelineGap {
                    place: row.timeline,
                    missing: vec![event_id],
                }),
            }
        }
        Ok(found)
    }

    /// Stores history of a room: events that precede the ones which this server has.
    ///
    /// `states` has the state before some of the events, according to the server that sent them.
    /// The others follow events that are stored here, or some of `events`. The places are assigned
    /// from the newest event to the oldest, so that each event has its own.
    pub async fn backfill(
        &self,
        room: &Room,
        origin: &ServerName,
        events: Vec<VerifiedEvent>,
        states: &HashMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<BackfillOutcome> {
        if events.len() > MAX_BACKFILL_EVENTS {
            return Err(Error::TooLarge("there are too many events".to_owned()));
        }
        let mut backfilled = BackfillOutcome::default();
        let origin = origin.to_owned();
        let order = self.plan_history_order(room.num, &events).await?;
        for event in order.into_iter().filter_map(|n| events.get(n)) {
            let id = event.pdu().event_id.clone();
            let hints = ReceiveHints {
                state_before: states.get(&id).cloned(),
                ..ReceiveHints::default()
            };
            match self
                .receive_history_event(room, &origin, event, hints)
                .await?
            {
                ReceiveOutcome::Accepted => backfilled.stored += 1,
                missing @ ReceiveOutcome::Missing { .. } => backfilled.missing.push((id, missing)),
                ReceiveOutcome::Duplicate
                | ReceiveOutcome::Rejected(_)
                | ReceiveOutcome::SoftFailed(_) => {}
            }
        }
        Ok(backfilled)
    }

    async fn receive_history_event(
        &self,
        room: &Room,
        origin: &OwnedServerName,
        event: &VerifiedEvent,
        hints: ReceiveHints,
    ) -> Result<ReceiveOutcome> {
        let (num, origin, event) = (room.num, origin.clone(), event.clone());
        let received = self
            .tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.receive_with_state(num, &origin, &event, &hints).await
            });
        Ok(received.await?.0)
    }

    /// Returns the order in which history is stored, the oldest first, and records the place of
    /// each event: as many places before the gap as there are events between.
    async fn plan_history_order(
        &self,
        room: RoomNum,
        events: &[VerifiedEvent],
    ) -> Result<Vec<usize>> {
        let mut tx = self.db.write().await?;
        let ids = events.iter().map(|event| event.pdu().event_id.as_str());
        let nodes = event_graph::find_nodes(&mut tx, ids).await?.into_iter();
        let known = nodes.filter(|node| node.timeline.is_some());
        let known: HashSet<String> = known.map(|node| node.event_id).collect();
        let ids = events.iter().map(|event| event.pdu().event_id.as_str());
        let gaps = timeline_gaps::missing_among(&mut tx, room, ids).await?;
        let mut gaps: HashMap<String, Position> = gaps
            .into_iter()
            .map(|gap| (gap.event_id, gap.timeline))
            .collect();
        let mut newest_first: Vec<(usize, &Pdu)> =
            events.iter().map(VerifiedEvent::pdu).enumerate().collect();
        newest_first.sort_by_key(|(_, pdu)| std::cmp::Reverse((pdu.depth, pdu.origin_server_ts)));
        let mut order = Vec::new();
        let mut taken: HashMap<Position, Position> = HashMap::new();
        for (n, pdu) in newest_first {
            let id = pdu.event_id.as_str();
            let Some(gap) = gaps.get(id).copied().filter(|_| !known.contains(id)) else {
                continue;
            };
            let place = taken.entry(gap).or_insert(gap);
            let own = timeline_gaps::missing_among(&mut tx, room, [id])
                .await?
                .is_empty();
            if own {
                timeline_gaps::insert(&mut tx, room, [id], *place).await?;
            }
            *place = place.previous();
            order.push(n);
            for prev in &pdu.prev_events {
                gaps.entry(prev.to_string()).or_insert(gap);
            }
        }
        tx.commit().await?;
        order.reverse();
        Ok(order)
    }
}
