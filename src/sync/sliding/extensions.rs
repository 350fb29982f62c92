//! The extensions that do not concern single rooms: to-device messages, keys, global account data, thread
//! subscriptions, sticky events.
//!
//! See [MSC3885](https://github.com/matrix-org/matrix-spec-proposals/pull/3885),
//! [MSC3884](https://github.com/matrix-org/matrix-spec-proposals/pull/3884),
//! [MSC3959](https://github.com/matrix-org/matrix-spec-proposals/pull/3959),
//! [MSC4308](https://github.com/matrix-org/matrix-spec-proposals/pull/4308) and
//! [MSC4480](https://github.com/matrix-org/matrix-spec-proposals/pull/4480).

use std::sync::Arc;

use ruma::{
    UInt,
    api::client::sync::sync_events::v5::{request, response::Extensions},
};

use super::{
    SlidingSections,
    connection_state::RequestParameters,
    context::{SlidingContext, equivalent_sync_request},
    request::SlidingSyncRequest,
    response::{AllExtensions, ToDevice},
};
use crate::{
    devices::Devices,
    error::{Error, Result},
    numbers::{Position, PositionRange},
    rooms::Rooms,
    storage::Db,
    sync::{
        SyncEnvironment,
        account_data::AccountDataReader,
        device_lists::DeviceListReader,
        device_sections::{DeviceSections, MAX_TO_DEVICE_MESSAGES, ToDeviceRequest},
        recent_changes::RecentChanges,
        sticky_events::{FormattedStickyEvent, StickyRooms, StickySections, StickySelection},
        thread_subscriptions::split_subscription_changes,
        timeline_token,
        token_reader::TokenReader,
    },
    users::Session,
};

/// The largest number of sticky events in one response, besides those of rooms that the user has just joined. Also the
/// number when the client sets no limit.
const MAX_STICKY_EVENTS: usize = 100;
/// The largest number of thread subscriptions in one response.
const MAX_THREAD_SUBSCRIPTIONS: usize = 100;

/// Reads the extensions that do not concern single rooms. Cheap to clone.
#[derive(Clone)]
pub(super) struct ExtensionReader {
    db: Db,
    devices: Devices,
    rooms: Rooms,
    recent_changes: Arc<RecentChanges>,
    tokens: TokenReader,
    account_data: AccountDataReader,
    device_sections: DeviceSections,
    device_lists: DeviceListReader,
    sticky: StickySections,
}

impl ExtensionReader {
    pub(super) fn new(environment: &SyncEnvironment, sections: &SlidingSections) -> Self {
        Self {
            db: environment.db.clone(),
            devices: environment.devices.clone(),
            rooms: environment.rooms.clone(),
            recent_changes: environment.recent_changes.clone(),
            tokens: sections.tokens.clone(),
            account_data: sections.account_data.clone(),
            device_sections: sections.devices.clone(),
            device_lists: sections.device_lists.clone(),
            sticky: sections.sticky.clone(),
        }
    }

    /// Records that a client has received the to-device messages before its token.
    pub(super) async fn acknowledge_to_device(
        &self,
        session: &Session,
        request: &SlidingSyncRequest,
    ) -> Result<()> {
        let since = parse_since(request.extensions.to_device.since.as_deref())?;
        if !is_enabled(request.extensions.to_device.enabled) || since == Position::ZERO {
            return Ok(());
        }
        let up_to = since.min(self.db.journal().published_position());
        self.devices
            .to_device
            .acknowledge(session.device, up_to)
            .await
    }

    /// Adds these extensions; returns whether they have any changes for the client.
    pub(super) async fn add_extensions(
        &self,
        context: &SlidingContext<'_>,
        previous: &RequestParameters,
        extensions: &mut AllExtensions,
    ) -> Result<bool> {
        let requested = &context.request.extensions;
        let others = &mut extensions.others;
        let mut has_changes = false;
        if is_enabled(requested.to_device.enabled) {
            let to_device = self.to_device(context, &requested.to_device).await?;
            has_changes |= !to_device.events.is_empty();
            extensions.to_device = Some(to_device);
        }
        if is_enabled(requested.e2ee.enabled) {
            has_changes |= self.add_keys(context, others).await?;
        }
        // A client that enables an extension for the first time receives all of its data.
        let since = |was_enabled: Option<bool>| {
            let since = context.since.filter(|_| is_enabled(was_enabled));
            since.map(|since| since.position)
        };
        if is_enabled(requested.account_data.enabled) {
            let since = since(previous.extensions.account_data.enabled);
            let account_data = &self.account_data;
            others.account_data.global = account_data
                .global_events(context.session, since, context.plan.now.position)
                .await?;
            has_changes |= !others.account_data.global.is_empty();
        }
        if is_enabled(requested.thread_subscriptions.enabled) {
            let since = since(previous.extensions.thread_subscriptions.enabled);
            self.add_thread_subscriptions(context, since.unwrap_or(Position::ZERO), others)
                .await?;
            has_changes |= !others.thread_subscriptions.is_empty();
        }
        if is_enabled(requested.sticky_events.enabled) {
            has_changes |= self.add_sticky_events(context, others).await?;
        }
        Ok(has_changes)
    }

    async fn to_device(
        &self,
        context: &SlidingContext<'_>,
        requested: &request::ToDevice,
    ) -> Result<ToDevice> {
        let now = self.db.journal().published_position();
        let request = ToDeviceRequest {
            device: context.session.device,
            after: parse_since(requested.since.as_deref())?.min(now),
            up_to: now,
            limit: clamp_limit(requested.limit, MAX_TO_DEVICE_MESSAGES),
        };
        let page = self.device_sections.to_device(request).await?;
        Ok(ToDevice {
            next_batch: page.up_to.to_string(),
            events: page.events,
        })
    }

    /// Adds the parts for end-to-end encryption; returns whether there are changes.
    async fn add_keys(
        &self,
        context: &SlidingContext<'_>,
        extensions: &mut Extensions,
    ) -> Result<bool> {
        let session = context.session;
        let left = self.devices.key_counts.of_device(session.device).await?;
        let e2ee = &mut extensions.e2ee;
        e2ee.device_one_time_keys_count = left.one_time_counts();
        e2ee.device_unused_fallback_key_types = Some(left.unused_fallback_algorithms());
        let Some(since) = context.since else {
            return Ok(false);
        };
        // Changes after the plan was made may be sent twice, which does no harm.
        let token = self.tokens.token_at(since.position, since.tick);
        e2ee.device_lists = self.device_lists.changes_since(session, token).await?;
        Ok(!e2ee.device_lists.is_empty() || left.claimed_at > since.position)
    }

    async fn add_thread_subscriptions(
        &self,
        context: &SlidingContext<'_>,
        since: Position,
        extensions: &mut Extensions,
    ) -> Result<()> {
        let user = context.session.user;
        if since > Position::ZERO && !self.recent_changes.subscriptions_changed(user, since) {
            return Ok(());
        }
        let limit = clamp_limit(
            context.request.extensions.thread_subscriptions.limit,
            MAX_THREAD_SUBSCRIPTIONS,
        );
        let range = PositionRange {
            after: since,
            up_to: context.plan.now.position,
        };
        let mut changes = self
            .rooms
            .relations
            .load_subscription_changes(user, range, limit + 1)
            .await?;
        let sent = &mut extensions.thread_subscriptions;
        if changes.len() > limit {
            changes.truncate(limit);
            sent.prev_batch = changes.last().map(|last| timeline_token(last.position));
        }
        (sent.subscribed, sent.unsubscribed) = split_subscription_changes(changes);
        Ok(())
    }

    /// Adds sticky events; returns whether there are any, or more than fit.
    async fn add_sticky_events(
        &self,
        context: &SlidingContext<'_>,
        extensions: &mut Extensions,
    ) -> Result<bool> {
        let requested = &context.request.extensions.sticky_events;
        let now = context.plan.now.position;
        let selection = StickySelection {
            range: PositionRange {
                after: parse_since(requested.since.as_deref())?.min(now),
                up_to: now,
            },
            limit: clamp_limit(requested.limit, MAX_STICKY_EVENTS),
            rooms: StickyRooms::Among(&context.plan.listed_rooms),
        };
        let request = equivalent_sync_request(None, 0);
        let viewer = context.viewer(&request);
        let found = self.sticky.read_sticky_events(&viewer, selection).await?;
        let has_changes = !found.events.is_empty() || found.up_to < now;
        let sent = &mut extensions.sticky_events;
        sent.next_batch = Some(found.up_to.to_string());
        for FormattedStickyEvent { room_id, event } in found.events {
            sent.rooms.entry(room_id).or_default().events.push(event);
        }
        Ok(has_changes)
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

/// Returns the position up to which a client has received the data of an extension with tokens of its own.
fn parse_since(since: Option<&str>) -> Result<Position> {
    let Some(since) = since else {
        return Ok(Position::ZERO);
    };
    let since: Option<Position> = since.parse().ok();
    since
        .filter(|since| *since >= Position::ZERO)
        .ok_or_else(|| Error::invalid_param("this is not a token of the extension"))
}
