//! The only code that stores an event.

use std::sync::Arc;

use ruma::{
    OwnedUserId,
    events::{
        StateEventType, TimelineEventType,
        room::{guest_access::GuestAccess, member::MembershipState},
    },
};
use serde_json::value::RawValue;

use super::{
    Inner,
    counts::Counting,
    invitations,
    reading::{self, Reader},
    relations::{self, Stored},
    warm::{Room, Tip, joined, put_redacted},
};
use crate::{
    error::{Error, Result},
    matrix::{self, Counters, Exception, Pdu, StateMap, TimelineEvent, Visibility},
    storage::{
        Change, DeviceNum, WriteTx,
        delayed::{self, Ending},
        events::{self, NewEvent, Status},
        memberships,
        rooms::{self, Listing},
        search, state, unread,
    },
};

/// An event that was built and authorized, with what is to be stored beside it.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) pdu: Pdu,
    pub(super) json: String,
    pub(super) counting: Counting,
    pub(super) transaction: Option<(DeviceNum, String)>,
    /// The number under which it was scheduled.
    pub(super) delayed: Option<i64>,
}

/// Where an event stands, in numbers.
struct Numbers {
    position: i64,
    kind: i64,
    sender: i64,
    state_key: Option<i64>,
}

/// Stores an event at the tip of its room and moves the tip.
///
/// Returns `None`, and changes nothing, if the device used the transaction id before.
pub(super) async fn append(
    inner: &Inner,
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut Tip,
    accepted: Accepted,
) -> Result<Option<Arc<TimelineEvent>>> {
    let numbers = intern(tx, &accepted.pdu).await?;
    let event = place(tx, room, tip, &numbers, &accepted).await?;
    if !store_event(tx, room, &numbers, &event, &accepted.json).await? {
        return Ok(None);
    }
    store_relation(tx, room, &numbers, &event).await?;
    settle_delayed(inner, tx, room, (&accepted, numbers.sender)).await?;
    advance_tip(tip, &event);
    if let Some(state_key) = numbers.state_key {
        store_state(tx, room, tip, (&numbers, state_key), &event).await?;
        if event.pdu.member().is_some() {
            store_membership(inner, tx, room, (&numbers, state_key), &event).await?;
        }
        if is_listed(&event.pdu.kind) {
            let listing = listing(&tip.state, tip.joined_members);
            rooms::set_listing(tx, room.num, &listing).await?;
        }
    }
    let extremities = serde_json::to_string(&tip.forward_extremities)?;
    rooms::advance(tx, room.num, &extremities, tip.snapshot, event.position).await?;
    if event.pdu.sender.server_name() == inner.key.server_name() {
        let reader = Reader {
            user: numbers.sender,
            room: room.num,
            position: numbers.position,
        };
        reading::read_by_sending(tx, reader, &event).await?;
    }
    unread::insert_exceptions(tx, room.num, &event.exceptions).await?;
    let event = Arc::new(event);
    tx.publish(
        numbers.position,
        Change::Event {
            room: room.num,
            sender: numbers.sender,
            event: event.clone(),
        },
    );
    if event.pdu.kind == TimelineEventType::RoomRedaction {
        redact(tx, room, tip, &event.pdu).await?;
    }
    Ok(Some(event))
}

/// Notes that a delayed event is sent, and cancels what others have scheduled for the same piece of state.
async fn settle_delayed(
    inner: &Inner,
    tx: &mut WriteTx,
    room: &Room,
    (accepted, sender): (&Accepted, i64),
) -> Result<()> {
    if !inner.schedule.is_used() {
        return Ok(());
    }
    let (pdu, now) = (&accepted.pdu, inner.clock.now_ms());
    if let Some(num) = accepted.delayed {
        let ending = Ending {
            ts: now,
            event_id: Some(pdu.event_id.as_str()),
            error: None,
        };
        if !delayed::finish(tx, num, ending).await? {
            return Err(Error::Finalised(
                "the event was sent or cancelled already".to_owned(),
            ));
        }
    }
    if let Some(state_key) = &pdu.state_key {
        let kind = pdu.kind.to_string();
        delayed::cancel_state(tx, room.num, (&kind, state_key), sender, now).await?;
    }
    Ok(())
}

async fn intern(tx: &mut WriteTx, pdu: &Pdu) -> Result<Numbers> {
    Ok(Numbers {
        position: tx.position(),
        kind: tx.intern(&pdu.kind.to_string()).await?,
        sender: tx.intern(pdu.sender.as_str()).await?,
        state_key: match &pdu.state_key {
            Some(state_key) => Some(tx.intern(state_key).await?),
            None => None,
        },
    })
}

/// Gives an event its place in the timeline.
async fn place(
    tx: &mut WriteTx,
    room: &Room,
    tip: &Tip,
    numbers: &Numbers,
    accepted: &Accepted,
) -> Result<TimelineEvent> {
    let added = Counters {
        notified: i64::from(accepted.counting.notify),
        mentioned: i64::from(accepted.counting.mention),
    };
    let thread = relations::thread_of(tx, room.num, &accepted.pdu, added).await?;
    let mut exceptions = Vec::with_capacity(accepted.counting.exceptions.len());
    for (user_id, notify, highlight) in &accepted.counting.exceptions {
        exceptions.push(Exception {
            user: tx.intern(user_id.as_str()).await?,
            timeline: numbers.position,
            thread: thread.as_ref().map(|thread| thread.root.clone()),
            notify: *notify,
            highlight: *highlight,
        });
    }
    let mut visibility = Visibility::of_state(&tip.state);
    if accepted
        .pdu
        .is_state(&TimelineEventType::RoomHistoryVisibility, "")
    {
        // Such an event may be seen by whoever could see it before or after.
        visibility = visibility.min(Visibility::of_event(&accepted.pdu));
    }
    Ok(TimelineEvent {
        position: numbers.position,
        timeline: numbers.position,
        head: matrix::head(&accepted.pdu, &room.rules),
        pdu: Arc::new(accepted.pdu.clone()),
        visibility,
        snapshot: tip.snapshot,
        state_before: Some(tip.state.clone()),
        notified: tip.notified + added.notified,
        mentioned: tip.mentioned + added.mentioned,
        threaded: tip.threaded
            + thread
                .as_ref()
                .map(|thread| thread.added)
                .unwrap_or_default(),
        thread,
        exceptions,
        device: accepted.transaction.as_ref().map(|(device, _)| *device),
        txn_id: accepted
            .transaction
            .as_ref()
            .map(|(_, txn_id)| txn_id.clone()),
        redacted_by: None,
    })
}

async fn store_event(
    tx: &mut WriteTx,
    room: &Room,
    numbers: &Numbers,
    event: &TimelineEvent,
    json: &str,
) -> Result<bool> {
    let row = NewEvent {
        position: event.position,
        room: room.num,
        event_id: event.pdu.event_id.as_str(),
        timeline: Some(event.timeline),
        kind: numbers.kind,
        state_key: numbers.state_key,
        sender: numbers.sender,
        state: Some(event.snapshot),
        visibility: event.visibility.number(),
        status: Status::Accepted,
        notified: event.notified,
        mentioned: event.mentioned,
        threaded: event.threaded,
        thread: event
            .thread
            .as_ref()
            .map(|thread| (thread.root.as_str(), thread.counters)),
        origin_server_ts: event.pdu.origin_server_ts.0.into(),
        transaction: event.device.zip(event.txn_id.as_deref()),
        json,
    };
    events::insert(tx, &row).await
}

async fn store_relation(
    tx: &mut WriteTx,
    room: &Room,
    numbers: &Numbers,
    event: &TimelineEvent,
) -> Result<()> {
    let stored = Stored {
        room: room.num,
        position: numbers.position,
        timeline: event.timeline,
        kind: numbers.kind,
        sender: numbers.sender,
    };
    relations::store(tx, stored, &event.pdu, event.thread.as_ref()).await
}

fn advance_tip(tip: &mut Tip, event: &TimelineEvent) {
    tip.forward_extremities = vec![event.pdu.event_id.clone()];
    tip.hashes = event.pdu.reference_hash.iter().cloned().collect();
    tip.depth = u64::from(event.pdu.depth);
    tip.notified = event.notified;
    tip.mentioned = event.mentioned;
    tip.threaded = event.threaded;
    if event.pdu.state_key.is_some() {
        let replaced = tip.state.insert(event.pdu.clone());
        if event.pdu.member().is_some() {
            tip.joined_members += joined(Some(&event.pdu)) - joined(replaced.as_deref());
        }
    }
}

/// Stores the snapshot after a state event: one row of its chain.
async fn store_state(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut Tip,
    (numbers, state_key): (&Numbers, i64),
    event: &TimelineEvent,
) -> Result<()> {
    let snapshot = event.position;
    if tip.chain == 0 {
        tracing::debug!(room_id = %room.room_id, "a new chain of state begins");
        tip.chain = snapshot;
        state::insert_chain(tx, snapshot, None, 0).await?;
    }
    state::insert_snapshot(tx, snapshot, tip.chain).await?;
    state::insert_entry(
        tx,
        (tip.chain, snapshot),
        numbers.kind,
        state_key,
        Some(event.position),
    )
    .await?;
    tip.snapshot = snapshot;
    Ok(())
}

async fn store_membership(
    inner: &Inner,
    tx: &mut WriteTx,
    room: &Room,
    (numbers, user): (&Numbers, i64),
    event: &TimelineEvent,
) -> Result<()> {
    let Some(membership) = event.pdu.membership() else {
        return Ok(());
    };
    let user_id = event.pdu.state_key.as_deref().unwrap_or_default();
    let user_id = OwnedUserId::try_from(user_id).map_err(|e| Error::BadJson(e.to_string()))?;
    let state = event.state_before.clone().unwrap_or_default();
    let stripped: Option<Arc<str>> = match membership {
        MembershipState::Invite | MembershipState::Knock => {
            Some(serde_json::to_string(&stripped_state(&state, &event.pdu))?.into())
        }
        _ => None,
    };
    memberships::set(
        tx,
        user,
        room.num,
        membership.as_str(),
        numbers.position,
        stripped.as_deref(),
    )
    .await?;
    invitations::note(inner, tx, (room.num, user), event).await?;
    let local = user_id.server_name() == inner.key.server_name();
    let change = Change::Membership {
        user,
        user_id,
        local,
        room: room.num,
        membership: Some(membership),
        stripped_state: stripped,
    };
    tx.publish(numbers.position, change);
    Ok(())
}

/// The state that whoever is invited may know, and the invitation itself.
///
/// [Stripped state](https://spec.matrix.org/v1.19/client-server-api/#stripped-state)
fn stripped_state(state: &StateMap, invitation: &Pdu) -> Vec<Box<RawValue>> {
    const SHOWN: [StateEventType; 7] = [
        StateEventType::RoomCreate,
        StateEventType::RoomName,
        StateEventType::RoomAvatar,
        StateEventType::RoomTopic,
        StateEventType::RoomJoinRules,
        StateEventType::RoomCanonicalAlias,
        StateEventType::RoomEncryption,
    ];
    let shown = SHOWN.iter().filter_map(|kind| state.get(kind, ""));
    let inviter = state.member(&invitation.sender);
    shown
        .chain(inviter)
        .map(|pdu| matrix::stripped(pdu))
        .chain([matrix::stripped(invitation)])
        .collect()
}

fn is_listed(kind: &TimelineEventType) -> bool {
    matches!(
        kind,
        TimelineEventType::RoomCreate
            | TimelineEventType::RoomMember
            | TimelineEventType::RoomName
            | TimelineEventType::RoomTopic
            | TimelineEventType::RoomAvatar
            | TimelineEventType::RoomCanonicalAlias
            | TimelineEventType::RoomJoinRules
            | TimelineEventType::RoomHistoryVisibility
            | TimelineEventType::RoomGuestAccess
    )
}

/// What the public directory shows of a room in this state.
pub(super) fn listing(state: &StateMap, joined_members: i64) -> Listing {
    let text = |kind: StateEventType, field: &str| {
        state
            .get(&kind, "")
            .and_then(|pdu| pdu.content_str(field))
            .filter(|text| !text.is_empty())
    };
    Listing {
        name: text(StateEventType::RoomName, "name"),
        topic: text(StateEventType::RoomTopic, "topic"),
        canonical_alias: text(StateEventType::RoomCanonicalAlias, "alias"),
        avatar_url: text(StateEventType::RoomAvatar, "url"),
        join_rule: text(StateEventType::RoomJoinRules, "join_rule")
            .unwrap_or_else(|| "invite".to_owned()),
        room_type: text(StateEventType::RoomCreate, "type"),
        world_readable: Visibility::of_state(state) == Visibility::WorldReadable,
        guest_can_join: text(StateEventType::RoomGuestAccess, "guest_access").as_deref()
            == Some(GuestAccess::CanJoin.as_str()),
        joined_members,
    }
}

/// Lets an accepted redaction take effect, if its sender may redact the event.
///
/// [Redactions](https://spec.matrix.org/v1.19/rooms/v12/#redactions)
async fn redact(tx: &mut WriteTx, room: &Room, tip: &mut Tip, redaction: &Arc<Pdu>) -> Result<()> {
    let Some(target) = &redaction.redacts else {
        return Ok(());
    };
    let Some(row) = events::get(tx, target.as_str()).await? else {
        return Ok(());
    };
    let target = Pdu::parse(target.clone(), &row.json)?;
    let levels = matrix::power_levels(&tip.state, &room.rules);
    let may = levels.user_can_redact_event_of_other(&redaction.sender)
        || target.sender.server_name() == redaction.sender.server_name();
    if row.room != room.num || !may {
        return Ok(());
    }
    let json = matrix::redact_json(&row.json, &room.rules)?;
    events::redact(
        tx,
        target.event_id.as_str(),
        &json,
        redaction.event_id.as_str(),
    )
    .await?;
    relations::redact(tx, &row, &target).await?;
    search::remove(tx, row.position).await?;
    let pdu = Arc::new(Pdu::parse(target.event_id, &json)?);
    put_redacted(&mut tip.state, &pdu);
    let redacted = TimelineEvent {
        head: matrix::head(&pdu, &room.rules),
        redacted_by: Some(redaction.clone()),
        ..super::timeline::event_of_row(row, pdu, &room.rules)
    };
    let position = tx.position();
    tx.publish(
        position,
        Change::Redacted {
            room: room.num,
            event: Arc::new(redacted),
        },
    );
    Ok(())
}
