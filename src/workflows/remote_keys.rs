//! The keys with which devices encrypt, of this server's users and of others.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId,
    api::{
        client::keys::{
            claim_keys::v3::{Request as ClaimRequest, Response as Claimed},
            get_keys::v3::{Request as QueryRequest, Response as Found},
        },
        federation::keys::{claim_keys, get_keys},
    },
    encryption::DeviceKeys,
    serde::Raw,
};
use serde_json::{Value, json};

use super::Workflows;
use crate::{
    devices::Viewer,
    error::{Error, Result},
    federation::{Allowance, Failure},
};

/// Servers that are asked at once.
const AT_ONCE: usize = 32;
/// The longest that a client may wait for other servers.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer: that of a thousand users with ten devices each.
const MAX_BYTES: usize = 32 * 1024 * 1024;

impl Workflows {
    /// Returns the keys of devices and users, wherever they are; whose server could not tell them is told.
    ///
    /// # Errors
    ///
    /// When what is stored cannot be read.
    pub async fn query_keys(&self, viewer: Viewer<'_>, request: &QueryRequest) -> Result<Found> {
        let (local, remote) = self.by_server(&request.device_keys);
        let mut found = self.devices.query_keys(Some(viewer), &local).await?;
        let allowance = allowance(request.timeout);
        let client = self.federation.client();
        let asking = stream::iter(remote).map(async |(server, wanted)| {
            let request = get_keys::v1::Request::new(wanted.clone());
            let answer = client.send(&server, request, allowance).await;
            (server, wanted, answer)
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(AT_ONCE));
        let mut answered = BTreeMap::new();
        while let Some((server, wanted, answer)) = asking.next().await {
            match answer {
                Ok(mut answer) => {
                    answer.master_keys.retain(|id, _| wanted.contains_key(id));
                    let of_self = &mut answer.self_signing_keys;
                    of_self.retain(|id, _| wanted.contains_key(id));
                    for (user_id, keys) in of_users(answer.device_keys, &wanted) {
                        found.device_keys.insert(user_id, keys);
                    }
                    let learned = (answer.master_keys, answer.self_signing_keys);
                    self.devices
                        .learn_signing_keys(learned.0, learned.1)
                        .await?;
                    answered.extend(wanted);
                }
                Err(failure) => {
                    found.failures.insert(server.to_string(), told(failure));
                }
            }
        }
        self.devices
            .add_signing_keys(Some(viewer), answered.keys().map(|id| &**id), &mut found)
            .await?;
        Ok(found)
    }

    /// Claims one-time keys of devices, wherever they are; whose server could not give them is told.
    ///
    /// # Errors
    ///
    /// When what is stored cannot be read or written.
    pub async fn claim_keys(&self, request: &ClaimRequest) -> Result<Claimed> {
        let (local, remote) = self.by_server(&request.one_time_keys);
        let mut claimed = Claimed::new(self.devices.claim_keys(&local).await?);
        let allowance = allowance(request.timeout);
        let client = self.federation.client();
        let asking = stream::iter(remote).map(async |(server, wanted)| {
            let request = claim_keys::v1::Request::new(wanted.clone());
            let answer = client.send(&server, request, allowance).await;
            (server, wanted, answer)
        });
        let mut asking = std::pin::pin!(asking.buffer_unordered(AT_ONCE));
        while let Some((server, wanted, answer)) = asking.next().await {
            match answer {
                Ok(answer) => {
                    let of_wanted = answer.one_time_keys.into_iter();
                    claimed
                        .one_time_keys
                        .extend(of_wanted.filter_map(|(user_id, mut keys)| {
                            let wanted = wanted.get(&user_id)?;
                            keys.retain(|device_id, _| wanted.contains_key(device_id));
                            Some((user_id, keys))
                        }));
                }
                Err(failure) => {
                    claimed.failures.insert(server.to_string(), told(failure));
                }
            }
        }
        Ok(claimed)
    }

    /// Splits what is asked of users into this server's and that of others.
    fn by_server<T: Clone>(
        &self,
        asked: &BTreeMap<OwnedUserId, T>,
    ) -> (
        BTreeMap<OwnedUserId, T>,
        BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>>,
    ) {
        let (mut local, mut remote) = (BTreeMap::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
        for (user_id, asked) in asked {
            if self.rooms.is_local(user_id) {
                local.insert(user_id.clone(), asked.clone());
            } else {
                let of_server = remote.entry(user_id.server_name().to_owned()).or_default();
                of_server.insert(user_id.clone(), asked.clone());
            }
        }
        (local, remote)
    }
}

fn allowance(timeout: Option<Duration>) -> Allowance {
    Allowance {
        time: timeout.unwrap_or(Allowance::QUICK.time).min(MAX_TIMEOUT),
        bytes: MAX_BYTES,
    }
}

/// Returns of an answer what was asked for, and is what it says.
fn of_users(
    answer: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    wanted: &BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
) -> Vec<(OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>)> {
    let mut found = Vec::new();
    for (user_id, mut devices) in answer {
        let Some(asked) = wanted.get(&user_id) else {
            continue;
        };
        let asked: HashSet<&OwnedDeviceId> = asked.iter().collect();
        devices.retain(|device_id, keys| {
            let is_asked = asked.is_empty() || asked.contains(device_id);
            is_asked
                && keys
                    .deserialize()
                    .is_ok_and(|keys| (&keys.user_id, &keys.device_id) == (&user_id, device_id))
        });
        found.push((user_id, devices));
    }
    found
}

/// Returns a failure as clients are told of it.
fn told(failure: Failure) -> Value {
    let errcode = match &failure {
        Failure::Unreachable(_) => "M_UNKNOWN",
        Failure::Refused(refusal) if refusal.errcode.is_empty() => "M_UNKNOWN",
        Failure::Refused(refusal) => &*refusal.errcode,
    };
    let errcode = errcode.to_owned();
    json!({ "errcode": errcode, "error": Error::from(failure).to_string() })
}
