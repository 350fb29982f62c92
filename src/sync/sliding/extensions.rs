//! The extensions that do not concern single rooms: to-device messages, keys, global account data, thread
//! subscriptions.
//!
//! See [MSC3885](https://github.com/matrix-org/matrix-spec-proposals/pull/3885),
//! [MSC3884](https://github.com/matrix-org/matrix-spec-proposals/pull/3884),
//! [MSC3959](https://github.com/matrix-org/matrix-spec-proposals/pull/3959) and
//! [MSC4308](https://github.com/matrix-org/matrix-spec-proposals/pull/4308).

use std::sync::Arc;

use ruma::{
    UInt,
    api::client::{
        filter::FilterDefinition,
        sync::sync_events::v5::{request, response::Extensions},
    },
    events::AnyGlobalAccountDataEvent,
    presence::PresenceState,
    serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    connection_state::RequestParameters,
    request::SlidingSyncRequest,
    response::{AllExtensions, ToDevice},
    room::SlidingContext,
};
use crate::{
    error::{Error, Result},
    storage::Position,
    sync::{
        SyncInner, SyncRequest,
        response::{MAX_TO_DEVICE_MESSAGES, PUSH_RULES_TYPE, account_data_event},
        thread_subscriptions::split_subscription_changes,
        timeline_token,
    },
    users::Session,
};

/// The largest number of thread subscriptions in one response.
const MAX_THREAD_SUBSCRIPTIONS: usize = 100;

impl SyncInner {
    /// Records that a client has received the to-device messages before its token.
    pub(super) async fn acknowledge_to_device(
        &self,
        session: &Session,
        request: &SlidingSyncRequest,
    ) -> Result<()> {
        let since = to_device_since(&request.extensions.to_device)?;
        if !is_enabled(request.extensions.to_device.enabled) || since == 0 {
            return Ok(());
        }
        let up_to = since.min(self.db.journal().published_position());
        self.devices.acknowledge(session.device, up_to).await
    }

    /// Adds these extensions; returns whether they have any changes for the client.
    pub(super) async fn add_extensions(
        &self,
        eye: &SlidingContext<'_>,
        asked_before: &RequestParameters,
        AllExtensions { to_device, others }: &mut AllExtensions,
    ) -> Result<bool> {
        let asked = &eye.request.extensions;
        let mut is_news = false;
        if is_enabled(asked.to_device.enabled) {
            let told = self.to_device(eye, &asked.to_device).await?;
            is_news |= !told.events.is_empty();
            *to_device = Some(told);
        }
        if is_enabled(asked.e2ee.enabled) {
            is_news |= self.add_keys(eye, others).await?;
        }
        // A client that enables an extension for the first time receives all of its data.
        let since = |was_enabled: Option<bool>| {
            let since = eye.since.filter(|_| is_enabled(was_enabled));
            since.map(|since| since.position)
        };
        if is_enabled(asked.account_data.enabled) {
            let since = since(asked_before.extensions.account_data.enabled);
            others.account_data.global = self.global_account_data(eye, since).await?;
            is_news |= !others.account_data.global.is_empty();
        }
        let threads = &asked.thread_subscriptions;
        if is_enabled(threads.enabled) {
            let since = since(asked_before.extensions.thread_subscriptions.enabled);
            self.add_thread_subscriptions(eye, since.unwrap_or(0), others)
                .await?;
            is_news |= !others.thread_subscriptions.is_empty();
        }
        Ok(is_news)
    }

    async fn to_device(
        &self,
        eye: &SlidingContext<'_>,
        asked: &request::ToDevice,
    ) -> Result<ToDevice> {
        let now = self.db.journal().published_position();
        let after = to_device_since(asked)?.min(now);
        let limit = clamp_limit(asked.limit, MAX_TO_DEVICE_MESSAGES);
        let pending = self
            .devices
            .pending_messages(eye.session.device, after, now, limit)
            .await?;
        let up_to = match pending.last() {
            Some(last) if pending.len() == limit => last.position,
            _ => now,
        };
        let mut events = Vec::with_capacity(pending.len());
        for message in pending {
            let message = RawValue::from_string(message.message)?;
            events.push(Raw::from_json(message));
        }
        Ok(ToDevice {
            next_batch: up_to.to_string(),
            events,
        })
    }

    /// Adds the parts for end-to-end encryption; returns whether there are changes.
    async fn add_keys(
        &self,
        eye: &SlidingContext<'_>,
        extensions: &mut Extensions,
    ) -> Result<bool> {
        let left = self.devices.remaining_keys(eye.session.device).await?;
        let e2ee = &mut extensions.e2ee;
        e2ee.device_one_time_keys_count = left.one_time_counts();
        e2ee.device_unused_fallback_key_types = Some(left.unused_fallback_algorithms());
        let Some(since) = eye.since else {
            return Ok(false);
        };
        // Changes after the plan was made may be sent twice, which does no harm.
        let request = SyncRequest {
            since: Some(self.token_at(since)),
            filter: Arc::new(FilterDefinition::default()),
            full_state: false,
            timeout: std::time::Duration::ZERO,
            set_presence: PresenceState::Offline,
            use_state_after: false,
        };
        let moment = self.take_snapshot(eye.session, &request).await?;
        let lists = self.device_lists(eye.session, &moment, since.position);
        e2ee.device_lists = lists.await?;
        Ok(!e2ee.device_lists.is_empty() || left.claimed_at > since.position)
    }

    async fn global_account_data(
        &self,
        eye: &SlidingContext<'_>,
        since: Option<Position>,
    ) -> Result<Vec<Raw<AnyGlobalAccountDataEvent>>> {
        let user = eye.session.user;
        if since.is_some_and(|since| !self.recent_changes.account_data_changed(user, since)) {
            return Ok(Vec::new());
        }
        let now = eye.plan.now.position;
        let changed = self
            .users
            .account_data_changed(user, since.unwrap_or(0), now)
            .await?;
        let global = changed.iter().filter(|data| data.room().is_none());
        let mut told: Vec<_> = global
            .filter_map(|data| {
                Some(Raw::from_json(account_data_event(
                    &data.kind,
                    &data.content,
                )?))
            })
            .collect();
        let has_rules = changed
            .iter()
            .any(|data| data.room().is_none() && data.kind == PUSH_RULES_TYPE);
        if since.is_none() && !has_rules {
            told.push(self.push_rules(eye.session).await?);
        }
        Ok(told)
    }

    async fn add_thread_subscriptions(
        &self,
        eye: &SlidingContext<'_>,
        since: Position,
        extensions: &mut Extensions,
    ) -> Result<()> {
        let user = eye.session.user;
        if since > 0 && !self.recent_changes.subscriptions_changed(user, since) {
            return Ok(());
        }
        let limit = clamp_limit(
            eye.request.extensions.thread_subscriptions.limit,
            MAX_THREAD_SUBSCRIPTIONS,
        );
        let before = eye.plan.now.position + 1;
        let mut changes = self
            .rooms
            .relations
            .load_subscription_changes(user, before, since, limit + 1)
            .await?;
        let told = &mut extensions.thread_subscriptions;
        if changes.len() > limit {
            changes.truncate(limit);
            told.prev_batch = changes.last().map(|last| timeline_token(last.position));
        }
        (told.subscribed, told.unsubscribed) = split_subscription_changes(changes);
        Ok(())
    }
}

pub(super) fn is_enabled(enabled: Option<bool>) -> bool {
    enabled == Some(true)
}

fn clamp_limit(limit: Option<UInt>, most: usize) -> usize {
    let limit = limit.map_or(most, |limit| {
        usize::try_from(u64::from(limit)).unwrap_or(most)
    });
    limit.clamp(1, most)
}

/// Returns the position up to which a client has received its to-device messages.
fn to_device_since(asked: &request::ToDevice) -> Result<Position> {
    let Some(since) = asked.since.as_deref() else {
        return Ok(0);
    };
    let since: Option<Position> = since.parse().ok();
    since
        .filter(|since| *since >= 0)
        .ok_or_else(|| Error::invalid_param("this is not a to-device token"))
}
