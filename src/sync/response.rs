//! The response of `/sync`.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::sync::sync_events::v3::{InvitedRoom, JoinedRoom, KnockedRoom, Response},
    events::{
        AnyGlobalAccountDataEvent, AnyStrippedStateEvent, AnySyncEphemeralRoomEvent,
        receipt::ReceiptThread, room::member::MembershipState,
    },
    serde::Raw,
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    SyncInner, SyncRequest, SyncToken,
    deleted_rooms::removed_room,
    room_view::{SyncViewer, room_id},
    snapshot::{RoomContents, RoomSnapshot, SyncSnapshot},
};
use crate::{
    error::Result,
    matrix::{IgnoreSettings, InviteTreatment, wants_global, wants_room, wants_room_data},
    rooms::UserRoom,
    storage::{Receipt, RoomNum, UserNum, users::account_data::AccountData},
    users::{Session, write_push_rules},
};

/// The type of the account data that holds the push rules.
pub(super) const PUSH_RULES_TYPE: &str = "m.push_rules";
/// The largest number of to-device messages in one response.
pub(super) const MAX_TO_DEVICE_MESSAGES: usize = 100;

/// The changes for a user.
#[derive(Debug)]
pub struct SyncAnswer {
    pub response: Response,
    /// The token up to which the response covers the changes.
    pub token: SyncToken,
    /// Whether the response has any changes for the client.
    pub has_changes: bool,
    /// Whether it contains events that the user has sent.
    pub has_own_events: bool,
}

/// Returns whether a response contains no changes.
fn is_empty(response: &Response) -> bool {
    response.rooms.is_empty()
        && response.presence.is_empty()
        && response.account_data.is_empty()
        && response.to_device.is_empty()
        && response.device_lists.is_empty()
}

impl SyncInner {
    /// Returns the changes since the client's token.
    pub(super) async fn respond(
        &self,
        session: &Session,
        request: &SyncRequest,
    ) -> Result<SyncAnswer> {
        let request = &self.clamped(request);
        let moment = self.take_snapshot(session, request).await?;
        let shows_own = AtomicBool::new(false);
        let viewer = SyncViewer {
            session,
            request,
            now: moment.now,
            now_ms: self.clock.now_ms(),
            ignore_settings: self.rooms.access.find_ignore_settings(session.user),
            has_own_events: &shows_own,
        };
        let mut response = Response::new(String::new());
        let account_data = self.account_data(&viewer).await?;
        for room in &moment.rooms {
            let added = self.add_room(&viewer, room, &account_data, &mut response);
            let added = added.await;
            self.correct_deleted_room(&viewer, room, added, &mut response)
                .await?;
        }
        self.add_global_account_data(&viewer, &account_data, &mut response)
            .await?;
        self.add_presence(&viewer, &moment, &mut response).await?;
        let has_lost_keys = self.add_encryption(&viewer, &moment, &mut response).await?;
        let to_device = self.add_to_device(&viewer, &mut response).await?;
        let token = SyncToken {
            position: moment.now,
            to_device,
            tick: moment.tick,
            boot: self.ephemeral.run_id(),
        };
        response.next_batch = token.to_string();
        Ok(SyncAnswer {
            has_changes: has_lost_keys || !is_empty(&response),
            has_own_events: shows_own.load(Ordering::Relaxed),
            response,
            token,
        })
    }

    async fn account_data(&self, viewer: &SyncViewer<'_>) -> Result<Vec<AccountData>> {
        let user = viewer.session.user;
        let after = viewer.request.since.map(|since| since.position);
        if after.is_some_and(|after| !self.recent_changes.account_data_changed(user, after)) {
            return Ok(Vec::new());
        }
        self.users
            .account_data_changed(user, after.unwrap_or(0), viewer.now)
            .await
    }

    async fn add_room(
        &self,
        viewer: &SyncViewer<'_>,
        moment: &RoomSnapshot,
        account_data: &[AccountData],
        response: &mut Response,
    ) -> Result<()> {
        let room_id = room_id(self, moment).await?;
        let filter = &viewer.request.filter.room;
        if !wants_room(filter, &room_id) {
            return Ok(());
        }
        let since = viewer.request.since.map_or(0, |since| since.position);
        let is_news = moment.mine.position > since || viewer.request.full_state;
        if let Some(removed) = &moment.mine.removed {
            let left = removed_room(viewer, moment.mine.position, removed)?;
            response.rooms.leave.insert(room_id, left);
            return Ok(());
        }
        match (&moment.mine.membership, &moment.contents) {
            (MembershipState::Join, Some(inside)) => {
                let news = self.joined_room(viewer, &moment.mine, inside).await?;
                let mut joined = news.room;
                joined.account_data.events =
                    room_account_data(viewer, moment, &room_id, account_data);
                joined.ephemeral.events = ephemeral_events(viewer, inside, &room_id);
                let tells_all = viewer.request.since.is_none() || viewer.request.full_state;
                if tells_all || news.is_new || room_has_changes(viewer, &joined, moment) {
                    response.rooms.join.insert(room_id, joined);
                }
            }
            (MembershipState::Leave | MembershipState::Ban, Some(inside)) => {
                let mut left = self.left_room(viewer, &moment.mine, inside).await?;
                left.account_data.events =
                    room_account_data(viewer, moment, &room_id, account_data);
                response.rooms.leave.insert(room_id, left);
            }
            (MembershipState::Invite, _)
                if is_news
                    && accepts_invite(
                        viewer.ignore_settings.as_deref(),
                        viewer.session,
                        &moment.mine,
                    ) =>
            {
                let mut invited = InvitedRoom::new();
                invited.invite_state.events = stripped_state(&moment.mine);
                response.rooms.invite.insert(room_id, invited);
            }
            (MembershipState::Knock, _) if is_news => {
                let mut knocked = KnockedRoom::new();
                knocked.knock_state.events = stripped_state(&moment.mine);
                response.rooms.knock.insert(room_id, knocked);
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds the global account data. An initial sync has the push rules even if the user has never changed them.
    async fn add_global_account_data(
        &self,
        viewer: &SyncViewer<'_>,
        account_data: &[AccountData],
        response: &mut Response,
    ) -> Result<()> {
        let filter = &viewer.request.filter.account_data;
        let global = account_data.iter().filter(|data| data.room().is_none());
        let (rules, others): (Vec<_>, Vec<_>) =
            global.partition(|data| data.kind == PUSH_RULES_TYPE);
        let wanted = others
            .into_iter()
            .filter(|data| wants_global(filter, &data.kind, None));
        response.account_data.events = wanted
            .filter_map(|data| {
                Some(Raw::from_json(account_data_event(
                    &data.kind,
                    &data.content,
                )?))
            })
            .collect();
        // The stored rules may lack those that the server has added since, so the current ones are sent.
        let has_rules = viewer.request.since.is_none() || !rules.is_empty();
        if has_rules && wants_global(filter, PUSH_RULES_TYPE, None) {
            let rules = self.push_rules(viewer.session).await?;
            response.account_data.events.push(rules);
        }
        Ok(())
    }

    /// Writes the push rules of a user as account data.
    pub(super) async fn push_rules(
        &self,
        session: &Session,
    ) -> Result<Raw<AnyGlobalAccountDataEvent>> {
        let rules = self
            .users
            .push_rules(session.user, &session.user_id)
            .await?;
        let rules = write_push_rules(&rules)?;
        let event = json!({ "type": PUSH_RULES_TYPE, "content": { "global": rules } });
        Ok(Raw::from_json(to_raw_value(&event)?))
    }

    /// Adds the presence of the users who share a room with the user.
    async fn add_presence(
        &self,
        viewer: &SyncViewer<'_>,
        moment: &SyncSnapshot,
        response: &mut Response,
    ) -> Result<()> {
        let since = viewer.request.since.as_ref();
        let changed = since.and_then(|since| {
            self.ephemeral
                .presence
                .changed_users(self.tick_of(since), moment.tick)
        });
        let mut users: HashSet<UserNum> = match changed {
            Some(changed) => changed.into_iter().collect(),
            None => self.ephemeral.presence.known_users().into_iter().collect(),
        };
        users.extend(users_newly_sharing_rooms(viewer, moment));
        if users.is_empty() {
            return Ok(());
        }
        let mine: HashSet<RoomNum> = self
            .rooms
            .memory
            .rooms_of_user(viewer.session.user)
            .await?
            .joined_rooms()
            .into_iter()
            .collect();
        let filter = &viewer.request.filter.presence;
        for user in users {
            let shares = user == viewer.session.user
                || self
                    .rooms
                    .memory
                    .rooms_of_user(user)
                    .await?
                    .joined_rooms()
                    .iter()
                    .any(|room| mine.contains(room));
            if let Some(event) = self
                .ephemeral
                .presence
                .presence_event(user)
                .filter(|_| shares)
                && wants_global(filter, "m.presence", Some(&event.sender))
            {
                response.presence.events.push(Raw::new(&event)?);
            }
        }
        Ok(())
    }

    /// Adds the to-device messages; returns the position up to which they were sent.
    async fn add_to_device(&self, viewer: &SyncViewer<'_>, response: &mut Response) -> Result<i64> {
        let after = viewer.request.since.map_or(0, |since| since.to_device);
        let pending = self
            .devices
            .pending_messages(
                viewer.session.device,
                after,
                viewer.now,
                MAX_TO_DEVICE_MESSAGES,
            )
            .await?;
        let up_to = match pending.last() {
            Some(last) if pending.len() == MAX_TO_DEVICE_MESSAGES => last.position,
            _ => viewer.now,
        };
        for message in pending {
            response
                .to_device
                .events
                .push(Raw::from_json(RawValue::from_string(message.message)?));
        }
        Ok(up_to)
    }
}

/// Returns whether a room belongs in the response because it has changes, even if only its unread counts changed.
fn room_has_changes(viewer: &SyncViewer<'_>, joined: &JoinedRoom, moment: &RoomSnapshot) -> bool {
    // The user's own receipt changes the counts, even from another device. Receipts of others are sent or private.
    let has_read = moment.contents.as_ref().is_some_and(|inside| {
        let mut receipts = inside.receipts.iter();
        receipts.any(|receipt| receipt.user_id == viewer.session.user_id)
    });
    !joined.timeline.events.is_empty()
        || joined.timeline.limited
        || !joined.state.is_empty()
        || !joined.account_data.is_empty()
        || !joined.ephemeral.is_empty()
        || has_read
}

/// Returns whether the user accepts invites from the inviter.
pub(super) fn accepts_invite(
    shield: Option<&IgnoreSettings>,
    session: &Session,
    mine: &UserRoom,
) -> bool {
    let Some(shield) = shield else {
        return true;
    };
    let user_id = session.user_id.as_str();
    let state: Vec<Raw<AnyStrippedStateEvent>> = stripped_state(mine);
    let text =
        |event: &Raw<AnyStrippedStateEvent>, field| event.get_field::<String>(field).ok().flatten();
    let is_invitation = |event: &&Raw<AnyStrippedStateEvent>| {
        text(event, "type").as_deref() == Some("m.room.member")
            && text(event, "state_key").as_deref() == Some(user_id)
    };
    let inviter = state.iter().find(is_invitation);
    let inviter = inviter.and_then(|event| OwnedUserId::try_from(text(event, "sender")?).ok());
    inviter.is_none_or(|inviter| shield.invite_treatment(&inviter) == InviteTreatment::Shown)
}

/// Returns the stripped state of a room for a user who is invited or knocks.
pub(super) fn stripped_state<T>(mine: &UserRoom) -> Vec<Raw<T>> {
    let json = mine.stripped_state.as_deref().unwrap_or("[]");
    serde_json::from_str(json).unwrap_or_default()
}

/// Writes account data as an event. Content that is not JSON cannot have been stored, and is skipped.
pub(super) fn account_data_event(kind: &str, content: &str) -> Option<Box<RawValue>> {
    let kind = Value::String(kind.to_owned());
    RawValue::from_string(format!(r#"{{"type":{kind},"content":{content}}}"#)).ok()
}

fn room_account_data<T>(
    viewer: &SyncViewer<'_>,
    moment: &RoomSnapshot,
    room_id: &OwnedRoomId,
    account_data: &[AccountData],
) -> Vec<Raw<T>> {
    let filter = &viewer.request.filter.room.account_data;
    account_data
        .iter()
        .filter(|data| {
            data.room() == Some(moment.num) && wants_room_data(filter, room_id, &data.kind)
        })
        .filter_map(|data| {
            Some(Raw::from_json(account_data_event(
                &data.kind,
                &data.content,
            )?))
        })
        .collect()
}

fn ephemeral_events(
    viewer: &SyncViewer<'_>,
    inside: &RoomContents,
    room_id: &OwnedRoomId,
) -> Vec<Raw<AnySyncEphemeralRoomEvent>> {
    let filter = &viewer.request.filter.room.ephemeral;
    let mut events = Vec::new();
    if let Some(typing) = &inside.typing
        && wants_room_data(filter, room_id, "m.typing")
        // In an initial sync, only a list that is not empty is worth sending.
        && (viewer.request.since.is_some() || !typing.is_empty())
    {
        events.push(json!({ "type": "m.typing", "content": { "user_ids": typing } }));
    }
    if wants_room_data(filter, room_id, "m.receipt")
        && let Some(content) = receipt_content(viewer.session, &inside.receipts)
    {
        events.push(json!({ "type": "m.receipt", "content": content }));
    }
    events
        .iter()
        .filter_map(|event| to_raw_value(event).ok())
        .map(Raw::from_json)
        .collect()
}

/// Returns the content of `m.receipt`. Private receipts are sent only to their owner.
pub(super) fn receipt_content(session: &Session, receipts: &[Arc<Receipt>]) -> Option<Value> {
    let is_visible =
        |receipt: &&Arc<Receipt>| receipt.kind == "m.read" || receipt.user_id == session.user_id;
    let mut content: BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>> = BTreeMap::new();
    for receipt in receipts.iter().filter(is_visible) {
        let mut data = json!({ "ts": receipt.ts });
        if let (Some(fields), Some(thread)) = (data.as_object_mut(), thread_id(&receipt.thread)) {
            fields.insert("thread_id".to_owned(), thread.into());
        }
        let by_kind = content.entry(receipt.event_id.to_string()).or_default();
        let by_user = by_kind.entry(receipt.kind.clone()).or_default();
        // An event has only one receipt of a user; an unthreaded one has precedence: MSC4102.
        let known = by_user.get(receipt.user_id.as_str());
        if known.is_none_or(|known| known.get("thread_id").is_some()) {
            by_user.insert(receipt.user_id.to_string(), data);
        }
    }
    (!content.is_empty()).then(|| json!(content))
}

fn thread_id(thread: &str) -> Option<String> {
    let thread = match thread {
        "" => ReceiptThread::Unthreaded,
        other => ReceiptThread::try_from(Some(other)).ok()?,
    };
    thread.as_str().map(ToOwned::to_owned)
}

/// Returns the users with whom the user shares a room only since the token. Their presence is sent however old it is.
fn users_newly_sharing_rooms(viewer: &SyncViewer<'_>, moment: &SyncSnapshot) -> Vec<UserNum> {
    let Some(since) = viewer.request.since else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for room in &moment.rooms {
        let Some(inside) = &room.contents else {
            continue;
        };
        if room.mine.membership != MembershipState::Join {
            continue;
        }
        let view = inside.room.view();
        if room.mine.position > since.position {
            found.extend(view.local_members.keys().copied());
            continue;
        }
        for event in &inside.latest_events {
            if let Some(member) = event.pdu.member()
                && let Some((user, _)) = view.local_members.iter().find(|(_, id)| *id == member)
            {
                found.push(*user);
            }
        }
    }
    found
}
