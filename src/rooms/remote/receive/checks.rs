//! Checks events against the authorisation rules, using the known state of their room.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
};

use super::{
    forks,
    verdict::{
        CheckedEvent, EventCheck, EventVerdict, IncomingEvent, LookupDepth, PrevEventStates,
        ReceiveHints, SoftFailureCheck,
    },
};
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu, StateMap},
    numbers::{Position, SnapshotId},
    rooms::{
        log::{resolution::pdu_from_node, snapshots::SnapshotBase},
        memory::{
            room::{Room, RoomTip},
            stored_events::parse_event_id,
        },
        remote::EventReceiver,
    },
    storage::rooms::{
        event_graph::{self, EventNode},
        events::EventStatus,
        timeline_gaps,
    },
};

/// The stored events among those that an event names.
struct StoredNamedEvents {
    own_node: Option<EventNode>,
    nodes: BTreeMap<OwnedEventId, EventNode>,
    auth_events: Vec<Arc<Pdu>>,
}

impl EventReceiver {
    /// Checks an event by the authorisation rules.
    pub(crate) async fn check_event(
        &self,
        room: &Room,
        tip: &RoomTip,
        incoming: IncomingEvent<'_>,
        depth: LookupDepth,
    ) -> Result<EventCheck> {
        let (pdu, hints) = (incoming.event.pdu(), incoming.hints);
        if pdu.room_id != room.room_id {
            return Err(Error::BadJson(
                "the event belongs to another room".to_owned(),
            ));
        }
        let known = tip.recent_events.get(&pdu.event_id);
        if known.is_some_and(|known| is_final(known.status, hints)) {
            return Ok(EventCheck::Known);
        }
        if depth == LookupDepth::TipOnly
            && known.is_none()
            && hints.state_before.is_none()
            && let Some(checked) = check_at_tip(room, tip, pdu, hints)
        {
            return Ok(EventCheck::Checked(checked.into()));
        }
        self.check_with_named_events(room, tip, incoming).await
    }

    async fn check_with_named_events(
        &self,
        room: &Room,
        tip: &RoomTip,
        incoming: IncomingEvent<'_>,
    ) -> Result<EventCheck> {
        let (pdu, hints) = (incoming.event.pdu(), incoming.hints);
        self.memory.wait_until_stored(room).await?;
        let named = self.load_named_events(room, tip, pdu).await?;
        let is_decided = |node: &EventNode| node.state.is_some() && is_final(node.status(), hints);
        if named.own_node.as_ref().is_some_and(is_decided) {
            return Ok(EventCheck::Known);
        }
        let auth = missing_auth_events(pdu, &named);
        let followed = self.load_prev_events(tip, pdu, &named).await?;
        let prev = if hints.state_before.is_some() {
            Vec::new()
        } else {
            followed.missing.clone()
        };
        if !prev.is_empty() || (!auth.is_empty() && !hints.auth_events_are_lost) {
            return Ok(EventCheck::Missing { prev, auth });
        }
        let refused = match auth.first() {
            Some(lost) => Some(format!("the auth event {lost} cannot be fetched")),
            None => refusal_reason(matrix::authorize_by_auth_events(
                pdu,
                &room.rules,
                &named.auth_events,
            ))?,
        };
        let refused = refused.or_else(|| refuse_second_create(tip, pdu));
        let gap = self.find_gap_of_event(room, pdu).await?;
        let mut checked = match refused {
            // 4. Passes authorisation rules based on the event's auth events, otherwise it is rejected.
            Some(reason) => rejected_event(&followed, reason),
            None => {
                self.check_against_state_before(room, tip, incoming, &followed)
                    .await?
            }
        };
        checked.gap = gap;
        // The current state says nothing about old events.
        if gap.is_none() && matches!(checked.verdict, EventVerdict::Accepted) {
            // 6. Passes authorisation rules based on the current state of the room, otherwise it is "soft failed".
            checked.verdict = check_against_current_state(room, tip, pdu, hints)?;
        }
        if gap.is_none() && matches!(checked.verdict, EventVerdict::Accepted) {
            let others = self.find_other_extremities(tip, pdu, &followed).await?;
            checked.fork = self.plan_fork(room, pdu, &checked, others).await?;
            if checked.fork.is_none() {
                let reason = "the room has too many forward extremities";
                checked.verdict = EventVerdict::SoftFailed(reason.to_owned());
            }
        }
        if let Some(own) = named.own_node {
            let status = checked.verdict.status();
            checked.is_unchanged = status != EventStatus::Accepted && own.status() == status;
            checked.stored_at = Some(own.position);
        }
        Ok(EventCheck::Checked(checked.into()))
    }

    async fn check_against_state_before(
        &self,
        room: &Room,
        tip: &RoomTip,
        incoming: IncomingEvent<'_>,
        followed: &PrevEventStates,
    ) -> Result<CheckedEvent> {
        let (pdu, hints) = (incoming.event.pdu(), incoming.hints);
        let missing = followed.missing.clone();
        let (base, before) = match &hints.state_before {
            Some(ids) => {
                let state = self.load_given_state(room, ids).await?;
                (
                    SnapshotBase::from_change(tip.snapshot, &tip.state, &state),
                    state,
                )
            }
            None => self.state_before(room, tip, pdu, followed).await?,
        };
        let mut checked = CheckedEvent {
            base,
            state_before: before,
            missing_prev: missing,
            ..CheckedEvent::at_tip(tip, EventVerdict::Accepted)
        };
        // 5. Passes authorisation rules based on the state before the event, otherwise it is rejected.
        if let Some(reason) =
            refusal_reason(matrix::authorize(pdu, &room.rules, &checked.state_before))?
        {
            checked.verdict = EventVerdict::Rejected(reason);
        }
        Ok(checked)
    }

    async fn load_named_events(
        &self,
        room: &Room,
        tip: &RoomTip,
        pdu: &Pdu,
    ) -> Result<StoredNamedEvents> {
        let create = tip.state.get(&StateEventType::RoomCreate, "").cloned();
        let mut ids: BTreeSet<&EventId> = BTreeSet::from([&*pdu.event_id]);
        ids.extend(pdu.auth_events.iter().map(|id| &**id));
        let prev_events = pdu.prev_events.iter().map(|id| &**id);
        ids.extend(prev_events.filter(|id| tip.recent_events.get(id).is_none()));
        let nodes = {
            let mut conn = self.db.read().await?;
            event_graph::find_nodes(&mut conn, ids.iter().map(|id| id.as_str())).await?
        };
        let mut named = StoredNamedEvents {
            own_node: None,
            nodes: BTreeMap::new(),
            auth_events: create.into_iter().collect(),
        };
        for node in nodes {
            if node.room != room.num && node.event_id == pdu.event_id.as_str() {
                // This happens in room versions 1 and 2, where the sender chooses the id.
                return Err(Error::forbidden("an event of another room has the same id"));
            }
            if node.room != room.num {
                // An event of another room counts as missing.
                continue;
            }
            let id = parse_event_id(&node.event_id)?;
            if pdu.auth_events.contains(&id) {
                named.auth_events.push(pdu_from_node(&node)?);
            }
            if id == pdu.event_id {
                named.own_node = Some(node);
            } else {
                named.nodes.insert(id, node);
            }
        }
        Ok(named)
    }

    /// Returns the known states after the events that an event follows.
    async fn load_prev_events(
        &self,
        tip: &RoomTip,
        pdu: &Pdu,
        named: &StoredNamedEvents,
    ) -> Result<PrevEventStates> {
        let mut followed = PrevEventStates::default();
        let mut seen = HashSet::new();
        for id in pdu.prev_events.iter().filter(|id| seen.insert(*id)) {
            if let Some(after) = tip.recent_events.get(id) {
                followed.known.push(after.clone());
                continue;
            }
            let after = named.nodes.get(id);
            match after.and_then(|node| Some((node.state_after?, node))) {
                Some((snapshot, node)) => {
                    followed
                        .known
                        .push(self.state_after_node(tip, snapshot, node).await?);
                }
                None => followed.missing.push(id.clone()),
            }
        }
        Ok(followed)
    }

    /// Returns the state that another server sent. If two events have the same type and state key,
    /// the later one counts.
    async fn load_given_state(&self, room: &Room, ids: &[OwnedEventId]) -> Result<StateMap> {
        let mut events: HashMap<OwnedEventId, Arc<Pdu>> = HashMap::with_capacity(ids.len());
        for pdu in self.log.load_auth_chain_events(ids).await? {
            events.insert(pdu.event_id.clone(), pdu);
        }
        let mut state = StateMap::default();
        for id in ids {
            let pdu = events.get(id).ok_or_else(|| {
                Error::not_found("not all of the state before the event is known")
            })?;
            if pdu.room_id == room.room_id && !pdu.rejected && pdu.state_key.is_some() {
                state.insert(pdu.clone());
            }
        }
        Ok(state)
    }

    async fn find_gap_of_event(&self, room: &Room, pdu: &Pdu) -> Result<Option<Position>> {
        let mut conn = self.db.read().await?;
        let gaps =
            timeline_gaps::missing_among(&mut conn, room.num, [pdu.event_id.as_str()]).await?;
        Ok(gaps.first().map(|gap| gap.timeline))
    }
}

/// Checks an event in memory, if it follows the tip and all its auth events are in the current
/// state.
fn check_at_tip(
    room: &Room,
    tip: &RoomTip,
    pdu: &Pdu,
    hints: &ReceiveHints,
) -> Option<CheckedEvent> {
    if !forks::is_same_set(&pdu.prev_events, &tip.forward_extremities)
        || pdu.kind == TimelineEventType::RoomCreate
    {
        return None;
    }
    let types = matrix::auth_types(pdu, &room.rules).ok()?;
    let mut auth_events: Vec<Arc<Pdu>> = types
        .iter()
        .filter_map(|(kind, key)| tip.state.get(kind, key).cloned())
        .collect();
    let is_known = |id: &OwnedEventId| auth_events.iter().any(|event| event.event_id == *id);
    if !pdu.auth_events.iter().all(is_known) {
        return None;
    }
    auth_events.extend(tip.state.get(&StateEventType::RoomCreate, "").cloned());
    let by_auth_events = matrix::authorize_by_auth_events(pdu, &room.rules, &auth_events);
    let authorized = by_auth_events.and_then(|()| matrix::authorize(pdu, &room.rules, &tip.state));
    let verdict = match refusal_reason(authorized).ok()? {
        Some(reason) => EventVerdict::Rejected(reason),
        // The state before it is the current state, so only the policy server can make it
        // soft-fail.
        None => check_against_current_state(room, tip, pdu, hints).ok()?,
    };
    Some(CheckedEvent::at_tip(tip, verdict))
}

fn check_against_current_state(
    room: &Room,
    tip: &RoomTip,
    pdu: &Pdu,
    hints: &ReceiveHints,
) -> Result<EventVerdict> {
    if let Some(reason) = refusal_reason(matrix::authorize(pdu, &room.rules, &tip.state))? {
        return Ok(EventVerdict::SoftFailed(reason));
    }
    // 7. Is validated by the Policy Server, if the room is using a Policy Server, otherwise it is "soft failed".
    Ok(if hints.soft_failure == SoftFailureCheck::NotRecommended {
        EventVerdict::SoftFailed(
            "the policy server of the room does not recommend the event".to_owned(),
        )
    } else {
        EventVerdict::Accepted
    })
}

/// Returns the reason if the rules refuse an event; passes other errors on.
fn refusal_reason(authorized: Result<()>) -> Result<Option<String>> {
    match authorized {
        Ok(()) => Ok(None),
        Err(Error::Forbidden(reason) | Error::BadJson(reason)) => Ok(Some(reason)),
        Err(error) => Err(error),
    }
}

/// Returns a reason to refuse a second create event in a room.
fn refuse_second_create(tip: &RoomTip, pdu: &Pdu) -> Option<String> {
    let first = tip.state.get(&StateEventType::RoomCreate, "");
    let is_other = first.is_none_or(|first| first.event_id != pdu.event_id);
    (is_other && pdu.kind == TimelineEventType::RoomCreate)
        .then(|| "the room already has a create event".to_owned())
}

/// Builds the result for a rejected event. Such an event changes no state: the events that follow
/// it have the same state before them.
fn rejected_event(followed: &PrevEventStates, reason: String) -> CheckedEvent {
    let verdict = EventVerdict::Rejected(reason);
    let mut afters = followed.known.iter();
    let only = match (afters.next(), followed.missing.is_empty()) {
        (Some(first), true) if afters.all(|after| after.snapshot == first.snapshot) => Some(first),
        _ => None,
    };
    let snapshot = only.map_or(SnapshotId::EMPTY, |after| after.snapshot);
    CheckedEvent {
        base: SnapshotBase::Stored(snapshot),
        state_before: only.map(|after| after.state.clone()).unwrap_or_default(),
        ..CheckedEvent::at_tip(&RoomTip::default(), verdict)
    }
}

/// Returns whether the verdict about an event is final: it was not rejected, and if it was soft-failed, it is not
/// checked again on purpose.
fn is_final(status: EventStatus, hints: &ReceiveHints) -> bool {
    match status {
        EventStatus::Accepted => true,
        EventStatus::SoftFailed => hints.soft_failure != SoftFailureCheck::Again,
        EventStatus::Rejected => false,
    }
}

fn missing_auth_events(pdu: &Pdu, named: &StoredNamedEvents) -> Vec<OwnedEventId> {
    let is_known = |id: &&OwnedEventId| {
        let mut known = named.auth_events.iter();
        known.any(|event| event.event_id == **id)
    };
    let missing = pdu.auth_events.iter().filter(|id| !is_known(id));
    missing.cloned().collect()
}
