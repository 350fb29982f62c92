//! New sessions of devices, which a login or a registration starts.

use ruma::{OwnedDeviceId, OwnedUserId};

use super::{IssuedTokens, VerifiedUser, check_text, secrets};
use crate::{
    error::Result,
    storage::{
        WriteTx,
        devices::device_table,
        users::{oauth_clients, tokens, upstream_sessions},
    },
};

/// The longest device id, in bytes.
const DEVICE_ID_BYTES: usize = 255;
/// The largest number of a user's devices. Beyond it, those that were not seen for the longest time are logged out.
pub(super) const MAX_DEVICES: i64 = 1_000;
/// The longest display name of a device, in bytes.
pub(crate) const DEVICE_NAME_BYTES: usize = 255;

/// The device for a login or registration.
#[derive(Debug, Default)]
pub struct NewDevice {
    /// The device id. An existing device of the user gets new tokens. Without an id the server generates one.
    pub device_id: Option<OwnedDeviceId>,
    /// The display name, which is used only for a new device.
    pub display_name: Option<String>,
    /// Whether the client supports refresh tokens.
    pub refresh_token: bool,
}

/// A session that was started.
#[derive(Clone, Debug)]
pub struct StartedSession {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub tokens: IssuedTokens,
}

impl NewDevice {
    /// Checks the device id and the display name.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(device_id) = &self.device_id {
            check_text("device_id", device_id.as_str(), DEVICE_ID_BYTES)?;
        }
        if let Some(name) = &self.display_name {
            check_text("initial_device_display_name", name, DEVICE_NAME_BYTES)?;
        }
        Ok(())
    }
}

impl StartedSession {
    /// Starts a session of a device of a user. Earlier tokens of the device are revoked.
    pub(super) async fn start(
        tx: &mut WriteTx,
        user: VerifiedUser,
        wanted: NewDevice,
        now: i64,
    ) -> Result<Self> {
        let device_id = wanted
            .device_id
            .unwrap_or_else(|| secrets::random_device_id().into());
        let num = user.user_num;
        if let Some(existing) = device_table::find(tx, num, device_id.as_str()).await? {
            tokens::delete_of_devices(tx, &[existing.num]).await?;
            oauth_clients::remove_device_client(tx, existing.num).await?;
            device_table::announce_ended_sessions(tx, num, vec![existing.num]);
        }
        let name = wanted.display_name;
        let device = device_table::upsert(tx, num, device_id.as_str(), name, now).await?;
        upstream_sessions::set_of_device(tx, device, user.upstream_session).await?;
        // Scripts that log in repeatedly and never log out lose their old devices.
        let mut forgotten = device_table::least_recently_seen(tx, num, MAX_DEVICES).await?;
        forgotten.retain(|forgotten| *forgotten != device);
        device_table::delete(tx, num, forgotten).await?;
        Ok(Self {
            user_id: user.user_id,
            device_id,
            tokens: IssuedTokens::issue(tx, device, wanted.refresh_token, now).await?,
        })
    }
}
