//! Push notifications: new events are sent to the push gateways, browsers and e-mail addresses that users have set.
//!
//! `docs/design/push.md` explains how. See the
//! [specification](https://spec.matrix.org/v1.19/client-server-api/#push-notifications).

mod distribution;
mod email_digest;
mod email_sending;
mod endpoints;
mod notification;
mod pusher_queue;
mod recipients;
mod sending;
mod unread_total;
mod web_push;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use ruma::OwnedServerName;
use tokio::sync::Notify;

use self::{endpoints::PushEndpoints, recipients::PushRecipients};
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
    endpoints: PushEndpoints,
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
    /// Whether any user has a pusher. Otherwise, new events wake nobody.
    has_recipients: AtomicBool,
    arrived: Notify,
}

/// Users about whom something changed.
#[derive(Default)]
struct ChangedUsers {
    /// Users whose pushers must be read again.
    pushers: Vec<UserNum>,
    /// The position of the first change of pushers.
    first_pusher_change: Option<Position>,
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
    let endpoints = PushEndpoints::new(&config.push)?;
    let loaded = recipients::load(&db, &endpoints).await?;
    let has_recipients = !loaded.recipients.is_empty();
    changes
        .has_recipients
        .store(has_recipients, Ordering::SeqCst);
    let sender = Arc::new(PushSender {
        db,
        clock,
        tasks: tasks.clone(),
        rooms,
        users,
        mail,
        server_name: config.server.name.clone(),
        public_url: config.public_url(),
        endpoints,
        recipients: loaded.recipients,
        distributed: AtomicPosition::new(loaded.start.min(published)),
        changes,
        progress_changed: Notify::new(),
    });
    sender.resume_digests();
    for recipient in sender.recipients.all() {
        sender.start_activations(&recipient);
    }
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
            // An invitation to a room that this server is not in comes without an event.
            JournalChange::Event { .. } | JournalChange::Membership { .. } => {
                self.newest_event.fetch_max(position);
                return self.has_recipients.load(Ordering::SeqCst);
            }
            JournalChange::PushersChanged { user } | JournalChange::SessionsEnded { user, .. } => {
                add_user(&mut users.pushers, *user);
                users.first_pusher_change.get_or_insert(position);
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

    /// Adds users whose pushers could not be read, of whom the first changed at a position.
    fn restore_pushers(&self, pushers: Vec<UserNum>, first_change: Option<Position>) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.pushers.extend(pushers);
        users.first_pusher_change = first_change.or(users.first_pusher_change);
    }
}

fn add_user(users: &mut Vec<UserNum>, user: UserNum) {
    if users.last() == Some(&user) || users.len() >= MAX_UNSORTED_USERS && users.contains(&user) {
        return;
    }
    users.push(user);
}
