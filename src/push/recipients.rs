//! The users who have pushers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use ruma::{
    OwnedUserId, UserId,
    api::client::push::{Pusher, PusherKind},
    push::{HttpPusherData, Ruleset},
};
use serde::Deserialize;

use super::{
    email_digest::EmailDigest,
    endpoints::{PushEndpoints, WebPushTarget},
    pusher_queue::{PushTarget, PusherQueue},
};
use crate::{
    error::Result,
    numbers::{Position, UserNum},
    storage::{
        Db,
        users::pushers::{self, PusherRow},
    },
    users::{Users, WebPushSubscription},
};

/// The users who have pushers, by their numbers.
#[derive(Default)]
pub(super) struct PushRecipients {
    by_user: RwLock<HashMap<UserNum, Arc<PushRecipient>>>,
}

/// A user who has pushers.
pub(super) struct PushRecipient {
    pub(super) user: UserNum,
    pub(super) user_id: OwnedUserId,
    pub(super) queues: Vec<Arc<PusherQueue>>,
    pub(super) digests: Vec<Arc<EmailDigest>>,
    /// The user's push rules, once they were needed.
    rules: Mutex<Option<Arc<Ruleset>>>,
}

/// The pushers at the start of the server.
pub(super) struct LoadedRecipients {
    pub(super) recipients: PushRecipients,
    /// The position after which events must be given to the queues; the last one of all if there are no pushers.
    pub(super) start: Position,
}

/// Reads all pushers.
pub(super) async fn load(db: &Db, endpoints: &PushEndpoints) -> Result<LoadedRecipients> {
    let mut conn = db.read().await?;
    let progress = pushers::progress(&mut conn).await?;
    let mut rows = pushers::all(&mut conn).await?;
    rows.retain(|row| row.is_enabled);
    // Without a pusher the progress is not stored, and may be old.
    let first_unsent = rows.iter().map(|row| row.unsent_after.unwrap_or(progress));
    let start = first_unsent.min().unwrap_or(Position::MAX);
    let recipients = PushRecipients::default();
    let mut by_user: HashMap<UserNum, Vec<PusherRow>> = HashMap::new();
    for row in rows {
        by_user.entry(row.user_num).or_default().push(row);
    }
    for (user, rows) in by_user {
        recipients.set(user, rows, progress, endpoints);
    }
    Ok(LoadedRecipients { recipients, start })
}

impl PushRecipients {
    /// Returns whether nobody has a pusher.
    pub(super) fn is_empty(&self) -> bool {
        self.read(HashMap::is_empty)
    }

    /// Returns a user who has pushers.
    pub(super) fn get(&self, user: UserNum) -> Option<Arc<PushRecipient>> {
        self.read(|by_user| by_user.get(&user).cloned())
    }

    /// Returns all users who have pushers.
    pub(super) fn all(&self) -> Vec<Arc<PushRecipient>> {
        self.read(|by_user| by_user.values().cloned().collect())
    }

    /// Returns the members who have pushers.
    pub(super) fn among(&self, members: &HashMap<UserNum, OwnedUserId>) -> Vec<Arc<PushRecipient>> {
        self.read(|by_user| {
            if members.len() < by_user.len() {
                let users = members.keys();
                users
                    .filter_map(|user| by_user.get(user).cloned())
                    .collect()
            } else {
                let recipients = by_user.values();
                let members = recipients.filter(|recipient| members.contains_key(&recipient.user));
                members.cloned().collect()
            }
        })
    }

    /// Returns the user with an id, if they have pushers.
    pub(super) fn find(&self, user_id: &UserId) -> Option<Arc<PushRecipient>> {
        self.read(|by_user| {
            let mut recipients = by_user.values();
            recipients
                .find(|recipient| recipient.user_id == *user_id)
                .cloned()
        })
    }

    /// Reads the pushers of a user again. Queues of pushers that are as before are kept.
    pub(super) async fn reload(
        &self,
        db: &Db,
        endpoints: &PushEndpoints,
        user: UserNum,
        distributed: Position,
    ) -> Result<()> {
        let rows = {
            let mut conn = db.read().await?;
            pushers::rows_of_user(&mut conn, user).await?
        };
        self.set(user, rows, distributed, endpoints);
        Ok(())
    }

    /// Makes the next look at a user's push rules read them again.
    pub(super) fn forget_rules(&self, user: UserNum) {
        if let Some(recipient) = self.get(user) {
            *recipient.lock_rules() = None;
        }
    }

    /// Replaces the pushers of a user. A new pusher sends the events after `distributed`, or after the position that is
    /// stored with it.
    fn set(
        &self,
        user: UserNum,
        rows: Vec<PusherRow>,
        distributed: Position,
        endpoints: &PushEndpoints,
    ) {
        let before = self.get(user);
        let rows = rows.into_iter().filter(|row| row.is_enabled);
        let rows: Vec<PusherRow> = rows.collect();
        let user_id = rows.first().map(|row| row.user_id.clone());
        let (email_rows, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_email_pusher);
        let digests = open_digests(email_rows, before.as_deref(), distributed);
        let known = before.iter().flat_map(|recipient| &recipient.queues);
        let known: Vec<Arc<PusherQueue>> = known.cloned().collect();
        let mut queues = Vec::new();
        for row in rows {
            let same = known.iter().find(|queue| queue.is_for(&row));
            let queue = same
                .cloned()
                .or_else(|| open_queue(row, distributed, endpoints));
            queues.extend(queue);
        }
        for queue in &known {
            if !queues.iter().any(|kept| Arc::ptr_eq(kept, queue)) {
                queue.close();
            }
        }
        let user_id = user_id.and_then(|user_id| OwnedUserId::try_from(user_id).ok());
        let mut by_user = self.by_user.write().unwrap_or_else(PoisonError::into_inner);
        match user_id.filter(|_| !(queues.is_empty() && digests.is_empty())) {
            Some(user_id) => {
                let recipient = PushRecipient {
                    user,
                    user_id,
                    queues,
                    digests,
                    rules: Mutex::default(),
                };
                by_user.insert(user, Arc::new(recipient));
            }
            None => drop(by_user.remove(&user)),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&HashMap<UserNum, Arc<PushRecipient>>) -> T) -> T {
        read(&self.by_user.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_email_pusher(row: &PusherRow) -> bool {
    let pusher = serde_json::from_str::<Pusher>(&row.pusher);
    pusher.is_ok_and(|pusher| matches!(pusher.kind, PusherKind::Email(_)))
}

/// Returns the digests of a user's e-mail pushers. Those of pushers that are as before are kept.
fn open_digests(
    rows: Vec<PusherRow>,
    before: Option<&PushRecipient>,
    distributed: Position,
) -> Vec<Arc<EmailDigest>> {
    let known = before.map_or(&[][..], |recipient| recipient.digests.as_slice());
    let mut digests = Vec::new();
    for row in rows {
        let same = known.iter().find(|digest| digest.is_for(&row)).cloned();
        digests.push(same.unwrap_or_else(|| Arc::new(EmailDigest::new(row, distributed))));
    }
    for digest in known {
        if !digests.iter().any(|kept| Arc::ptr_eq(kept, digest)) {
            digest.close();
        }
    }
    digests
}

/// Returns the queue of a pusher, unless the pusher cannot be used.
fn open_queue(
    row: PusherRow,
    distributed: Position,
    endpoints: &PushEndpoints,
) -> Option<Arc<PusherQueue>> {
    if let Ok(subscription) = WebPushSubscription::parse(&row.pusher) {
        let pusher: WebPushPusher = serde_json::from_str(&row.pusher).ok()?;
        let service = endpoints.find(subscription.url.as_str())?;
        let target = WebPushTarget {
            service,
            subscription,
        };
        let target = PushTarget::WebPush(Box::new(target));
        let queue = PusherQueue::new(row, pusher.data, target, distributed);
        return Some(Arc::new(queue));
    }
    let pusher: Pusher = serde_json::from_str(&row.pusher).ok()?;
    let PusherKind::Http(data) = pusher.kind else {
        return None;
    };
    let target = PushTarget::Gateway(endpoints.find(&data.url)?);
    Some(Arc::new(PusherQueue::new(row, data, target, distributed)))
}

/// The data of a Web Push pusher, which has the fields of one for a gateway, and others.
#[derive(Deserialize)]
struct WebPushPusher {
    data: HttpPusherData,
}

impl PushRecipient {
    /// Returns the user's push rules.
    pub(super) async fn rules(&self, users: &Users) -> Result<Arc<Ruleset>> {
        if let Some(rules) = &*self.lock_rules() {
            return Ok(rules.clone());
        }
        let rules = users.push_rules.all(self.user, &self.user_id).await?;
        let rules = Arc::new(rules);
        *self.lock_rules() = Some(rules.clone());
        Ok(rules)
    }

    fn lock_rules(&self) -> std::sync::MutexGuard<'_, Option<Arc<Ruleset>>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
