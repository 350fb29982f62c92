//! Push notifications: new events are sent to the push gateways that users have set.
//!
//! `docs/design/push.md` explains how. See the
//! [specification](https://spec.matrix.org/v1.19/client-server-api/#push-notifications).

mod distribution;
mod email_digest;
mod email_sending;
mod gateway;
mod notification;
mod pusher_queue;
mod recipients;
mod sending;
mod unread_total;

use std::sync::{Arc, Mutex, PoisonError};

use ruma::OwnedServerName;
use tokio::sync::Notify;

use self::{gateway::PushGateways, recipients::PushRecipients};
use crate::{
    clock::Clock,
    config::{BaseUrl, Config},
    error::Result,
    mail::MailQueue,
    numbers::{AtomicPosition, Position, UserNum},
    rooms::Rooms,
    storage::{Db, JournalChange, JournalFollower},
    tasks::Tasks,
    users::Users,
};

/// The services that push notifications need.
pub struct PushServices {
    pub db: Db,
    pub clock: Clock,
    pub tasks: Tasks,
    pub rooms: Rooms,
    pub users: Users,
    pub mail: MailQueue,
}

/// Sends push notifications until the server stops.
struct PushSender {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    rooms: Rooms,
    users: Users,
    mail: MailQueue,
    server_name: OwnedServerName,
    /// The URL at which clients reach this server.
    public_url: BaseUrl,
    gateways: PushGateways,
    recipients: PushRecipients,
    /// The position up to which events were given to the queues of the pushers.
    distributed: AtomicPosition,
    changes: Arc<PendingPushChanges>,
    /// Notified when the progress of queues must be stored.
    progress_changed: Notify,
}

/// The changes that the journal announced, and that the distribution has not handled yet.
#[derive(Default)]
struct PendingPushChanges {
    /// The position of the newest event.
    newest_event: AtomicPosition,
    users: Mutex<ChangedUsers>,
    arrived: Notify,
}

/// Users about whom something changed.
#[derive(Default)]
struct ChangedUsers {
    /// Users whose pushers must be read again.
    pushers: Vec<UserNum>,
    /// Users whose push rules must be read again.
    rules: Vec<UserNum>,
    /// Users who have read something, so that their unread total may be another.
    read_positions: Vec<UserNum>,
}

/// The most users in a list of changes. Beyond it, the same user may not be added twice.
const MAX_UNSORTED_USERS: usize = 1_000;

/// Starts to send push notifications, beginning with the events that were not sent before the last stop.
///
/// # Errors
///
/// When the pushers cannot be read.
pub async fn start(services: PushServices, config: &Config) -> Result<()> {
    let PushServices {
        db,
        clock,
        tasks,
        rooms,
        users,
        mail,
    } = services;
    let changes = Arc::new(PendingPushChanges::default());
    // Followed before anything is read, so that no change is missed in between.
    db.journal().add_follower(changes.clone());
    let published = db.journal().published_position();
    changes.newest_event.fetch_max(published);
    let gateways = PushGateways::new(&config.push)?;
    let loaded = recipients::load(&db, &gateways).await?;
    let sender = Arc::new(PushSender {
        db,
        clock,
        tasks: tasks.clone(),
        rooms,
        users,
        mail,
        server_name: config.server.name.clone(),
        public_url: config.public_url(),
        gateways,
        recipients: loaded.recipients,
        distributed: AtomicPosition::new(loaded.start.min(published)),
        changes,
        progress_changed: Notify::new(),
    });
    sender.resume_digests();
    drop(tasks.spawn(sender.clone().distribute_until_stopped()));
    drop(tasks.spawn(sender.store_progress_until_stopped()));
    Ok(())
}

impl JournalFollower for PendingPushChanges {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        let mut is_relevant = false;
        for (position, change) in changes {
            is_relevant |= self.add(*position, change);
        }
        if is_relevant {
            self.arrived.notify_one();
        }
    }

    fn failed(&self) {}
}

impl PendingPushChanges {
    /// Adds a change, and returns whether it matters for push notifications.
    fn add(&self, position: Position, change: &JournalChange) -> bool {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            JournalChange::Event { .. } => drop(self.newest_event.fetch_max(position)),
            JournalChange::PushersChanged { user } | JournalChange::SessionsEnded { user, .. } => {
                add_user(&mut users.pushers, *user);
            }
            JournalChange::AccountData {
                user,
                room: None,
                kind,
                ..
            } if &**kind == "m.push_rules" => add_user(&mut users.rules, *user),
            JournalChange::ReadPosition { user, .. } => add_user(&mut users.read_positions, *user),
            _ => return false,
        }
        true
    }

    fn take_users(&self) -> ChangedUsers {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut users)
    }

    /// Adds users whose pushers could not be read.
    fn restore_pushers(&self, pushers: Vec<UserNum>) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.pushers.extend(pushers);
    }
}

fn add_user(users: &mut Vec<UserNum>, user: UserNum) {
    if users.last() == Some(&user) || users.len() >= MAX_UNSORTED_USERS && users.contains(&user) {
        return;
    }
    users.push(user);
}
