//! Reads events for the federation sender: the events to send, their destinations, and the members
//! who joined a room.
//!
//! This server sends only the events that it made, and those that other servers gave to it to send
//! on. A user's join through another server is sent to the others by that server.

use std::{collections::BTreeSet, ops::RangeInclusive};

use ruma::{
    OwnedEventId, OwnedServerName, OwnedUserId, ServerName, UserId,
    events::room::member::MembershipState::{Invite, Join},
};
use serde_json::value::RawValue;

use super::{FederationReader, erased_users::ErasedUserRedactor};
use crate::{
    error::{Error, Result},
    matrix::Pdu,
    numbers::{Position, RoomNum, UserNum},
    rooms::{Room, memory::stored_events::parse_event_id},
    storage::rooms::{
        event_graph::{self, SendableEvent},
        events::EventStatus,
        memberships, room_table,
    },
};

/// An event to send to other servers.
#[derive(Debug)]
pub struct OutgoingEvent {
    /// Its position in the journal; the next page starts after it.
    pub position: Position,
    pub room: RoomNum,
    pub event_id: OwnedEventId,
    /// The event in federation format.
    pub json: Box<RawValue>,
    /// The servers to send it to.
    pub servers: Vec<OwnedServerName>,
}

/// A user who joined a room, or changed their profile in it.
#[derive(Clone, Debug)]
pub struct JoinedMember {
    /// The position of the member event.
    pub position: Position,
    pub room: RoomNum,
    /// The user.
    pub user_id: OwnedUserId,
}

/// A page of outgoing events.
#[derive(Debug, Default)]
pub struct OutgoingPage {
    /// The events, in order.
    pub events: Vec<OutgoingEvent>,
    /// The members who joined rooms meanwhile, from any server.
    pub joined_members: Vec<JoinedMember>,
    /// The position up to which all events were read.
    pub up_to: Position,
    /// Whether there are no more events.
    pub is_last: bool,
}

/// A page of the outgoing events of one room to one server.
#[derive(Debug, Default)]
pub struct OutgoingRoomPage {
    /// The events, in order.
    pub events: Vec<OutgoingEvent>,
    /// The position at which the next page starts; `None` after the last page.
    pub next: Option<Position>,
}

/// The number of events read for one page.
const EVENTS_PER_PAGE: i64 = 500;
/// The number of events of one room read for one page.
const ROOM_EVENTS_PER_PAGE: i64 = 200;
/// The number of members in one query.
const MEMBERS_PER_QUERY: i64 = 5_000;

impl FederationReader {
    /// Returns the events after a position that are to be sent to other servers.
    ///
    /// A server receives the events sent while it was in the room, and the event by which it left.
    /// The servers that are in the room now count as the servers at the time of the event, except
    /// those known to have joined after it.
    pub async fn outgoing_events(&self, after: Position) -> Result<OutgoingPage> {
        // A caller woken by a commit must find it, even while the commit is still being published.
        let up_to = {
            let journal = self.db.journal();
            let _hold = journal.hold_announcements();
            journal.published_position()
        };
        let rows = {
            let mut conn = self.db.read().await?;
            event_graph::events_after_position(&mut conn, after, up_to, EVENTS_PER_PAGE).await?
        };
        let is_all = i64::try_from(rows.len()).unwrap_or(0) < EVENTS_PER_PAGE;
        let last = rows.last().map_or(up_to, |row| row.position);
        let mut page = OutgoingPage {
            up_to: if is_all { up_to } else { last },
            is_last: is_all,
            ..OutgoingPage::default()
        };
        for row in rows {
            let (position, room, goes_out) = (row.position, row.room, row.goes_out);
            let (pdu, json) = parse_sent_event(row)?;
            if pdu.membership() == Some(Join)
                && let Some(user_id) = pdu.member()
            {
                page.joined_members.push(JoinedMember {
                    position,
                    room,
                    user_id: user_id.to_owned(),
                });
            }
            if !goes_out {
                continue;
            }
            let servers = match self.memory.room_by_number(room).await {
                // The room was deleted.
                Err(Error::NotFound(_)) => continue,
                room => self.destinations(&*room?, &pdu, position),
            };
            if !servers.is_empty() {
                page.events.push(OutgoingEvent {
                    position,
                    room,
                    event_id: pdu.event_id,
                    json,
                    servers,
                });
            }
        }
        Ok(page)
    }

    /// Returns the events of a room from a position on that are to be sent to a server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room was deleted.
    pub async fn outgoing_room_events(
        &self,
        room: RoomNum,
        from: Position,
        server: &ServerName,
    ) -> Result<OutgoingRoomPage> {
        let room = self.memory.room_by_number(room).await?;
        let rows = {
            let mut conn = self.db.read().await?;
            event_graph::events_of_room_from(&mut conn, room.num, from, ROOM_EVENTS_PER_PAGE)
                .await?
        };
        let is_all = i64::try_from(rows.len()).unwrap_or(0) < ROOM_EVENTS_PER_PAGE;
        let last = rows.last().map_or(from, |row| row.position);
        let mut page = OutgoingRoomPage {
            events: Vec::new(),
            next: (!is_all).then_some(last.next()),
        };
        let mut redactor = self.erased_user_redactor(server);
        for row in rows {
            if let Some(mut event) = self.outgoing_event_for(&room, row, server)? {
                event.json = redactor
                    .redact_if_erased(&event.event_id, event.json)
                    .await?;
                page.events.push(event);
            }
        }
        Ok(page)
    }

    /// Returns the newest events of a room, for a server that missed too many events to be sent
    /// each of them: the forward extremities of the room, or else the newest of the missed events
    /// that are for this server. Reads only the newest of the missed positions: the result can be
    /// empty although older events were missed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room was deleted.
    pub async fn newest_outgoing_events(
        &self,
        room: RoomNum,
        missed: RangeInclusive<Position>,
        server: &ServerName,
    ) -> Result<Vec<OutgoingEvent>> {
        let room = self.memory.room_by_number(room).await?;
        let mut redactor = self.erased_user_redactor(server);
        if room.view().servers.contains_key(server) {
            let newest = self
                .outgoing_extremities(&room, server, &mut redactor)
                .await?;
            if !newest.is_empty() {
                return Ok(newest);
            }
        }
        let rows = {
            let mut conn = self.db.read().await?;
            event_graph::newest_events_of_room(&mut conn, room.num, missed, ROOM_EVENTS_PER_PAGE)
                .await?
        };
        for row in rows {
            if let Some(mut event) = self.outgoing_event_for(&room, row, server)? {
                event.json = redactor
                    .redact_if_erased(&event.event_id, event.json)
                    .await?;
                return Ok(vec![event]);
            }
        }
        Ok(Vec::new())
    }

    /// Returns the accepted forward extremities of a room, other than the server's own events.
    async fn outgoing_extremities(
        &self,
        room: &Room,
        server: &ServerName,
        redactor: &mut ErasedUserRedactor<'_>,
    ) -> Result<Vec<OutgoingEvent>> {
        let nodes = {
            let mut conn = self.db.read().await?;
            let row = room_table::get(&mut conn, room.num).await?;
            let row = row.ok_or_else(|| Error::not_found("the room was deleted"))?;
            let ids: Vec<String> = serde_json::from_str(&row.forward_extremities)?;
            event_graph::find_nodes(&mut conn, &ids).await?
        };
        let mut extremities = Vec::new();
        for node in nodes {
            let (status, place) = (node.status(), node.timeline.unwrap_or(node.position));
            let (pdu, json) = parse_sent_event(SendableEvent {
                position: place,
                room: node.room,
                event_id: node.event_id,
                goes_out: true,
                json: node.json,
            })?;
            if status == EventStatus::Accepted && pdu.sender.server_name() != server {
                let json = redactor.redact_if_erased(&pdu.event_id, json).await?;
                extremities.push(outgoing_event(room, place, pdu.event_id, json, server));
            }
        }
        Ok(extremities)
    }

    /// Returns whether a server is in a room.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room was deleted.
    pub async fn has_server(&self, room: RoomNum, server: &ServerName) -> Result<bool> {
        let room = self.memory.room_by_number(room).await?;
        Ok(room.view().servers.contains_key(server))
    }

    /// Returns the other servers in a room.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room was deleted.
    pub async fn other_servers(&self, room: RoomNum) -> Result<Vec<OwnedServerName>> {
        let room = self.memory.room_by_number(room).await?;
        let view = room.view();
        let others = view
            .servers
            .keys()
            .filter(|server| *server != self.memory.server_name());
        Ok(others.cloned().collect())
    }

    /// Returns the other servers with which a user shares a room.
    pub async fn servers_sharing_rooms_with(
        &self,
        user: UserNum,
    ) -> Result<BTreeSet<OwnedServerName>> {
        let mut servers = BTreeSet::new();
        for room in self.memory.rooms_of_user(user).await?.joined_rooms() {
            match self.other_servers(room).await {
                // The room was deleted meanwhile.
                Err(Error::NotFound(_)) => {}
                others => servers.extend(others?),
            }
        }
        Ok(servers)
    }

    /// Returns the other servers that share rooms with users of this server.
    pub async fn servers_sharing_rooms_with_us(&self) -> Result<BTreeSet<OwnedServerName>> {
        let (mut servers, mut after) = (BTreeSet::new(), UserNum::new(0));
        loop {
            let page = {
                let mut conn = self.db.read().await?;
                memberships::users_sharing_local_rooms(&mut conn, after, MEMBERS_PER_QUERY).await?
            };
            let Some(last) = page.last() else {
                return Ok(servers);
            };
            after = last.user_num;
            let user_ids = page
                .iter()
                .filter_map(|user| <&UserId>::try_from(user.user_id.as_str()).ok())
                .filter(|user_id| !self.memory.is_local(user_id));
            let of_page: BTreeSet<&ServerName> = user_ids.map(UserId::server_name).collect();
            servers.extend(of_page.into_iter().map(ToOwned::to_owned));
        }
    }

    /// Returns an event in the form in which it is sent to a server, or `None` if it is not for
    /// that server.
    fn outgoing_event_for(
        &self,
        room: &Room,
        row: SendableEvent,
        server: &ServerName,
    ) -> Result<Option<OutgoingEvent>> {
        if !row.goes_out {
            return Ok(None);
        }
        let position = row.position;
        let (pdu, json) = parse_sent_event(row)?;
        let servers = self.destinations(room, &pdu, position);
        let is_destination = servers.iter().any(|it| it == server);
        Ok(is_destination.then(|| outgoing_event(room, position, pdu.event_id, json, server)))
    }

    /// Returns the destinations of an event: the servers in the room, and the server of the user
    /// whose membership it changes.
    ///
    /// An invitation of a user on a server outside the room was already sent there by `/invite`:
    /// such a server cannot check an event in a transaction.
    fn destinations(&self, room: &Room, pdu: &Pdu, position: Position) -> Vec<OwnedServerName> {
        let (own, sender) = (self.memory.server_name(), pdu.sender.server_name());
        let is_other = |server: &OwnedServerName| server != own && server != sender;
        let mut servers: Vec<OwnedServerName> = {
            let view = room.view();
            let there = view
                .servers
                .iter()
                .filter(|(_, stay)| stay.since <= position);
            let servers = there.map(|(server, _)| server.clone());
            servers.filter(is_other).collect()
        };
        let is_invitation = pdu.membership() == Some(Invite);
        let target = pdu.member().filter(|_| !is_invitation);
        let target = target.map(|user_id| user_id.server_name().to_owned());
        if let Some(target) = target.filter(is_other)
            && !servers.contains(&target)
        {
            servers.push(target);
        }
        servers
    }
}

fn outgoing_event(
    room: &Room,
    position: Position,
    event_id: OwnedEventId,
    json: Box<RawValue>,
    server: &ServerName,
) -> OutgoingEvent {
    OutgoingEvent {
        position,
        room: room.num,
        event_id,
        json,
        servers: vec![server.to_owned()],
    }
}

fn parse_sent_event(row: SendableEvent) -> Result<(Pdu, Box<RawValue>)> {
    let pdu = Pdu::parse(parse_event_id(&row.event_id)?, &row.json)?;
    Ok((pdu, RawValue::from_string(row.json)?))
}
