//! Asynchronous uploads: ids are reserved before the bytes arrive, so that a message can be sent during the upload.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create).

use std::{error::Error as StdError, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use ruma::{OwnedMxcUri, ServerName};
use tokio::time::{Instant, timeout_at};

use super::{
    FileDescription, Media, MediaAddress, UploadMetadata, clean_content_type, clean_file_name,
    is_media_id, new_media_id,
};
use crate::{
    error::{Error, RefusalCode, Result},
    numbers::UserNum,
    storage::media::{
        media_table::MediaRow,
        reserved_media_ids::{self, MediaReservation},
    },
};

/// The time for which an id is reserved, as the specification recommends.
const RESERVATION_LIFETIME: Duration = Duration::from_hours(24);
/// The number of reserved ids of one user.
const MAX_RESERVATIONS_PER_USER: i64 = 50;
/// The time after which a user with too many reserved ids may try again.
const RETRY_AFTER: Duration = Duration::from_mins(1);
/// The longest time that a download waits for the upload.
const MAX_UPLOAD_WAIT: Duration = Duration::from_mins(1);

impl Media {
    /// Reserves an id for an upload by a user. Returns it with its expiry time.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when the user has too many reserved ids.
    pub async fn reserve_media_id(&self, uploader: UserNum) -> Result<(OwnedMxcUri, i64)> {
        let now = self.clock.now_ms();
        let lifetime = i64::try_from(RESERVATION_LIFETIME.as_millis()).unwrap_or(i64::MAX);
        let reservation = MediaReservation {
            uploader,
            expires_ts: now.saturating_add(lifetime),
        };
        let media_id = new_media_id();
        let mut tx = self.db.write().await?;
        if reserved_media_ids::count(&mut tx, uploader, now).await? >= MAX_RESERVATIONS_PER_USER {
            return Err(Error::LimitExceeded {
                retry_after: RETRY_AFTER,
            });
        }
        reserved_media_ids::insert(&mut tx, &media_id, reservation, now).await?;
        tx.commit().await?;
        let address = format!("mxc://{}/{media_id}", self.server_name);
        Ok((address.into(), reservation.expires_ts))
    }

    /// Stores a file under an id that is reserved for the uploader.
    ///
    /// # Errors
    ///
    /// `RefusalCode::CannotOverwriteMedia` when it was already uploaded; [`Error::Forbidden`] for other users;
    /// [`Error::NotFound`] when the id is not reserved, or has expired; and as [`Media::upload`].
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn upload_reserved<E>(
        &self,
        address: MediaAddress<'_>,
        upload: UploadMetadata<'_>,
        parts: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<()>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let MediaAddress { server, media_id } = address;
        self.check_reservation(server, media_id, upload.uploader)
            .await?;
        self.check_announced_size(&upload)?;
        let arriving = self.receive_file(parts, self.max_upload_bytes).await?;
        let uploader = upload.uploader;
        let content_type = clean_content_type(upload.content_type);
        let file_name = clean_file_name(upload.file_name);
        let (media, media_id) = (self.clone(), media_id.to_owned());
        // In a task of its own: if the client disconnects now, the file must still be recorded.
        let keeping = self.tasks.spawn(async move {
            let stored = arriving.finish().await?;
            let mut tx = media.db.write().await?;
            if !reserved_media_ids::remove(&mut tx, &media_id).await? {
                return Err(already_uploaded_error());
            }
            let description = FileDescription {
                uploader: Some(uploader),
                content_type: &content_type,
                file_name: file_name.as_deref(),
            };
            let address = media.own_address(&media_id);
            media
                .store_metadata(&mut tx, address, stored, description)
                .await?;
            tx.commit().await?;
            media.arrived.notify_waiters();
            Ok(())
        });
        keeping
            .await
            .map_err(|source| Error::internal("store a media file", source))?
    }

    async fn check_reservation(
        &self,
        server: &ServerName,
        media_id: &str,
        uploader: UserNum,
    ) -> Result<()> {
        let unknown = || Error::not_found("this id is not reserved for an upload");
        if server != self.server_name {
            return Err(unknown());
        }
        // Read before the row, as in `await_upload`.
        let reservation = self.find_reservation(media_id).await?;
        if self.load_row(server, media_id).await?.is_some() {
            return Err(already_uploaded_error());
        }
        let reservation = reservation.ok_or_else(unknown)?;
        if reservation.uploader != uploader {
            return Err(Error::forbidden("this id is reserved for another user"));
        }
        Ok(())
    }

    /// Waits for media with a reserved id, up to the given time.
    ///
    /// # Errors
    ///
    /// `RefusalCode::NotYetUploaded` when it does not arrive in time; [`Error::NotFound`] when the id is not reserved.
    pub(super) async fn await_upload(
        &self,
        server: &ServerName,
        media_id: &str,
        wait: Duration,
    ) -> Result<MediaRow> {
        let until = Instant::now() + wait.min(MAX_UPLOAD_WAIT);
        loop {
            let arrival = self.arrived.notified();
            tokio::pin!(arrival);
            // Registered before the look-up, so that an upload in the meantime is not missed.
            arrival.as_mut().enable();
            // Read before the row. An upload stores the row and removes the reservation in one transaction; in the
            // other order, both could be missed.
            let reservation = self.find_reservation(media_id).await?;
            if let Some(row) = self.load_row(server, media_id).await? {
                return Ok(row);
            }
            if reservation.is_none() {
                return Err(Error::not_found("there is no media with this id"));
            }
            if timeout_at(until, arrival).await.is_err() {
                return Err(Error::refused(
                    RefusalCode::NotYetUploaded,
                    "the media has not been uploaded yet".to_owned(),
                ));
            }
        }
    }

    async fn find_reservation(&self, media_id: &str) -> Result<Option<MediaReservation>> {
        if !is_media_id(media_id) {
            return Ok(None);
        }
        let mut db = self.db.read().await?;
        reserved_media_ids::find(&mut db, media_id, self.clock.now_ms()).await
    }
}

fn already_uploaded_error() -> Error {
    Error::refused(
        RefusalCode::CannotOverwriteMedia,
        "this media has been uploaded already".to_owned(),
    )
}
