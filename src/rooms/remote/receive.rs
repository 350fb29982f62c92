//! Receiving events of other servers: the checks that need the room, and where the event stands in it.
//!
//! What is missing to check an event is named in the answer; who asked fetches it and comes again.
//!
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu)

mod checks;
mod forks;
mod soft_failed;

use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName,
    events::{StateEventType, room::server_acl::RoomServerAclEventContent},
};
use serde_json::{Map, Value};
use tokio::sync::MutexGuard;

use self::checks::{Judged, Judgement, Look, Verdict};
use super::EventReceiver;
use crate::{
    error::{Error, Result},
    matrix::{StateMap, Verified},
    rooms::{
        log::append::{Accepted, Arrival, append},
        memory::room::{Room, Tip},
        unread::push_counts::Counting,
        write::send::release,
    },
    storage::{
        Intent, Pending, RoomNum, WriteTx,
        rooms::{event_graph, events::Status},
    },
};

/// How often an event is tried again because memory was wrong about the room.
const ATTEMPTS: usize = 4;

/// What became of an event of another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is in the room.
    Accepted,
    /// It is allowed where it stands, but not by the present state, for this reason: nobody is shown it.
    SoftFailed(String),
    /// It is not allowed, for this reason. It is kept, so that what rests on it is refused, too.
    Rejected(String),
    /// It was here before.
    Duplicate,
    /// Nothing yet: events are missing that it takes to say.
    Missing {
        /// Those of the events that it follows, of which this server does not know the state after them.
        prev: Vec<OwnedEventId>,
        /// Those of the events that allow it.
        auth: Vec<OwnedEventId>,
    },
}

/// An event of which it is decided what becomes of it: that lasts when it is on disk.
#[must_use = "nothing may be answered before it is durable"]
pub struct Taken {
    received: Received,
    /// Unless nothing was stored.
    pending: Option<Pending>,
}

impl Taken {
    /// Returns what becomes of the event.
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// Returns what became of the event, when that is on disk.
    ///
    /// # Errors
    ///
    /// When it could not be written.
    pub async fn durable(self) -> Result<Received> {
        if let Some(pending) = self.pending {
            pending.durable().await?;
        }
        Ok(self.received)
    }
}

impl From<Received> for Taken {
    /// What is on disk already, or leaves no trace there.
    fn from(received: Received) -> Self {
        Self {
            received,
            pending: None,
        }
    }
}

/// What another server said about an event, beside the event.
#[derive(Clone, Debug, Default)]
pub struct Help {
    /// The state before it, which has to be stored: for an event that follows one that cannot be had. Of two events
    /// for the same type and key, the latter counts.
    pub state_before: Option<Vec<OwnedEventId>>,
    /// Nobody has those of the events that allow it which are missing: it is to be rejected.
    pub auth_events_are_lost: bool,
    /// The policy server of the room does not recommend it: it is to be soft-failed.
    pub is_not_recommended: bool,
    /// It was signed for this server to send it on.
    pub(crate) is_passed_on: bool,
}

impl EventReceiver {
    /// Takes an event of another server into its room, if the rules allow it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when this server is not in the room; [`Error::Forbidden`] when the room shuts out the
    /// server that sends the event.
    pub async fn receive(
        &self,
        origin: &ServerName,
        event: Verified,
        help: Help,
    ) -> Result<Received> {
        self.take(origin, event, help).await?.durable().await
    }

    /// As [`Rooms::receive`], but does not wait for the disk: the events that follow need not, either.
    ///
    /// # Errors
    ///
    /// As [`Rooms::receive`].
    #[tracing::instrument(skip_all, fields(event_id = %event.pdu().event_id), err(level = "debug"))]
    pub async fn take(&self, origin: &ServerName, event: Verified, help: Help) -> Result<Taken> {
        let num = self.memory.number(&event.pdu().room_id).await?;
        let origin = origin.to_owned();
        let event = Arc::new(event);
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                let taken = rooms.take_now(num, &origin, &event, &help).await?;
                Ok(taken.0)
            })
            .await
    }

    /// Checks that an event that was here before was accepted then.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] where it was not.
    pub async fn check_accepted(&self, event_id: &EventId) -> Result<()> {
        let mut conn = self.db.read().await?;
        let nodes = event_graph::nodes(&mut conn, [event_id.as_str()]).await?;
        if nodes.iter().any(|node| node.status() == Status::Accepted) {
            return Ok(());
        }
        Err(Error::forbidden("the room did not allow the event before"))
    }

    /// Says that events follow in a moment, which shall come to the disk together with those that were taken.
    pub fn more_to_come(&self) -> Intent {
        self.db.journal().intent()
    }

    /// Takes an event; returns what became of it, when that is on disk, and the state before it.
    pub(crate) async fn receive_now(
        &self,
        num: RoomNum,
        origin: &OwnedServerName,
        event: &Verified,
        help: &Help,
    ) -> Result<(Received, StateMap)> {
        let (taken, before) = self.take_now(num, origin, event, help).await?;
        Ok((taken.durable().await?, before))
    }

    async fn take_now(
        &self,
        num: RoomNum,
        origin: &OwnedServerName,
        event: &Verified,
        help: &Help,
    ) -> Result<(Taken, StateMap)> {
        let at_once = |received, before| Ok((Taken::from(received), before));
        let mut look = Look::AtTheTip;
        for _ in 0..ATTEMPTS {
            let room = self.memory.room_by_number(num).await?;
            // Others of this room wait for its lock: their events shall come into one batch with this one.
            let intent = self.db.journal().intent();
            let tip = room.tip.lock().await;
            if room.is_stale() {
                continue;
            }
            if room.view().local_members.is_empty() {
                drop(tip);
                self.remote_memberships.retract(&room, event).await?;
                return at_once(Received::Accepted, StateMap::default());
            }
            check_acl(&tip.state, origin)?;
            let judged = match self.judge(&room, &tip, (event, help), look).await? {
                Judgement::Judged(judged) => *judged,
                Judgement::Known => return at_once(Received::Duplicate, StateMap::default()),
                Judgement::Missing { prev, auth } => {
                    return at_once(Received::Missing { prev, auth }, StateMap::default());
                }
            };
            drop(intent);
            let (received, before) = (judged.received(), judged.before.clone());
            if judged.is_as_it_was {
                return at_once(received, before);
            }
            let stored = self.store(&room, tip, event, (judged, help)).await?;
            if stored.is_some() {
                let pending = stored;
                return Ok((Taken { received, pending }, before));
            }
            // It was known, or the room had to be loaded anew.
            look = Look::Around;
        }
        Err(Error::Unavailable(
            "the database does not accept the event".to_owned(),
        ))
    }

    /// Stores an event that was judged; returns `None` if it has to be judged once more.
    async fn store(
        &self,
        room: &Arc<Room>,
        mut tip: MutexGuard<'_, Tip>,
        event: &Verified,
        (judged, help): (Judged, &Help),
    ) -> Result<Option<Pending>> {
        let counting = match judged.verdict {
            Verdict::Accepted if judged.gap.is_none() => {
                self.unread.count_event(room, &tip, event.pdu()).await
            }
            _ => Counting::default(),
        };
        let mut tx = self.db.write().await?;
        if room.is_stale() {
            return Ok(None);
        }
        let mut next = tip.clone();
        let stored = self
            .store_in(&mut tx, room, &mut next, event, (judged, help, counting))
            .await?;
        let Some(position) = stored else {
            return Ok(None);
        };
        let pending = release(tx, room, position)?;
        *tip = next;
        Ok(Some(pending))
    }

    /// Stores an event in a turn of the journal; returns its position, or `None` if it was known.
    async fn store_in(
        &self,
        tx: &mut WriteTx,
        room: &Room,
        tip: &mut Tip,
        event: &Verified,
        (judged, help, counting): (Judged, &Help, Counting),
    ) -> Result<Option<i64>> {
        let status = match &judged.verdict {
            Verdict::Accepted => Status::Accepted,
            Verdict::SoftFailed(_) => Status::SoftFailed,
            Verdict::Rejected(_) => Status::Rejected,
        };
        if status != Status::Accepted {
            return soft_failed::store(tx, room, tip, event, (judged, status)).await;
        }
        if let Some(gap) = judged.gap {
            let before = (judged.base, judged.before, judged.missing);
            return super::backfill::store(tx, room, tip, event, (gap, judged.stored_at, before))
                .await;
        }
        let accepted = Accepted {
            pdu: event.pdu().clone(),
            json: event.json().to_owned(),
            counting,
            transaction: None,
            delayed: None,
            unattended: false,
            arrival: Some(Arrival {
                stored_at: judged.stored_at,
                goes_out: help.is_passed_on,
                fork: judged.fork,
            }),
        };
        let stored = append(&self.log, tx, room, tip, accepted).await?;
        Ok(stored.map(|event| event.position))
    }
}

/// Checks that a room does not shut out a server.
///
/// [Server ACLs](https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls)
pub(crate) fn check_acl(state: &StateMap, server: &ServerName) -> Result<()> {
    if server_acl(state).is_none_or(|acl| acl.is_allowed(server)) {
        return Ok(());
    }
    Err(Error::forbidden(format!(
        "the room does not allow the server {server}"
    )))
}

/// Returns the server ACL of a room. Where it is malformed, each field and each entry counts by itself: a room that
/// shuts servers out does not let them in because of a mistake elsewhere.
fn server_acl(state: &StateMap) -> Option<RoomServerAclEventContent> {
    let content: Map<String, Value> = state.content(&StateEventType::RoomServerAcl)?;
    let list = |name: &str| -> Vec<String> {
        let entries = content.get(name).and_then(Value::as_array);
        let texts = entries.into_iter().flatten().filter_map(Value::as_str);
        texts.map(ToOwned::to_owned).collect()
    };
    let allows_ip_literals = content
        .get("allow_ip_literals")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    Some(RoomServerAclEventContent::new(
        allows_ip_literals,
        list("allow"),
        list("deny"),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::matrix::Pdu;

    fn room_with(acl: &Value) -> StateMap {
        let event = json!({
            "type": "m.room.server_acl", "state_key": "", "sender": "@a:x", "room_id": "!r:x",
            "content": acl, "depth": 1, "origin_server_ts": 1, "prev_events": [],
            "auth_events": [],
        });
        let id = OwnedEventId::try_from("$acl").unwrap();
        let mut state = StateMap::default();
        state.insert(Arc::new(Pdu::parse(id, &event.to_string()).unwrap()));
        state
    }

    #[test]
    fn a_malformed_server_acl_shuts_out_what_it_names() {
        for acl in [
            json!({ "allow": ["*", 5], "deny": ["bad.example"] }),
            json!({ "allow": ["*"], "deny": [5, "bad.example", null] }),
            json!({ "allow": ["*"], "deny": ["bad.example"], "allow_ip_literals": "x" }),
        ] {
            let state = room_with(&acl);
            let check = |server: &str| check_acl(&state, &ServerName::parse(server).unwrap());
            assert!(check("bad.example").is_err(), "{acl}");
            assert!(check("good.example").is_ok(), "{acl}");
            assert!(check("1.2.3.4").is_ok(), "{acl}");
        }
        for acl in [json!({ "allow": "*" }), json!({ "allow": null }), json!({})] {
            let state = room_with(&acl);
            let server = ServerName::parse("good.example").unwrap();
            assert!(check_acl(&state, &server).is_err(), "{acl}");
        }
        let no_acl = StateMap::default();
        check_acl(&no_acl, &ServerName::parse("good.example").unwrap()).unwrap();
    }
}
