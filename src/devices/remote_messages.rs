//! To-device messages to users of other servers, as EDUs for each server.

use std::collections::BTreeMap;

use ruma::{
    OwnedServerName, ServerName, UserId,
    api::{
        client::to_device::send_event_to_device::v3::Messages,
        federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages, Edu},
    },
    canonical_json::CanonicalJsonObject,
};
use serde_json::value::RawValue;

use super::message_delivery::MAX_MESSAGE_BYTES;
use crate::{
    error::{Error, Result},
    storage::{JournalChange, WriteTx, federation::outbox},
};

/// The largest number of other servers that one request reaches. Clients share a room key with some hundred devices in
/// one request, some with all.
pub(super) const MAX_TARGET_SERVERS: usize = 1_000;
/// The approximate largest size of a to-device EDU for another server, in bytes. One for a single device may be larger.
const MAX_EDU_BYTES: usize = 48 * 1024;
/// The number of messages that wait for a server. A server that is away long misses the oldest.
const MAX_MESSAGES_PER_SERVER: i64 = 10_000;

/// To-device messages to users of one other server.
pub(super) struct RemoteServerMessages {
    server: OwnedServerName,
    edus: Vec<String>,
}

/// Serializes the messages to devices of users of other servers, by server.
pub(super) fn serialize_remote_messages(
    own_server: &ServerName,
    sender: &UserId,
    kind: &str,
    messages: &Messages,
) -> Result<Vec<RemoteServerMessages>> {
    let mut by_server = BTreeMap::<_, DirectDeviceMessages>::new();
    for (user_id, devices) in messages {
        if user_id.server_name() == own_server {
            continue;
        }
        for content in devices.values() {
            check_can_be_sent(content.json())?;
        }
        let of_server = by_server
            .entry(user_id.server_name().to_owned())
            .or_default();
        of_server.insert(user_id.clone(), devices.clone());
    }
    if by_server.len() > MAX_TARGET_SERVERS {
        return Err(Error::invalid_param(format!(
            "the messages have more than {MAX_TARGET_SERVERS} target servers"
        )));
    }
    serialize_for_servers(sender, kind, by_server)
}

/// Checks that a message can be part of a signed transaction.
fn check_can_be_sent(content: &RawValue) -> Result<()> {
    if content.get().len() > MAX_MESSAGE_BYTES {
        return Err(Error::TooLarge("a message is too large".to_owned()));
    }
    serde_json::from_str::<CanonicalJsonObject>(content.get())
        .map(|_| ())
        .map_err(|error| Error::BadJson(format!("a message cannot be signed: {error}")))
}

/// Serializes the messages of one user to devices of other servers: some EDUs for each server.
fn serialize_for_servers(
    sender: &UserId,
    kind: &str,
    messages: BTreeMap<OwnedServerName, DirectDeviceMessages>,
) -> Result<Vec<RemoteServerMessages>> {
    let mut messages_by_server = Vec::new();
    for (server, messages) in messages {
        let edus = serialize_in_parts(sender, kind, messages)?;
        messages_by_server.push(RemoteServerMessages { server, edus });
    }
    Ok(messages_by_server)
}

/// Serializes messages as EDUs, none of which is too big.
fn serialize_in_parts(
    sender: &UserId,
    kind: &str,
    messages: DirectDeviceMessages,
) -> Result<Vec<String>> {
    let mut edus = Vec::new();
    let mut part = DirectDeviceMessages::new();
    let mut size = 0;
    for (user_id, of_user) in messages {
        for (device, content) in of_user {
            let length = content.json().get().len();
            if size > 0 && size + length > MAX_EDU_BYTES {
                edus.push(to_device_edu(sender, kind, std::mem::take(&mut part))?);
                size = 0;
            }
            size += length;
            let of_user = part.entry(user_id.clone()).or_default();
            of_user.insert(device, content);
        }
    }
    if !part.is_empty() {
        edus.push(to_device_edu(sender, kind, part)?);
    }
    Ok(edus)
}

/// Stores messages for other servers, in the transaction that stores the rest of the request. If too many wait for a
/// server, the oldest are removed.
pub(super) async fn store_remote_messages(
    tx: &mut WriteTx,
    messages_by_server: &[RemoteServerMessages],
    now_ms: i64,
) -> Result<()> {
    for RemoteServerMessages { server, edus } in messages_by_server {
        for edu in edus {
            let position = tx.next_position();
            let message = outbox::NewServerMessage {
                position,
                server: server.as_str(),
                edu,
                created_ts: now_ms,
            };
            outbox::insert_message(tx, message).await?;
            let server = server.clone();
            tx.publish(position, JournalChange::ToServer { server });
        }
        outbox::keep_newest_messages(tx, server.as_str(), MAX_MESSAGES_PER_SERVER).await?;
    }
    Ok(())
}

fn to_device_edu(sender: &UserId, kind: &str, messages: DirectDeviceMessages) -> Result<String> {
    let message_id = format!("{:032x}", rand::random::<u128>());
    let mut content = DirectDeviceContent::new(sender.to_owned(), kind.into(), message_id.into());
    content.messages = messages;
    Ok(serde_json::to_string(&Edu::DirectToDevice(content))?)
}
