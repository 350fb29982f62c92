//! Stores outliers, which have no place in the timeline: auth events, and states that another
//! server sends.

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedEventId, events::TimelineEventType, room_version_rules::RoomVersionRules};

use super::EventReceiver;
use crate::{
    error::{Error, Result},
    matrix::{self, KnownEvents, Pdu, VerifiedEvent},
    numbers::{RoomNum, StringNum, UserNum},
    rooms::memory::room::Room,
    storage::{
        WriteTx,
        rooms::{
            event_graph::{self, OutlierRow as Row},
            events::EventStatus,
        },
    },
};

/// The number of outliers stored in one transaction.
const OUTLIERS_PER_TRANSACTION: usize = 500;

/// The outcome for an event that was to be stored as an outlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutlierOutcome {
    /// Its auth events allow it.
    Accepted,
    /// Its auth events do not allow it, for this reason.
    Rejected(String),
    /// It was not stored: these auth events are neither stored nor among those that arrived with
    /// it.
    Missing(Vec<OwnedEventId>),
}

/// A checked outlier, and the status with which it is stored.
pub(crate) struct CheckedOutlier {
    pub(crate) event: VerifiedEvent,
    pub(crate) status: EventStatus,
}

/// Checked outliers, ordered so that each follows its auth events.
pub(crate) struct CheckedOutliers {
    /// The events that can be stored.
    pub(crate) events: Vec<CheckedOutlier>,
    /// The outcome for each event.
    pub(crate) outcomes: BTreeMap<OwnedEventId, OutlierOutcome>,
}

impl EventReceiver {
    /// Stores events of a room as outliers, if all their auth events are known.
    ///
    /// Does not change events that are already stored.
    pub async fn store_outliers(
        &self,
        room: &Room,
        events: Vec<VerifiedEvent>,
    ) -> Result<BTreeMap<OwnedEventId, OutlierOutcome>> {
        let create = room
            .view()
            .state
            .get(&ruma::events::StateEventType::RoomCreate, "")
            .cloned();
        let mut known = self.load_known_auth_events(room.num, &events).await?;
        known.extend(create.map(|create| (create.event_id.clone(), create)));
        let checked = check_outliers(&room.rules, events, known).await?;
        self.store_checked_outliers(room.num, &checked.events)
            .await?;
        Ok(checked.outcomes)
    }

    /// Returns the stored auth events of some events, and those of the events themselves that are
    /// already stored.
    pub(crate) async fn load_known_auth_events(
        &self,
        room: RoomNum,
        events: impl IntoIterator<Item = &VerifiedEvent>,
    ) -> Result<KnownEvents> {
        let mut ids: HashSet<OwnedEventId> = HashSet::new();
        for event in events {
            ids.insert(event.pdu().event_id.clone());
            ids.extend(event.pdu().auth_events.iter().cloned());
        }
        let ids: Vec<OwnedEventId> = ids.into_iter().collect();
        let mut known = KnownEvents::new();
        for chunk in ids.chunks(OUTLIERS_PER_TRANSACTION) {
            let nodes = {
                let mut conn = self.db.read().await?;
                event_graph::find_nodes(&mut conn, chunk.iter().map(|id| id.as_str())).await?
            };
            for node in nodes.into_iter().filter(|node| node.room == room) {
                let pdu = crate::rooms::log::resolution::pdu_from_node(&node)?;
                known.insert(pdu.event_id.clone(), pdu);
            }
        }
        Ok(known)
    }

    /// Stores outliers in several transactions: a crash between two of them does no harm, because
    /// nothing depends on them yet.
    pub(crate) async fn store_checked_outliers(
        &self,
        room: RoomNum,
        events: &[CheckedOutlier],
    ) -> Result<()> {
        for chunk in events.chunks(OUTLIERS_PER_TRANSACTION) {
            let mut tx = self.db.write().await?;
            store_outlier_chunk(&mut tx, room, chunk).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

/// Checks events by their auth events, in an order in which the auth events come first. Runs on a
/// blocking thread, because many events take long to check.
pub(crate) async fn check_outliers(
    rules: &RoomVersionRules,
    events: Vec<VerifiedEvent>,
    known: KnownEvents,
) -> Result<CheckedOutliers> {
    let rules = rules.clone();
    tokio::task::spawn_blocking(move || check_outliers_blocking(&rules, events, known))
        .await
        .map_err(|source| Error::internal("check events", source))
}

fn check_outliers_blocking(
    rules: &RoomVersionRules,
    events: Vec<VerifiedEvent>,
    mut known: KnownEvents,
) -> CheckedOutliers {
    let mut outcomes = BTreeMap::new();
    let mut accepted = Vec::with_capacity(events.len());
    for event in sort_in_auth_order(events) {
        let pdu = event.pdu();
        if let Some(stored) = known.get(&pdu.event_id) {
            let outcome = if stored.rejected {
                OutlierOutcome::Rejected("the event was rejected before".to_owned())
            } else {
                OutlierOutcome::Accepted
            };
            outcomes.insert(pdu.event_id.clone(), outcome);
            continue;
        }
        let needed = pdu
            .auth_events
            .iter()
            .cloned()
            .chain(unnamed_create_event(rules, pdu));
        let missing: Vec<OwnedEventId> = needed.filter(|id| !known.contains_key(id)).collect();
        if !missing.is_empty() {
            outcomes.insert(pdu.event_id.clone(), OutlierOutcome::Missing(missing));
            continue;
        }
        let outcome = match authorize_outlier(rules, pdu, &known) {
            Ok(()) => OutlierOutcome::Accepted,
            Err(error) => OutlierOutcome::Rejected(error.to_string()),
        };
        let mut stored = pdu.clone();
        stored.rejected = outcome != OutlierOutcome::Accepted;
        let status = if stored.rejected {
            EventStatus::Rejected
        } else {
            EventStatus::Accepted
        };
        known.insert(pdu.event_id.clone(), stored.into());
        outcomes.insert(pdu.event_id.clone(), outcome);
        accepted.push(CheckedOutlier { event, status });
    }
    CheckedOutliers {
        events: accepted,
        outcomes,
    }
}

fn authorize_outlier(rules: &RoomVersionRules, pdu: &Pdu, known: &KnownEvents) -> Result<()> {
    let needed = pdu
        .auth_events
        .iter()
        .cloned()
        .chain(unnamed_create_event(rules, pdu));
    let auth_events: Vec<_> = needed.filter_map(|id| known.get(&id).cloned()).collect();
    matrix::authorize_by_auth_events(pdu, rules, &auth_events)
}

/// Returns the create event of the room, in room versions in which events depend on it without
/// naming it.
fn unnamed_create_event(rules: &RoomVersionRules, pdu: &Pdu) -> Option<OwnedEventId> {
    let is_unnamed = rules.authorization.room_create_event_id_as_room_id
        && pdu.kind != TimelineEventType::RoomCreate;
    let id = is_unnamed.then(|| format!("${}", pdu.room_id.strip_sigil()))?;
    OwnedEventId::try_from(id).ok()
}

/// Orders events so that each comes after its auth events.
fn sort_in_auth_order(mut events: Vec<VerifiedEvent>) -> Vec<VerifiedEvent> {
    // Since version 12, no event names the create event, although all depend on it.
    events.sort_by_key(|event| event.pdu().kind != TimelineEventType::RoomCreate);
    matrix::sort_topologically(events, |pdu| &pdu.auth_events)
}

async fn store_outlier_chunk(
    tx: &mut WriteTx,
    room: RoomNum,
    events: &[CheckedOutlier],
) -> Result<()> {
    let kinds: Vec<String> = events
        .iter()
        .map(|outlier| outlier.event.pdu().kind.to_string())
        .collect();
    let mut texts: Vec<&str> = kinds.iter().map(String::as_str).collect();
    for outlier in events {
        let pdu = outlier.event.pdu();
        texts.push(pdu.sender.as_str());
        texts.extend(pdu.state_key.as_deref());
    }
    let numbers = tx.intern_all(&texts).await?;
    let number = |text: &str| numbers.get(text).copied().unwrap_or(StringNum::NONE);
    let mut rows = Vec::with_capacity(events.len());
    for (outlier, kind) in events.iter().zip(&kinds) {
        let pdu = outlier.event.pdu();
        rows.push(Row {
            position: tx.next_position(),
            room,
            event_id: pdu.event_id.as_str(),
            kind: number(kind),
            state_key: pdu.state_key.as_deref().map(number),
            sender: UserNum::of_string(number(pdu.sender.as_str())),
            status: outlier.status,
            origin_server_ts: pdu.origin_server_ts.0.into(),
            json: outlier.event.json(),
        });
    }
    event_graph::insert_outliers(tx, &rows).await
}
