//! Received read receipts. A receipt may arrive before the event that it names; it is then kept for a while, until the
//! event arrives.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, events::receipt::ReceiptThread,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::origin::{EduOrigins, is_joined_user_of, parse};
use crate::{
    error::Result,
    numbers::{Position, UserNum},
    rooms::{ReceiptUpdate, Rooms},
    storage::{JournalChange, JournalFollower},
    workflows::WorkflowSources,
};

/// The number of receipts in one EDU that are processed.
const MAX_RECEIPTS_PER_EDU: usize = 1_000;
/// The number of missing events for which receipts are kept. The oldest are dropped first.
const MAX_WAITING_EVENTS: usize = 2_000;
/// The number of receipts that are kept for one event.
const MAX_RECEIPTS_PER_EVENT: usize = 100;

/// The receipts of an EDU by room.
type ReceiptsByRoom = BTreeMap<String, Box<RawValue>>;

#[derive(Deserialize)]
struct RoomReceipts {
    #[serde(rename = "m.read")]
    read: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct UserReceipt {
    #[serde(default)]
    data: ReceiptMetadata,
    event_ids: Vec<OwnedEventId>,
}

#[derive(Default, Deserialize)]
struct ReceiptMetadata {
    ts: Option<i64>,
    thread_id: Option<String>,
}

/// A receipt that another server sent.
#[derive(Clone, Debug)]
struct ReceivedReceipt {
    user: UserNum,
    user_id: OwnedUserId,
    thread: String,
    event_id: OwnedEventId,
    ts: Option<i64>,
}

impl ReceivedReceipt {
    fn as_new_receipt(&self) -> ReceiptUpdate<'_> {
        ReceiptUpdate {
            user: self.user,
            user_id: &self.user_id,
            kind: "m.read",
            thread: &self.thread,
            event_id: &self.event_id,
            ts: self.ts,
        }
    }
}

/// Receives EDUs about receipts. Cheap to clone.
#[derive(Clone)]
pub(super) struct ReceiptEdus {
    rooms: Rooms,
    origins: EduOrigins,
    /// Receipts that arrived before their events.
    early_receipts: Arc<EarlyReceipts>,
}

impl ReceiptEdus {
    /// Creates the service, and starts its background task.
    pub(super) fn new(sources: &WorkflowSources, origins: &EduOrigins) -> Self {
        let service = Self {
            rooms: sources.rooms.clone(),
            origins: origins.clone(),
            early_receipts: Arc::default(),
        };
        sources.devices.add_follower(service.early_receipts.clone());
        let (storing, stopping) = (service.clone(), sources.tasks.stopping().clone());
        drop(sources.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = storing.store_early_receipts() => {}
            }
        }));
        service
    }

    /// Processes `m.receipt`.
    pub(super) async fn receive_receipts(
        &self,
        origin: &ServerName,
        edus: &[Box<RawValue>],
    ) -> Result<()> {
        for edu in edus {
            let mut left = MAX_RECEIPTS_PER_EDU;
            let by_room = parse::<ReceiptsByRoom>(edu).unwrap_or_default();
            let valid = by_room.into_iter().filter_map(|(room_id, of_room)| {
                Some((RoomId::parse(room_id).ok()?, parse(&of_room)?))
            });
            for (room_id, of_room) in valid {
                let receipts = self
                    .permitted_receipts(origin, &room_id, of_room, &mut left)
                    .await?;
                self.store_receipts(&room_id, receipts).await?;
            }
        }
        Ok(())
    }

    /// Returns the receipts of a room that a server may send.
    async fn permitted_receipts(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        of_room: RoomReceipts,
        left: &mut usize,
    ) -> Result<Vec<ReceivedReceipt>> {
        let mut receipts = Vec::new();
        let Some(room) = self.origins.room_shared_with(origin, room_id).await? else {
            return Ok(receipts);
        };
        for (user_id, of_user) in of_room.read {
            let (Ok(user_id), Some(of_user)) = (
                OwnedUserId::try_from(user_id),
                parse::<UserReceipt>(&of_user),
            ) else {
                continue;
            };
            if !is_joined_user_of(origin, &room, &user_id) {
                continue;
            }
            let Some(user) = self.rooms.memory.user_number(&user_id).await? else {
                continue;
            };
            let Some(thread) = parse_thread(of_user.data.thread_id) else {
                continue;
            };
            for event_id in of_user.event_ids.into_iter().take(*left) {
                *left -= 1;
                receipts.push(ReceivedReceipt {
                    user,
                    user_id: user_id.clone(),
                    thread: thread.clone(),
                    event_id,
                    ts: of_user.data.ts.filter(|ts| *ts >= 0),
                });
            }
        }
        Ok(receipts)
    }

    /// Stores receipts, and keeps those whose events are missing.
    async fn store_receipts(&self, room_id: &RoomId, receipts: Vec<ReceivedReceipt>) -> Result<()> {
        if receipts.is_empty() {
            return Ok(());
        }
        let room = self.rooms.memory.room(room_id).await?;
        let new = receipts
            .iter()
            .map(ReceivedReceipt::as_new_receipt)
            .collect();
        let unknown = self.rooms.unread.receive_receipts(&room, new).await?;
        if unknown.is_empty() {
            return Ok(());
        }
        for new in &unknown {
            let is_it = |receipt: &&ReceivedReceipt| {
                (&*receipt.event_id, &receipt.user_id) == (new.event_id, new.user_id)
                    && receipt.thread == new.thread
            };
            if let Some(receipt) = receipts.iter().find(is_it) {
                self.early_receipts.add_receipt(room_id, receipt.clone());
            }
        }
        // The event may have arrived in between.
        self.rooms.unread.receive_receipts(&room, unknown).await?;
        Ok(())
    }

    /// Stores kept receipts whose events have arrived.
    async fn store_early_receipts(&self) {
        loop {
            self.early_receipts.receipts_ready.notified().await;
            self.store_ready_receipts().await;
        }
    }

    async fn store_ready_receipts(&self) {
        for early in self.early_receipts.take_ready() {
            if let Err(error) = self.store_receipts(&early.room_id, early.receipts).await {
                tracing::debug!(%error, "receipts that arrived before their events could not be stored");
            }
        }
    }
}

/// Returns the thread of a receipt as it is stored; `None` for an invalid thread.
fn parse_thread(thread_id: Option<String>) -> Option<String> {
    let Some(thread_id) = thread_id else {
        return Some(String::new());
    };
    match ReceiptThread::try_from(Some(&*thread_id)).ok()? {
        ReceiptThread::Main | ReceiptThread::Thread(_) => Some(thread_id),
        _ => None,
    }
}

/// Receipts whose events are missing.
#[derive(Default)]
struct EarlyReceipts {
    waiting: Mutex<WaitingReceipts>,
    receipts_ready: Notify,
}

/// Receipts for one missing event of a room.
struct EarlyRoomReceipts {
    room_id: OwnedRoomId,
    receipts: Vec<ReceivedReceipt>,
}

#[derive(Default)]
struct WaitingReceipts {
    by_event: HashMap<OwnedEventId, EarlyRoomReceipts>,
    /// The missing events, the oldest entry first.
    order: VecDeque<OwnedEventId>,
    /// The receipts whose events have arrived.
    ready: Vec<EarlyRoomReceipts>,
}

impl EarlyReceipts {
    fn waiting(&self) -> MutexGuard<'_, WaitingReceipts> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_receipt(&self, room_id: &RoomId, receipt: ReceivedReceipt) {
        let mut waiting = self.waiting();
        let event_id = receipt.event_id.clone();
        if let Some(known) = waiting.by_event.get_mut(&event_id) {
            if known.receipts.len() < MAX_RECEIPTS_PER_EVENT {
                known.receipts.push(receipt);
            }
            return;
        }
        while waiting.by_event.len() >= MAX_WAITING_EVENTS
            && let Some(oldest) = waiting.order.pop_front()
        {
            waiting.by_event.remove(&oldest);
        }
        waiting.order.push_back(event_id.clone());
        let early = EarlyRoomReceipts {
            room_id: room_id.to_owned(),
            receipts: vec![receipt],
        };
        waiting.by_event.insert(event_id, early);
        // Events that have arrived are still in the order.
        if waiting.order.len() > 2 * MAX_WAITING_EVENTS {
            let WaitingReceipts {
                by_event, order, ..
            } = &mut *waiting;
            order.retain(|event_id| by_event.contains_key(event_id));
        }
    }

    fn take_ready(&self) -> Vec<EarlyRoomReceipts> {
        std::mem::take(&mut self.waiting().ready)
    }
}

impl JournalFollower for EarlyReceipts {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        for (_, change) in changes {
            let JournalChange::Event { event, .. } = change else {
                continue;
            };
            let mut waiting = self.waiting();
            if let Some(early) = waiting.by_event.remove(&event.pdu.event_id) {
                waiting.ready.push(early);
                self.receipts_ready.notify_one();
            }
        }
    }

    fn failed(&self) {
        // Nothing is lost: all reported events are on disk.
    }
}
