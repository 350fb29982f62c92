//! Reading the new events of all rooms, for services that handle each event once.

use std::sync::Arc;

use ruma::OwnedUserId;
use serde_json::value::RawValue;

use super::Timeline;
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu, TimelineEvent, UnsignedFields},
    numbers::{Position, PositionRange, RoomNum, UserNum},
    rooms::memory::{room::Room, stored_events::parse_event_id},
    storage::rooms::{
        events,
        memberships::{self, RemoteInvitationRow},
    },
};

/// The most events on a page.
const EVENTS_PER_PAGE: i64 = 200;

/// An event that was added to the timeline of a room.
#[derive(Clone)]
pub struct NewEvent {
    pub room: Arc<Room>,
    pub event: Arc<TimelineEvent>,
}

/// New events, in the order in which they were added.
#[derive(Clone)]
pub struct NewEventPage {
    pub events: Vec<NewEvent>,
    /// The position up to which the page has every event.
    pub up_to: Position,
}

/// A new invitation of a local user to a room that this server is not in.
#[derive(Clone, Debug)]
pub struct RemoteInvitation {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    pub sender: OwnedUserId,
    pub room: RoomNum,
    /// The journal position.
    pub position: Position,
    /// The member event in the client format, with the stripped state of the room in `unsigned`.
    pub event: Box<RawValue>,
}

impl Timeline {
    /// Returns the invitations to rooms that this server is not in, that arrived in a range of positions and are still
    /// open.
    pub async fn load_remote_invitations(
        &self,
        range: PositionRange,
    ) -> Result<Vec<RemoteInvitation>> {
        let rows = {
            let mut conn = self.db.read().await?;
            memberships::remote_invitations_between(&mut conn, range).await?
        };
        let mut invitations = Vec::with_capacity(rows.len());
        for row in rows {
            let room = match self.memory.room_by_number(row.room).await {
                Ok(room) => room,
                Err(Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            invitations.extend(remote_invitation(&room, &row)?);
        }
        Ok(invitations)
    }

    /// Returns the first of the events that were added to any room in a range of positions, without those of fetched
    /// history and of deleted rooms.
    pub async fn load_new_events(&self, range: PositionRange) -> Result<NewEventPage> {
        let rows = {
            let mut conn = self.db.read().await?;
            events::added_between(&mut conn, range, EVENTS_PER_PAGE).await?
        };
        let is_last = i64::try_from(rows.len()).unwrap_or(0) < EVENTS_PER_PAGE;
        let last = rows.last().map(|row| row.position);
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let room = match self.memory.room_by_number(row.room).await {
                Ok(room) => room,
                Err(Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let event = self.load_event_from_row(&room, row).await?;
            events.push(NewEvent { room, event });
        }
        Ok(NewEventPage {
            events,
            up_to: last.filter(|_| !is_last).unwrap_or(range.up_to),
        })
    }

    /// Returns the event at a place in the timeline of a room, without checking that a user may see it.
    pub async fn load_event_at(
        &self,
        room: &Room,
        place: Position,
    ) -> Result<Option<Arc<TimelineEvent>>> {
        Ok(self.load_events_at(room, &[place]).await?.remove(&place))
    }
}

fn remote_invitation(room: &Room, row: &RemoteInvitationRow) -> Result<Option<RemoteInvitation>> {
    let pdu = Pdu::parse(parse_event_id(&row.event_id)?, &row.json)?;
    let Some(user_id) = pdu.member() else {
        return Ok(None);
    };
    let head = matrix::write_event_head(&pdu, &room.rules);
    let unsigned = UnsignedFields {
        invite_room_state: Some(&row.stripped_state),
        ..UnsignedFields::default()
    };
    Ok(Some(RemoteInvitation {
        user: row.user_num,
        user_id: user_id.to_owned(),
        sender: pdu.sender.clone(),
        room: row.room,
        position: row.position,
        event: matrix::client_event(&head, room.room_id.as_str(), &unsigned),
    }))
}
