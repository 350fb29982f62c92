//! Distributes events and EDUs to the queues of the servers that they concern.

mod ephemeral_events;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, UserId, presence::PresenceState};
use tokio::time::{Instant, interval, sleep, sleep_until};

use super::{
    FederationSenderInner, destination::DestinationState, pending_changes::PendingChanges,
};
use crate::{
    error::{Error, Result},
    numbers::{Position, RoomNum, UserNum},
    rooms::{JoinedMember, OutgoingEvent},
    storage::Receipt,
};

/// The time for which receipts, and presence updates, are collected before they are sent.
const RECEIPT_DELAY: Duration = Duration::from_millis(300);
const PRESENCE_DELAY: Duration = Duration::from_secs(1);
/// The interval for repeating that users are still typing. Other servers forget it after a minute.
const TYPING_REPEAT_INTERVAL: Duration = Duration::from_secs(40);
/// The delays after which a server that is new in a room is sent the presence of the room's users and their sticky events.
/// There are several, because the server drops what arrives before it knows the room.
const NEWCOMER_DELAYS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(90),
];
/// The largest number of waiting updates for new servers.
const MAX_NEWCOMER_UPDATES: usize = 10_000;
/// The pause after an error.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Changes that are held back for a moment, and the state that was already distributed.
#[derive(Default)]
struct HeldChanges {
    /// The position from which changes of devices must still be read because this run of the server was not notified.
    undistributed_after: Option<Position>,
    /// Whether there are events to distribute.
    has_events: bool,
    device_lists: BTreeSet<UserNum>,
    receipts: BTreeMap<(RoomNum, OwnedUserId, String), Arc<Receipt>>,
    receipts_due: Option<Instant>,
    presence: BTreeSet<UserNum>,
    presence_due: Option<Instant>,
    /// The users whom other servers know to be typing.
    typing: HashMap<RoomNum, BTreeSet<OwnedUserId>>,
    /// The updates for servers that are new in a room, by due time.
    newcomers: BTreeMap<Instant, Vec<NewcomerUpdate>>,
}

/// An update for servers that are new in a room.
#[derive(Clone)]
struct NewcomerUpdate {
    servers: Vec<OwnedServerName>,
    /// The users whose presence is sent.
    users: Vec<OwnedUserId>,
    /// The room whose sticky events are sent.
    sticky_events_of: Option<RoomNum>,
}

impl HeldChanges {
    /// Adds changes that may wait a little, and returns those that may not.
    fn add_changes(
        &mut self,
        news: PendingChanges,
    ) -> (BTreeSet<OwnedServerName>, BTreeSet<RoomNum>) {
        let now = Instant::now();
        self.has_events |= news.events;
        self.device_lists.extend(news.device_lists);
        if !news.receipts.is_empty() {
            self.receipts_due.get_or_insert(now + RECEIPT_DELAY);
            self.receipts.extend(news.receipts);
        }
        if !news.presence.is_empty() {
            self.presence_due.get_or_insert(now + PRESENCE_DELAY);
            self.presence.extend(news.presence);
        }
        (news.messages, news.typing)
    }

    /// Returns the time when the next delayed change is due.
    fn next_due(&self) -> Option<Instant> {
        let newcomers = self.newcomers.keys().next().copied();
        let dues = self.receipts_due.into_iter().chain(self.presence_due);
        dues.chain(newcomers).min()
    }

    /// Schedules an update for servers that are new in a room.
    fn add_newcomers(&mut self, update: &NewcomerUpdate) {
        let now = Instant::now();
        for after in NEWCOMER_DELAYS {
            if self.newcomers.len() < MAX_NEWCOMER_UPDATES {
                let due = self.newcomers.entry(now + after).or_default();
                due.push(update.clone());
            }
        }
    }

    /// Takes the due updates for new servers.
    fn take_newcomers(&mut self) -> Vec<NewcomerUpdate> {
        let mut due = Vec::new();
        while let Some(entry) = self.newcomers.first_entry()
            && *entry.key() <= Instant::now()
        {
            due.extend(entry.remove());
        }
        due
    }
}

impl DestinationState {
    fn queue_newcomer_update(&mut self, update: &NewcomerUpdate) {
        self.queue_presence_of_all(&update.users);
        if let Some(room) = update.sticky_events_of {
            self.queue_sticky_events(room, Position::ZERO);
        }
    }
}

fn take_if_due(due: &mut Option<Instant>) -> bool {
    let is_due = due.is_some_and(|due| due <= Instant::now());
    if is_due {
        *due = None;
    }
    is_due
}

impl FederationSenderInner {
    /// Distributes changes until the server stops.
    pub(super) async fn distribute(self: Arc<Self>) {
        let mut held = HeldChanges {
            // Includes the changes just before the server stopped, or crashed.
            undistributed_after: Some(self.fully_distributed.load()),
            has_events: true,
            ..HeldChanges::default()
        };
        let stopping = self.tasks.stopping().clone();
        let mut again = interval(TYPING_REPEAT_INTERVAL);
        let mut rounds: u32 = 0;
        loop {
            let done = tokio::select! {
                () = stopping.cancelled() => return,
                done = self.distribute_once(&mut held) => done,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "changes could not be distributed to other servers");
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = sleep(ERROR_PAUSE) => continue,
                }
            }
            let due = held.next_due();
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.pending_changes.wait_for_changes() => {}
                () = wait_until(due) => {}
                _ = again.tick() => {
                    rounds = rounds.wrapping_add(1);
                    self.repeat_typing_or_presence(&mut held, rounds).await;
                }
            }
        }
    }

    async fn distribute_once(self: &Arc<Self>, held: &mut HeldChanges) -> Result<()> {
        // Read before the pending changes are taken: all changes up to this position are among them, or were.
        let ceiling = {
            let journal = self.db.journal();
            let _still = journal.hold_announcements();
            journal.published_position()
        };
        let (messages, typing) = held.add_changes(self.pending_changes.take_changes());
        self.update_queues(&messages, |state| state.has_messages = true);
        for room in typing {
            self.distribute_typing(held, room).await?;
        }
        if held.has_events {
            self.distribute_events(held).await?;
            held.has_events = false;
        }
        if let Some(after) = held.undistributed_after {
            let changed = self.devices.outgoing.lists_changed_after(after).await?;
            held.device_lists.extend(changed);
            held.undistributed_after = None;
        }
        while let Some(user) = held.device_lists.first().copied() {
            self.distribute_device_lists(user).await?;
            held.device_lists.remove(&user);
        }
        self.record_distributed(ceiling);
        if take_if_due(&mut held.receipts_due) {
            let receipts = std::mem::take(&mut held.receipts);
            self.distribute_receipts(receipts).await?;
        }
        if take_if_due(&mut held.presence_due) {
            for user in std::mem::take(&mut held.presence) {
                self.distribute_presence(user).await?;
            }
        }
        for update in held.take_newcomers() {
            self.update_queues(&update.servers, |state| {
                state.queue_newcomer_update(&update);
            });
        }
        Ok(())
    }

    /// Records that everything up to a position was distributed.
    fn record_distributed(&self, ceiling: Position) {
        let position = ceiling.min(self.distributed.load());
        let before = self.fully_distributed.fetch_max(position);
        if before < position {
            self.queues_changed.notify_one();
        }
    }

    /// Adds new events to the queues of the servers that receive them.
    async fn distribute_events(self: &Arc<Self>, held: &mut HeldChanges) -> Result<()> {
        loop {
            let after = self.distributed.load();
            let page = self.rooms.federation.outgoing_events(after).await?;
            // The part that can fail is done first; after a failure all of it is repeated.
            for arrival in page.joined_members {
                self.queue_for_arrival(held, arrival).await?;
            }
            let mut servers = BTreeSet::new();
            for event in page.events {
                self.queue_event(&mut servers, event);
            }
            self.distributed.store(page.up_to);
            self.queues_changed.notify_one();
            self.update_queues(&servers, |_| {});
            if page.is_last {
                return Ok(());
            }
        }
    }

    fn queue_event(&self, servers: &mut BTreeSet<OwnedServerName>, event: OutgoingEvent) {
        let (room, position) = (event.room, event.position);
        let to = event.servers.clone();
        // It must be among the recent events before any sending task looks for it there.
        let log = self.recent_events.write();
        log.unwrap_or_else(PoisonError::into_inner).push(event);
        for server in to {
            let destination = self.destination(&server);
            destination.lock().queue_event(room, position);
            servers.insert(server);
        }
    }

    /// Queues the device lists, the presence and the sticky events of users for the servers that now share a room with
    /// them.
    async fn queue_for_arrival(
        self: &Arc<Self>,
        held: &mut HeldChanges,
        arrival: JoinedMember,
    ) -> Result<()> {
        let JoinedMember {
            position,
            room,
            user_id,
        } = arrival;
        let RoomNewcomers {
            servers,
            users,
            sticky_events_of,
        } = match self.rooms.memory.room_by_number(room).await {
            // The room was deleted.
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) if self.rooms.memory.is_local(&user_id) => {
                let user = self.rooms.memory.user_number(&user_id).await?;
                RoomNewcomers {
                    servers: self.rooms.federation.other_servers(room).await?,
                    users: user.map(|user| (user, user_id)).into_iter().collect(),
                    sticky_events_of: None,
                }
            }
            Ok(room) => find_newcomers(&room, &user_id, position),
        };
        for server in &servers {
            // From now on this server announces its restarts to it.
            self.destination(server);
        }
        if servers.is_empty() || users.is_empty() {
            return Ok(());
        }
        let numbers: Vec<UserNum> = users.keys().copied().collect();
        let owed = self
            .devices
            .outgoing
            .queue_list_updates(&servers, &numbers)
            .await?;
        let is_there = |(user, _): &(&UserNum, &OwnedUserId)| {
            let presence = self.ephemeral.presence.presence_event(**user);
            presence.is_some_and(|event| event.content.presence != PresenceState::Offline)
        };
        let there: Vec<OwnedUserId> = users
            .iter()
            .filter(is_there)
            .map(|(_, id)| id.clone())
            .collect();
        self.update_queues(&owed, |state| state.has_device_lists = true);
        let has_sticky = |room: &RoomNum| self.rooms.federation.has_own_sticky_events(*room);
        let sticky_events_of = sticky_events_of.filter(has_sticky);
        if sticky_events_of.is_some() || !there.is_empty() {
            held.add_newcomers(&NewcomerUpdate {
                servers,
                users: there,
                sticky_events_of,
            });
        }
        Ok(())
    }

    /// Queues the device list changes of a user for the servers that share a room with the user.
    async fn distribute_device_lists(self: &Arc<Self>, user: UserNum) -> Result<()> {
        let user_id = {
            let mut db = self.db.read().await?;
            self.db.strings.user_id(&mut db, user).await?
        };
        if !self.rooms.memory.is_local(&user_id) {
            return Ok(());
        }
        let servers = self
            .rooms
            .federation
            .servers_sharing_rooms_with(user)
            .await?;
        let servers: Vec<OwnedServerName> = servers.into_iter().collect();
        let owed = self
            .devices
            .outgoing
            .queue_list_updates(&servers, &[user])
            .await?;
        self.update_queues(&owed, |state| state.has_device_lists = true);
        Ok(())
    }
}

/// The servers that see users of this server for the first time, and those users.
#[derive(Default)]
struct RoomNewcomers {
    servers: Vec<OwnedServerName>,
    users: BTreeMap<UserNum, OwnedUserId>,
    /// The room, if the servers are new there.
    sticky_events_of: Option<RoomNum>,
}

/// Returns the server of a remote user who joined a room, if it was not in the room before, and the local users in the
/// room.
fn find_newcomers(
    room: &crate::rooms::Room,
    user_id: &UserId,
    position: Position,
) -> RoomNewcomers {
    let view = room.view();
    let server = user_id.server_name();
    let is_new = view
        .servers
        .get(server)
        // 0 means that it is not known.
        .is_some_and(|stay| stay.since == Position::ZERO || stay.since == position);
    if !is_new {
        return RoomNewcomers::default();
    }
    let users = view.local_members.iter();
    let users = users.map(|(user, user_id)| (*user, user_id.clone()));
    RoomNewcomers {
        servers: vec![server.to_owned()],
        users: users.collect(),
        sticky_events_of: Some(room.num),
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_new_in_a_room_is_sent_presence_three_times() {
        let mut held = HeldChanges::default();
        let update = NewcomerUpdate {
            servers: vec!["there.example".try_into().unwrap()],
            users: vec!["@alice:here.example".try_into().unwrap()],
            sticky_events_of: None,
        };
        let start = Instant::now();

        held.add_newcomers(&update);

        assert!(held.take_newcomers().is_empty());
        let mut sent = Vec::new();
        while let Some(due) = held.next_due() {
            sleep_until(due).await;
            assert_eq!(held.take_newcomers().len(), 1);
            sent.push((Instant::now() - start).as_secs());
        }
        assert_eq!(sent, [1, 10, 90]);
    }
}
