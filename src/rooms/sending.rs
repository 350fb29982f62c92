//! What the federation sender reads of rooms: which events go out, and to which servers.
//!
//! Only what comes from here goes out: events of users of this server, and those that others gave it to send on.

use ruma::{OwnedEventId, OwnedServerName};
use serde_json::value::RawValue;

use super::Rooms;
use crate::{
    error::{Error, Result},
    matrix::Pdu,
    storage::{Position, RoomNum, graph},
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

/// A part of what goes out.
#[derive(Debug, Default)]
pub struct OutgoingPage {
    /// The events, in order.
    pub events: Vec<Outgoing>,
    /// The position up to which everything was looked at.
    pub up_to: Position,
}

/// Events looked at for one page.
const CHUNK: i64 = 500;

impl Rooms {
    /// Returns the events after a position that other servers are to be sent.
    ///
    /// A server gets what was said while it was in the room, and the event by which it left. Servers that are in the
    /// room now stand for those that were when the event was sent, unless it is known that they came after it.
    pub async fn outgoing(&self, after: Position) -> Result<OutgoingPage> {
        let up_to = self.inner.db.journal().published();
        let rows = {
            let mut conn = self.inner.db.read().await?;
            graph::after_position(&mut conn, after, up_to, CHUNK).await?
        };
        let is_all = i64::try_from(rows.len()).unwrap_or(0) < CHUNK;
        let last = rows.last().map_or(up_to, |row| row.position);
        let mut page = OutgoingPage {
            events: Vec::new(),
            up_to: if is_all { up_to } else { last },
        };
        for row in rows {
            let event_id = OwnedEventId::try_from(row.event_id)
                .map_err(|source| Error::internal("read an event id", source))?;
            let pdu = Pdu::parse(event_id, &row.json)?;
            if !self.is_local(&pdu.sender) && !row.passed_on {
                continue;
            }
            let servers = self.destinations(row.room, &pdu, row.position).await?;
            if !servers.is_empty() {
                page.events.push(Outgoing {
                    position: row.position,
                    room: row.room,
                    event_id: pdu.event_id,
                    json: RawValue::from_string(row.json)?,
                    servers,
                });
            }
        }
        Ok(page)
    }

    /// Returns the servers that an event of a room goes to: those in the room, and that of the user whom it is about.
    async fn destinations(
        &self,
        room: RoomNum,
        pdu: &Pdu,
        position: Position,
    ) -> Result<Vec<OwnedServerName>> {
        let room = self.room_by_number(room).await?;
        let (own, sender) = (self.server_name(), pdu.sender.server_name());
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
        let target = pdu.member().map(|user_id| user_id.server_name().to_owned());
        if let Some(target) = target.filter(is_other)
            && !servers.contains(&target)
        {
            servers.push(target);
        }
        Ok(servers)
    }
}
