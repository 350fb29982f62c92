//! Reports of events, rooms and users to the administrators of the server.

use axum::{Router, extract::State};
use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::Result,
    rooms::{ReportAuthor, Rooms},
    users::Session,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<report_content::v3::Request, _>(report_content))
        .merge(endpoint::<report_room::v3::Request, _>(report_room))
        .merge(endpoint::<report_user::v3::Request, _>(report_user))
}

/// `POST /_matrix/client/*/rooms/{roomId}/report/{eventId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreporteventid).
async fn report_content(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<report_content::v3::Request>,
) -> Result<MatrixResponse<report_content::v3::Response>> {
    let reason = request.reason.unwrap_or_default();
    let reporter = reporter(&from, &reason);
    rooms
        .reports
        .report_event(reporter, &request.room_id, &request.event_id)
        .await?;
    Ok(MatrixResponse(report_content::v3::Response::new()))
}

/// `POST /_matrix/client/*/rooms/{roomId}/report`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidreport).
async fn report_room(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<report_room::v3::Request>,
) -> Result<MatrixResponse<report_room::v3::Response>> {
    rooms
        .reports
        .report_room(reporter(&from, &request.reason), &request.room_id)
        .await?;
    Ok(MatrixResponse(report_room::v3::Response::new()))
}

/// `POST /_matrix/client/*/users/{userId}/report`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3usersuseridreport).
async fn report_user(
    State(rooms): State<Rooms>,
    MatrixRequest { from, request }: MatrixRequest<report_user::v3::Request>,
) -> Result<MatrixResponse<report_user::v3::Response>> {
    rooms
        .reports
        .report_user(reporter(&from, &request.reason), &request.user_id)
        .await?;
    Ok(MatrixResponse(report_user::v3::Response::new()))
}

fn reporter<'a>(session: &'a Session, reason: &'a str) -> ReportAuthor<'a> {
    ReportAuthor {
        user: session.user,
        user_id: &session.user_id,
        reason,
    }
}
