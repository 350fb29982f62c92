//! Reports of users to the administrators of the server.
//!
//! [Reporting content](https://spec.matrix.org/v1.19/client-server-api/#reporting-content)

use ruma::{EventId, RoomId, UserId, events::room::member::MembershipState};

use super::Reports;
use crate::{
    error::{Error, Result},
    numbers::UserNum,
    storage::rooms::reports::{self, NewReport},
};

/// The longest reason for a report, in bytes.
const MAX_REASON_BYTES: usize = 8 * 1024;
/// The number of reports of one user that are kept. Older ones are removed.
const MAX_REPORTS_PER_USER: i64 = 1_000;

/// The user who reports something, and the reason.
#[derive(Clone, Copy, Debug)]
pub struct ReportAuthor<'a> {
    /// The number of the user.
    pub user: UserNum,
    /// The user id of the user.
    pub user_id: &'a UserId,
    /// The reason for the report.
    pub reason: &'a str,
}

impl Reports {
    /// Stores the report of an event in a room that the reporter is in.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] for an event that the reporter cannot see, whether it exists or not.
    pub async fn report_event(
        &self,
        reporter: ReportAuthor<'_>,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<()> {
        reporter.check_reason()?;
        let unknown = || Error::not_found("there is no such event in a room that you are in");
        let hide = |error| match error {
            Error::NotFound(_) => unknown(),
            other => other,
        };
        let room = self.memory.room(room_id).await.map_err(hide)?;
        if room.view().state.membership(reporter.user_id) != MembershipState::Join {
            return Err(unknown());
        }
        let access = self
            .access
            .load_access(&room, reporter.user, reporter.user_id)
            .await?;
        self.timeline
            .load_visible_event(&room, &access, event_id)
            .await
            .map_err(hide)?;
        let report = NewReport {
            room: Some(room.num),
            event_id: Some(event_id.as_str()),
            ..self.new_report(reporter)
        };
        tracing::info!(user_id = %reporter.user_id, %room_id, %event_id, "a user reports an event");
        self.store_report(report).await
    }

    /// Stores the report of a room. The answer does not reveal whether the room exists.
    pub async fn report_room(&self, reporter: ReportAuthor<'_>, room_id: &RoomId) -> Result<()> {
        reporter.check_reason()?;
        let room = match self.memory.room_number(room_id).await {
            Ok(room) => Some(room),
            Err(Error::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        tracing::info!(user_id = %reporter.user_id, %room_id, "a user reports a room");
        self.store_report(NewReport {
            room,
            ..self.new_report(reporter)
        })
        .await
    }

    /// Stores the report of a user. The answer does not reveal whether the user exists.
    pub async fn report_user(&self, reporter: ReportAuthor<'_>, target: &UserId) -> Result<()> {
        reporter.check_reason()?;
        let user = self.memory.user_number(target).await?;
        if user.is_none() {
            return Ok(());
        }
        tracing::info!(user_id = %reporter.user_id, target = %target, "a user reports another user");
        self.store_report(NewReport {
            user,
            ..self.new_report(reporter)
        })
        .await
    }

    fn new_report<'a>(&self, reporter: ReportAuthor<'a>) -> NewReport<'a> {
        NewReport {
            ts: self.clock.now_ms(),
            reporter: reporter.user,
            room: None,
            event_id: None,
            user: None,
            reason: reporter.reason,
        }
    }

    async fn store_report(&self, report: NewReport<'_>) -> Result<()> {
        let mut tx = self.db.write().await?;
        reports::insert(&mut tx, report, MAX_REPORTS_PER_USER).await?;
        tx.commit().await
    }
}

impl ReportAuthor<'_> {
    fn check_reason(&self) -> Result<()> {
        if self.reason.len() > MAX_REASON_BYTES {
            return Err(Error::invalid_param(format!(
                "the reason must have at most {MAX_REASON_BYTES} bytes"
            )));
        }
        if self.reason.contains('\0') {
            return Err(Error::invalid_param("the reason must not contain U+0000"));
        }
        Ok(())
    }
}
