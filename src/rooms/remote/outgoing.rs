//! What the federation sender reads of rooms: which events go out, to which servers, and who came into a room.
//!
//! Only what comes from here goes out: events that were made here, and those that others gave to this server to send
//! on. By which a user of this server came into a room through another server, that one tells the others.

use std::{collections::BTreeSet, ops::RangeInclusive};

use ruma::{
    OwnedEventId, OwnedServerName, OwnedUserId, ServerName, UserId,
    events::room::member::MembershipState::{Invite, Join},
};
use serde_json::value::RawValue;

use super::FederationReader;
use crate::{
    error::{Error, Result},
    matrix::Pdu,
    rooms::Room,
    storage::{
        Position, RoomNum, UserNum,
        rooms::{
            event_graph::{self, Sent},
            events::Status,
            memberships, room_table,
        },
    },
};

/// An event that other servers are to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// Its position in the journal, from which the next ones are read.
    pub position: Position,
    /// Its room.
    pub room: RoomNum,
    /// Its id.
    pub event_id: OwnedEventId,
    /// The event as servers exchange it.
    pub json: Box<RawValue>,
    /// To which servers it goes.
    pub servers: Vec<OwnedServerName>,
}

/// Somebody came into a room, or changed how they are shown in it.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The position of the member event.
    pub position: Position,
    /// The room.
    pub room: RoomNum,
    /// Who.
    pub user_id: OwnedUserId,
}

/// A part of what goes out.
#[derive(Debug, Default)]
pub struct OutgoingPage {
    /// The events, in order.
    pub events: Vec<Outgoing>,
    /// Who came into which room meanwhile, wherever they are from.
    pub arrivals: Vec<Arrival>,
    /// The position up to which everything was looked at.
    pub up_to: Position,
    /// Whether that is all there was.
    pub is_all: bool,
}

/// A part of what goes out from one room to one server.
#[derive(Debug, Default)]
pub struct RoomPage {
    /// The events, in order.
    pub events: Vec<Outgoing>,
    /// The place from which on the next part is read; `None` after the last.
    pub next: Option<Position>,
}

/// Events looked at for one page.
const CHUNK: i64 = 500;
/// Events of one room added to a sync response for one page.
const OF_ROOM: i64 = 200;
/// Members who are read at once.
const MEMBERS: i64 = 5_000;

impl FederationReader {
    /// Returns the events after a position that other servers are to be sent.
    ///
    /// A server gets what was said while it was in the room, and the event by which it left. Servers that are in the
    /// room now stand for those that were when the event was sent, unless it is known that they came after it.
    pub async fn outgoing(&self, after: Position) -> Result<OutgoingPage> {
        // Whoever was woken by a commit that is still being told is to find it.
        let up_to = {
            let journal = self.db.journal();
            let _still = journal.still();
            journal.published()
        };
        let rows = {
            let mut conn = self.db.read().await?;
            event_graph::after_position(&mut conn, after, up_to, CHUNK).await?
        };
        let is_all = i64::try_from(rows.len()).unwrap_or(0) < CHUNK;
        let last = rows.last().map_or(up_to, |row| row.position);
        let mut page = OutgoingPage {
            up_to: if is_all { up_to } else { last },
            is_all,
            ..OutgoingPage::default()
        };
        for row in rows {
            let (position, room, goes_out) = (row.position, row.room, row.goes_out);
            let (pdu, json) = parse(row)?;
            if pdu.membership() == Some(Join)
                && let Some(user_id) = pdu.member()
            {
                page.arrivals.push(Arrival {
                    position,
                    room,
                    user_id: user_id.to_owned(),
                });
            }
            if !goes_out {
                continue;
            }
            let servers = match self.memory.room_by_number(room).await {
                // It was deleted.
                Err(Error::NotFound(_)) => continue,
                room => self.destinations(&*room?, &pdu, position),
            };
            if !servers.is_empty() {
                page.events.push(Outgoing {
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

    /// Returns the events of a room from a place on that a server is to be sent.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room is gone.
    pub async fn outgoing_of_room(
        &self,
        room: RoomNum,
        from: Position,
        server: &ServerName,
    ) -> Result<RoomPage> {
        let room = self.memory.room_by_number(room).await?;
        let rows = {
            let mut conn = self.db.read().await?;
            event_graph::of_room_from(&mut conn, room.num, from, OF_ROOM).await?
        };
        let is_all = i64::try_from(rows.len()).unwrap_or(0) < OF_ROOM;
        let last = rows.last().map_or(from, |row| row.position);
        let mut page = RoomPage {
            events: Vec::new(),
            next: (!is_all).then_some(last + 1),
        };
        let mut eraser = self.eraser(server);
        for row in rows {
            if let Some(mut event) = self.for_server(&room, row, server)? {
                event.json = eraser.apply(&event.event_id, event.json).await?;
                page.events.push(event);
            }
        }
        Ok(page)
    }

    /// Returns the newest events of a room, for a server that missed more than it is sent one by one: those on which
    /// the next event will build, or else the newest of the places missed that it is to be sent. Only the newest of
    /// these places are looked at: there may be others where nothing is returned.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room is gone.
    pub async fn newest_outgoing(
        &self,
        room: RoomNum,
        missed: RangeInclusive<Position>,
        server: &ServerName,
    ) -> Result<Vec<Outgoing>> {
        let room = self.memory.room_by_number(room).await?;
        let mut eraser = self.eraser(server);
        let mut conn = self.db.read().await?;
        if room.view().servers.contains_key(server) {
            let row = room_table::get(&mut conn, room.num).await?;
            let row = row.ok_or_else(|| Error::not_found("the room is gone"))?;
            let ids: Vec<String> = serde_json::from_str(&row.forward_extremities)?;
            let nodes = event_graph::nodes(&mut conn, &ids).await?;
            let mut newest = Vec::new();
            for node in nodes {
                let (status, place) = (node.status(), node.timeline.unwrap_or(node.position));
                let (pdu, json) = parse(Sent {
                    position: place,
                    room: node.room,
                    event_id: node.event_id,
                    goes_out: true,
                    json: node.json,
                })?;
                if status == Status::Accepted && pdu.sender.server_name() != server {
                    let json = eraser.apply(&pdu.event_id, json).await?;
                    newest.push(outgoing(&room, (place, pdu.event_id, json), server));
                }
            }
            if !newest.is_empty() {
                return Ok(newest);
            }
        }
        let rows = event_graph::newest_of_room(&mut conn, room.num, missed, OF_ROOM).await?;
        drop(conn);
        for row in rows {
            if let Some(mut event) = self.for_server(&room, row, server)? {
                event.json = eraser.apply(&event.event_id, event.json).await?;
                return Ok(vec![event]);
            }
        }
        Ok(Vec::new())
    }

    /// Returns whether a server is in a room.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room is gone.
    pub async fn has_server(&self, room: RoomNum, server: &ServerName) -> Result<bool> {
        let room = self.memory.room_by_number(room).await?;
        Ok(room.view().servers.contains_key(server))
    }

    /// Returns the other servers in a room.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the room is gone.
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
    pub async fn servers_with(&self, user: UserNum) -> Result<BTreeSet<OwnedServerName>> {
        let mut servers = BTreeSet::new();
        for room in self.memory.of_user(user).await?.joined() {
            match self.other_servers(room).await {
                // It was deleted meanwhile.
                Err(Error::NotFound(_)) => {}
                others => servers.extend(others?),
            }
        }
        Ok(servers)
    }

    /// Returns the other servers with which users of this one share rooms.
    pub async fn servers_with_us(&self) -> Result<BTreeSet<OwnedServerName>> {
        let (mut servers, mut after) = (BTreeSet::new(), 0);
        loop {
            let page = {
                let mut conn = self.db.read().await?;
                memberships::with_us(&mut conn, after, MEMBERS).await?
            };
            let Some((last, _)) = page.last() else {
                return Ok(servers);
            };
            after = *last;
            for (_, user_id) in &page {
                if let Ok(user_id) = <&UserId>::try_from(user_id.as_str())
                    && !self.memory.is_local(user_id)
                    && !servers.contains(user_id.server_name())
                {
                    servers.insert(user_id.server_name().to_owned());
                }
            }
        }
    }

    /// Returns an event as it goes out to a server, if it does.
    fn for_server(&self, room: &Room, row: Sent, server: &ServerName) -> Result<Option<Outgoing>> {
        if !row.goes_out {
            return Ok(None);
        }
        let position = row.position;
        let (pdu, json) = parse(row)?;
        let servers = self.destinations(room, &pdu, position);
        let is_meant = servers.iter().any(|it| it == server);
        Ok(is_meant.then(|| outgoing(room, (position, pdu.event_id, json), server)))
    }

    /// Returns the servers that an event of a room goes to: those in the room, and that of the user whom it is about.
    ///
    /// An invitation to a user of a server outside the room has gone there by `/invite`: such a server cannot check an
    /// event in a transaction.
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

fn outgoing(
    room: &Room,
    (position, event_id, json): (Position, OwnedEventId, Box<RawValue>),
    server: &ServerName,
) -> Outgoing {
    Outgoing {
        position,
        room: room.num,
        event_id,
        json,
        servers: vec![server.to_owned()],
    }
}

fn parse(row: Sent) -> Result<(Pdu, Box<RawValue>)> {
    let event_id = OwnedEventId::try_from(row.event_id)
        .map_err(|source| Error::internal("read an event id", source))?;
    let pdu = Pdu::parse(event_id, &row.json)?;
    Ok((pdu, RawValue::from_string(row.json)?))
}
