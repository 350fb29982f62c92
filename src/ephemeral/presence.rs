//! Presence: whether users are online, and when they were last active.
//!
//! Presence is kept in memory only. A user who syncs is online, or has the state that the sync sets. A user who has
//! done nothing for a while is unavailable, and one who no longer syncs is offline. For users of other servers, the
//! state is the one that their server sent, until that server is silent for too long.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#presence).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedUserId, UInt, events::presence::PresenceEvent, presence::PresenceState};

use super::{EphemeralChange, EphemeralTick, PresenceUpdate, TickCounter};
use crate::{clock::Clock, numbers::UserNum, tasks::Tasks};

/// The time after the last sync after which a user is offline.
const OFFLINE_AFTER_MS: i64 = 30_000;
/// The time without any action after which a user is unavailable.
const IDLE_AFTER_MS: i64 = 5 * 60_000;
/// The time after an action during which a user counts as currently active.
const ACTIVE_FOR_MS: i64 = 60_000;
/// The time without an update after which a user of another server is offline. Servers repeat their updates sooner.
const SILENT_AFTER_MS: i64 = 30 * 60_000;
/// The interval of the check for users who are now offline or unavailable.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The number of changes that are remembered in order. A client that asks for older ones receives the presence of all
/// users.
const MAX_RECENT_CHANGES: usize = 16_384;
/// The number of users that are remembered. Offline users are forgotten first.
const MAX_REMEMBERED_USERS: usize = 100_000;

/// The presence of all users.
pub struct Presence {
    table: Mutex<PresenceTable>,
    clock: Clock,
    ticks: TickCounter,
}

#[derive(Default)]
struct PresenceTable {
    users: HashMap<UserNum, PresenceRecord>,
    recent: VecDeque<(EphemeralTick, UserNum)>,
    /// The latest change that `recent` has dropped.
    forgotten_up_to: EphemeralTick,
}

#[derive(Clone, Debug)]
struct PresenceRecord {
    user_id: OwnedUserId,
    state: PresenceState,
    status_msg: Option<String>,
    last_active: i64,
    last_sync: i64,
    /// The number of syncs that wait and of channels that are open.
    open_syncs: usize,
    /// For users of other servers: whether they are currently active, as their server reports.
    reported_active: Option<bool>,
}

/// The presence of a user as others see it.
#[derive(Clone, Debug)]
pub struct VisiblePresence {
    pub state: PresenceState,
    pub status_msg: Option<String>,
    /// The time of the user's last action, in milliseconds since the Unix epoch.
    pub last_active: Option<i64>,
}

impl Presence {
    pub(super) fn start(ticks: TickCounter, clock: Clock, tasks: &Tasks) -> Arc<Self> {
        let presence = Arc::new(Self {
            table: Mutex::default(),
            clock,
            ticks,
        });
        let (watched, stopping) = (presence.clone(), tasks.stopping().clone());
        drop(tasks.spawn(async move {
            let mut ticks = tokio::time::interval(CHECK_INTERVAL);
            loop {
                tokio::select! {
                    () = stopping.cancelled() => break,
                    _ = ticks.tick() => watched.check_timeouts(),
                }
            }
        }));
        presence
    }

    fn lock(&self) -> MutexGuard<'_, PresenceTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an update to a user's presence.
    pub fn update(&self, user: UserNum, user_id: &OwnedUserId, update: PresenceUpdate) {
        let now = self.clock.now_ms();
        let changed = {
            let mut known = self.lock();
            known.forget_extra_users();
            let record = known
                .users
                .entry(user)
                .or_insert_with(|| PresenceRecord::new(user_id.clone()));
            let before = record.visible_parts();
            record.apply_update(update, now);
            let changed = record.visible_parts() != before;
            if changed {
                known.record_change(user, self.ticks.next_tick());
            }
            changed
        };
        if changed {
            self.ticks.notify_listeners(EphemeralChange::Presence(user));
        }
    }

    /// Keeps a user from going offline until the returned guard is dropped.
    pub fn keep_online(self: &Arc<Self>, user: UserNum) -> OnlineGuard {
        if let Some(record) = self.lock().users.get_mut(&user) {
            record.open_syncs += 1;
        }
        OnlineGuard {
            presence: self.clone(),
            user,
        }
    }

    /// Returns a user's presence event, if their presence is known.
    pub fn presence_event(&self, user: UserNum) -> Option<PresenceEvent> {
        let now = self.clock.now_ms();
        self.lock()
            .users
            .get(&user)
            .map(|record| record.to_event(now))
    }

    /// Returns a user's presence as others see it, if it is known.
    pub fn visible_presence(&self, user: UserNum) -> Option<VisiblePresence> {
        let known = self.lock();
        let record = known.users.get(&user)?;
        let (state, status_msg, _) = record.visible_parts();
        Some(VisiblePresence {
            state,
            status_msg,
            last_active: Some(record.last_active).filter(|ts| *ts > 0),
        })
    }

    /// Returns the users whose presence changed after one tick and up to another, or `None` if such old changes are
    /// forgotten.
    pub fn changed_users(
        &self,
        after: EphemeralTick,
        up_to: EphemeralTick,
    ) -> Option<Vec<UserNum>> {
        let known = self.lock();
        if after < known.forgotten_up_to {
            return None;
        }
        let recent = known
            .recent
            .iter()
            .rev()
            .take_while(|(tick, _)| *tick > after);
        let mut users: Vec<UserNum> = recent
            .filter(|(tick, _)| *tick <= up_to)
            .map(|(_, user)| *user)
            .collect();
        users.sort_unstable();
        users.dedup();
        Some(users)
    }

    /// Returns all users whose presence is known.
    pub fn known_users(&self) -> Vec<UserNum> {
        self.lock().users.keys().copied().collect()
    }

    /// Finds the users who have become offline or unavailable.
    fn check_timeouts(&self) {
        let gone = {
            let mut known = self.lock();
            let gone = known.apply_timeouts(self.clock.now_ms());
            for user in &gone {
                known.record_change(*user, self.ticks.next_tick());
            }
            gone
        };
        for user in gone {
            self.ticks.notify_listeners(EphemeralChange::Presence(user));
        }
    }
}

impl PresenceTable {
    /// Makes users unavailable or offline who were not active for long enough. Returns those who changed.
    fn apply_timeouts(&mut self, now: i64) -> Vec<UserNum> {
        let mut changed = Vec::new();
        for (user, record) in &mut self.users {
            let before = record.visible_parts();
            record.apply_timeouts(now);
            if record.visible_parts() != before {
                changed.push(*user);
            }
        }
        changed
    }

    fn record_change(&mut self, user: UserNum, tick: EphemeralTick) {
        self.recent.push_back((tick, user));
        if self.recent.len() > MAX_RECENT_CHANGES
            && let Some((forgotten, _)) = self.recent.pop_front()
        {
            self.forgotten_up_to = forgotten;
        }
    }

    fn forget_extra_users(&mut self) {
        if self.users.len() > MAX_REMEMBERED_USERS {
            self.users.retain(|_, record| {
                record.state != PresenceState::Offline || record.open_syncs > 0
            });
        }
        if self.users.len() > MAX_REMEMBERED_USERS {
            // The users of this server stay; those of other servers are forgotten.
            self.users
                .retain(|_, record| record.reported_active.is_none());
        }
    }
}

impl PresenceRecord {
    fn new(user_id: OwnedUserId) -> Self {
        Self {
            user_id,
            state: PresenceState::Offline,
            status_msg: None,
            last_active: 0,
            last_sync: 0,
            open_syncs: 0,
            reported_active: None,
        }
    }

    fn apply_update(&mut self, update: PresenceUpdate, now: i64) {
        match update {
            PresenceUpdate::Set(state, status_msg) => {
                self.state = state;
                self.status_msg = status_msg;
                self.last_active = now;
                self.last_sync = now;
            }
            PresenceUpdate::Sync(state) => {
                self.last_sync = now;
                let comes = self.state == PresenceState::Offline && state != PresenceState::Offline;
                if comes {
                    self.last_active = now;
                }
                // A sync does not make an idle user online again: only an action does.
                let idles =
                    self.state == PresenceState::Unavailable && state == PresenceState::Online;
                if state != PresenceState::Offline && !idles {
                    self.state = state;
                }
            }
            PresenceUpdate::Active => {
                self.last_active = now;
                if self.state == PresenceState::Unavailable {
                    self.state = PresenceState::Online;
                }
            }
            PresenceUpdate::Reported(report) => {
                self.state = report.state;
                self.status_msg = report.status_msg;
                if let Some(ago) = report.last_active_ago {
                    self.last_active = now.saturating_sub(ago).max(0);
                }
                self.last_sync = now;
                self.reported_active = Some(report.currently_active);
            }
        }
    }

    fn apply_timeouts(&mut self, now: i64) {
        if let Some(active) = &mut self.reported_active {
            if now - self.last_sync > SILENT_AFTER_MS {
                self.state = PresenceState::Offline;
                *active = false;
            }
            return;
        }
        if self.open_syncs > 0 {
            self.last_sync = now;
        }
        if now - self.last_sync > OFFLINE_AFTER_MS {
            self.state = PresenceState::Offline;
        } else if self.state == PresenceState::Online && now - self.last_active > IDLE_AFTER_MS {
            self.state = PresenceState::Unavailable;
        }
    }

    /// Returns the parts of the presence that other users can see.
    fn visible_parts(&self) -> (PresenceState, Option<String>, Option<bool>) {
        (
            self.state.clone(),
            self.status_msg.clone(),
            self.reported_active,
        )
    }

    fn to_event(&self, now: i64) -> PresenceEvent {
        let mut content = ruma::events::presence::PresenceEventContent::new(self.state.clone());
        content.status_msg.clone_from(&self.status_msg);
        let ago = now.saturating_sub(self.last_active);
        if self.last_active > 0 {
            content.last_active_ago = UInt::try_from(ago).ok();
        }
        let is_active = self.reported_active.unwrap_or(ago < ACTIVE_FOR_MS);
        content.currently_active = Some(self.state == PresenceState::Online && is_active);
        PresenceEvent {
            sender: self.user_id.clone(),
            content,
        }
    }
}

/// A guard that keeps a user online while it exists.
pub struct OnlineGuard {
    presence: Arc<Presence>,
    user: UserNum,
}

impl Drop for OnlineGuard {
    fn drop(&mut self) {
        let now = self.presence.clock.now_ms();
        if let Some(record) = self.presence.lock().users.get_mut(&self.user) {
            record.open_syncs = record.open_syncs.saturating_sub(1);
            record.last_sync = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::ephemeral::{EphemeralState, ReportedPresence};

    struct PresenceScene {
        clock: Clock,
        ephemeral: EphemeralState,
    }

    impl PresenceScene {
        fn new() -> Self {
            let clock = Clock::manual(1_000_000);
            Self {
                ephemeral: EphemeralState::new(clock.clone(), &Tasks::default()),
                clock,
            }
        }

        fn alice(&self, update: PresenceUpdate) {
            self.ephemeral.presence.update(
                UserNum::new(1),
                &user_id!("@alice:here").to_owned(),
                update,
            );
        }

        fn state(&self) -> PresenceState {
            self.ephemeral
                .presence
                .presence_event(UserNum::new(1))
                .unwrap()
                .content
                .presence
        }

        fn pass(&self, seconds: u64) {
            self.clock.advance(Duration::from_secs(seconds));
            self.ephemeral.presence.check_timeouts();
        }
    }

    #[tokio::test]
    async fn a_user_who_stops_syncing_goes_offline() {
        let scene = PresenceScene::new();

        scene.alice(PresenceUpdate::Sync(PresenceState::Online));
        assert_eq!(scene.state(), PresenceState::Online);
        scene.pass(31);

        assert_eq!(scene.state(), PresenceState::Offline);
    }

    #[tokio::test]
    async fn a_syncing_user_without_actions_becomes_unavailable() {
        let scene = PresenceScene::new();
        scene.alice(PresenceUpdate::Sync(PresenceState::Online));

        let waiting = scene.ephemeral.presence.keep_online(UserNum::new(1));
        scene.pass(31);
        assert_eq!(scene.state(), PresenceState::Online);
        scene.pass(300);
        assert_eq!(scene.state(), PresenceState::Unavailable);
        scene.alice(PresenceUpdate::Active);
        assert_eq!(scene.state(), PresenceState::Online);
        drop(waiting);
    }

    #[tokio::test]
    async fn presence_from_a_silent_server_expires() {
        let scene = PresenceScene::new();
        let report = |state, currently_active| ReportedPresence {
            state,
            status_msg: Some("tea".to_owned()),
            last_active_ago: Some(5_000),
            currently_active,
        };

        scene.alice(PresenceUpdate::Reported(report(
            PresenceState::Online,
            true,
        )));
        scene.pass(20 * 60);
        assert_eq!(scene.state(), PresenceState::Online);
        scene.alice(PresenceUpdate::Reported(report(
            PresenceState::Unavailable,
            false,
        )));
        let content = scene
            .ephemeral
            .presence
            .presence_event(UserNum::new(1))
            .unwrap()
            .content;
        assert_eq!(content.presence, PresenceState::Unavailable);
        assert_eq!(content.status_msg.as_deref(), Some("tea"));
        assert_eq!(content.last_active_ago, Some(5_000_u32.into()));
        assert_eq!(content.currently_active, Some(false));
        scene.pass(31 * 60);

        assert_eq!(scene.state(), PresenceState::Offline);
    }

    #[tokio::test]
    async fn only_visible_changes_are_reported() {
        let scene = PresenceScene::new();
        scene.alice(PresenceUpdate::Sync(PresenceState::Online));
        let tick = scene.ephemeral.newest_tick();

        scene.alice(PresenceUpdate::Active);
        assert_eq!(
            scene
                .ephemeral
                .presence
                .changed_users(tick, EphemeralTick::MAX),
            Some(vec![])
        );
        scene.alice(PresenceUpdate::Set(
            PresenceState::Online,
            Some("tea".to_owned()),
        ));
        assert_eq!(
            scene
                .ephemeral
                .presence
                .changed_users(tick, EphemeralTick::MAX),
            Some(vec![UserNum::new(1)])
        );
    }
}
