//! `GET /sync`: a response at once if there are changes, or as soon as there are.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    MAX_SYNC_TIMEOUT, SyncAnswer, SyncEnvironment, SyncRequest, lazy_members::LazyMembers,
    remote_echo::PendingSends, response::ResponseBuilder, sync_waiters::SyncWaiters,
    token_reader::TokenReader,
};
use crate::{
    devices::Devices,
    ephemeral::{EphemeralState, PresenceUpdate},
    error::Result,
    tasks::Tasks,
    users::Session,
};

/// Answers syncs that wait for changes. Cheap to clone.
#[derive(Clone)]
pub(super) struct LongPoll {
    devices: Devices,
    ephemeral: EphemeralState,
    waiters: Arc<SyncWaiters>,
    sends: PendingSends,
    tasks: Tasks,
    lazy_members: Arc<LazyMembers>,
    tokens: TokenReader,
    responses: ResponseBuilder,
}

impl LongPoll {
    pub(super) fn new(
        environment: &SyncEnvironment,
        lazy_members: Arc<LazyMembers>,
        tokens: &TokenReader,
        responses: &ResponseBuilder,
    ) -> Self {
        Self {
            devices: environment.devices.clone(),
            ephemeral: environment.ephemeral.clone(),
            waiters: environment.waiters.clone(),
            sends: environment.sends.clone(),
            tasks: environment.tasks.clone(),
            lazy_members,
            tokens: tokens.clone(),
            responses: responses.clone(),
        }
    }

    /// Returns the changes since the client's token, and waits for a change if there is none.
    pub(super) async fn sync(
        &self,
        session: &Session,
        request: &SyncRequest,
    ) -> Result<SyncAnswer> {
        let request = self.tokens.clamp_request(request);
        self.record_sync_start(session, &request).await?;
        let _waiting = self.ephemeral.presence.keep_online(session.user);
        let deadline = Instant::now() + request.timeout.min(MAX_SYNC_TIMEOUT);
        loop {
            let mut waiter = self.waiters.register(session.user);
            let answer = self.responses.respond(session, &request).await?;
            let is_due =
                request.since.is_none() || request.full_state || Instant::now() >= deadline;
            let is_complete = is_due || answer.has_changes;
            if is_complete && answer.has_own_events {
                self.sends.wait_for_responses(session.device).await;
            }
            if is_complete {
                return Ok(answer);
            }
            tokio::select! {
                () = waiter.wait_for_change() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(answer),
                () = self.tasks.stopping().cancelled() => return Ok(answer),
            }
        }
    }

    /// Records that the client is online and has received everything before its token.
    async fn record_sync_start(&self, session: &Session, request: &SyncRequest) -> Result<()> {
        let update = PresenceUpdate::set_by_sync(request.set_presence.clone())?;
        self.ephemeral
            .presence
            .update(session.user, &session.user_id, update);
        if let Some(since) = &request.since {
            self.devices
                .to_device
                .acknowledge(session.device, since.to_device)
                .await
        } else {
            self.lazy_members.forget_device(session.device);
            Ok(())
        }
    }
}
