//! Room upgrades.

use axum::{Router, extract::State};
use ruma::api::client::room::upgrade_room;

use crate::{
    api::{Answered, App, Class, Incoming, Limits, Outgoing, endpoint},
    error::Result,
    sync::Sync,
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    endpoint::<upgrade_room::v3::Request, _>(upgrade_room)
}

/// `POST /_matrix/client/*/rooms/{roomId}/upgrade`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3roomsroomidupgrade
async fn upgrade_room(
    State(sync): State<Sync>,
    State(workflows): State<Workflows>,
    State(limits): State<Limits>,
    Incoming { from, request }: Incoming<upgrade_room::v3::Request>,
) -> Result<Answered<Outgoing<upgrade_room::v3::Response>>> {
    let sending = sync.sending(from.device);
    limits.check(Class::Send, &*from.user_id)?;
    from.must_not_be_guest()?;
    let creators = request.additional_creators;
    let new = workflows
        .upgrade_room(&from, &request.room_id, request.new_version, creators)
        .await?;
    let response = upgrade_room::v3::Response::new(new);
    Ok(Answered(sending, Outgoing(response)))
}
