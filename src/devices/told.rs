//! What other servers are told of the devices of this server's users, as EDUs.
//!
//! [Device management](https://spec.matrix.org/v1.19/server-server-api/#device-management)

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedServerName, UInt, UserId,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, DirectDeviceContent, DirectDeviceMessages, Edu,
        SigningKeyUpdateContent,
    },
    serde::Raw,
};
use serde_json::json;

use super::Devices;
use crate::{
    error::{Error, Result},
    storage::{
        Change, Position, UserNum, WriteTx,
        devices::{
            device_list_updates::{self, NOTHING, ToTell},
            device_lists,
            device_table::{self, Device},
        },
        federation::outbox,
    },
};

/// Devices that a server is told of that hears of a user for the first time: it asks for the whole list then.
const FIRST: usize = 20;
/// About how large a message to devices of another server is at most, in bytes; one to a single device may be larger.
const LETTER_BYTES: usize = 48 * 1024;
/// How long messages wait for a server, and how many do: who is gone for longer has to begin anew.
const LETTERS_KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1000;
const LETTERS_KEPT: i64 = 10_000;
/// Messages that are removed in one turn.
const LETTERS: i64 = 500;

/// What a server is to be told of a user's devices.
#[derive(Debug)]
pub struct Telling {
    /// The user.
    pub user: UserNum,
    /// What it is told.
    pub edus: Vec<Raw<Edu>>,
    /// Up to which position it knows all changes then.
    pub told: Position,
    /// The last `stream_id` of it.
    pub stream_id: i64,
}

impl Devices {
    /// Notes that servers are to be told of the devices of users of this server; returns those that are.
    pub async fn owe_lists(
        &self,
        servers: &[OwnedServerName],
        users: &[UserNum],
    ) -> Result<Vec<OwnedServerName>> {
        let servers = servers.iter().map(|server| server.as_str());
        let pairs: Vec<(&str, UserNum)> = servers
            .flat_map(|server| users.iter().map(move |user| (server, *user)))
            .collect();
        let mut owed = Vec::new();
        for some in pairs.chunks(PAIRS) {
            let mut tx = self.db.write().await?;
            let position = tx.position();
            owed.extend(device_list_updates::owe(&mut tx, some, position).await?);
            tx.commit().await?;
        }
        owed.into_iter()
            .map(|server| server_name(&server))
            .collect()
    }

    /// Returns the users of this server whose keys changed after a position.
    pub async fn lists_changed_after(&self, after: Position) -> Result<Vec<UserNum>> {
        let mut db = self.db.read().await?;
        device_lists::changed_after(&mut db, after).await
    }

    /// Returns what a server is to be told of devices, in at most so many EDUs.
    pub async fn to_tell(&self, server: &OwnedServerName, limit: usize) -> Result<Vec<Telling>> {
        let limited = i64::try_from(limit).unwrap_or(i64::MAX);
        let owed = {
            let mut db = self.db.read().await?;
            device_list_updates::to_tell(&mut db, server.as_str(), limited).await?
        };
        let (mut tellings, mut left) = (Vec::new(), limit);
        for owed in owed {
            // The first words on a user, and those on the user's own keys, are not divided.
            if left < FIRST + 2 && !tellings.is_empty() {
                break;
            }
            let telling = self.telling(owed, left).await?;
            left = left.saturating_sub(telling.edus.len());
            tellings.push(telling);
        }
        Ok(tellings)
    }

    async fn telling(&self, owed: ToTell, limit: usize) -> Result<Telling> {
        let user_id = {
            let mut db = self.db.read().await?;
            self.db.strings.get(&mut db, owed.user_num).await?
        };
        let user_id =
            UserId::parse(&*user_id).map_err(|source| Error::internal("read a user id", source))?;
        if user_id.server_name() != self.server_name {
            return Ok(Telling {
                user: owed.user_num,
                edus: Vec::new(),
                told: owed.changed,
                stream_id: owed.stream_id,
            });
        }
        if owed.told == NOTHING {
            self.first_telling(owed, &user_id).await
        } else {
            self.telling_of_changes(owed, &user_id, limit).await
        }
    }

    /// Tells of all devices of a user. The server will ask for the list, since no EDU went before these.
    async fn first_telling(&self, owed: ToTell, user_id: &UserId) -> Result<Telling> {
        let (devices, newest) = {
            let mut db = self.db.read().await?;
            let newest = device_lists::newest_change(&mut db, owed.user_num).await?;
            let devices = device_table::of_user(&mut db, owed.user_num).await?;
            (devices, newest.unwrap_or_default())
        };
        let list = self.told_of(user_id).await?;
        let mut keys: BTreeMap<_, _> = list
            .devices
            .into_iter()
            .map(|device| (device.device_id, device.keys))
            .collect();
        let mut edus = Vec::new();
        for device in devices.into_iter().rev().take(FIRST) {
            let device_id = OwnedDeviceId::from(device.device_id.as_str());
            let mut content =
                DeviceListUpdateContent::new(user_id.to_owned(), device_id, list.stream_id);
            content.keys = keys.remove(&content.device_id);
            content.device_display_name = device.display_name;
            edus.push(edu(&Edu::DeviceListUpdate(content))?);
        }
        if list.master_key.is_some() {
            let mut content = SigningKeyUpdateContent::new(user_id.to_owned());
            content.master_key = list.master_key;
            content.self_signing_key = list.self_signing_key;
            edus.extend(signing_keys(content)?);
        }
        Ok(Telling {
            user: owed.user_num,
            edus,
            told: owed.changed.max(newest),
            stream_id: i64::from(list.stream_id),
        })
    }

    /// Tells of what changed since a server was told last.
    async fn telling_of_changes(
        &self,
        owed: ToTell,
        user_id: &UserId,
        limit: usize,
    ) -> Result<Telling> {
        let limit = i64::try_from(limit.saturating_sub(1)).unwrap_or(i64::MAX);
        let (changes, devices) = {
            let mut db = self.db.read().await?;
            let user = owed.user_num;
            let changes = device_lists::devices_changed(&mut db, user, owed.told, limit);
            let changes = changes.await?;
            (changes, device_table::of_user(&mut db, user).await?)
        };
        let is_all = i64::try_from(changes.len()).unwrap_or(i64::MAX) < limit;
        let mut devices: BTreeMap<String, Device> = devices
            .into_iter()
            .map(|device| (device.device_id.clone(), device))
            .collect();
        // After the changes: what is told may be newer than they are, and never older.
        let list = self.told_of(user_id).await?;
        let mut keys: BTreeMap<_, _> = list
            .devices
            .into_iter()
            .map(|device| (device.device_id, device.keys))
            .collect();
        let mut telling = Telling {
            user: owed.user_num,
            edus: Vec::new(),
            told: if is_all { owed.changed } else { owed.told },
            stream_id: owed.stream_id,
        };
        for (device_id, position) in changes {
            telling.told = telling.told.max(position);
            if device_id == device_lists::OWN_KEYS {
                let mut content = SigningKeyUpdateContent::new(user_id.to_owned());
                content.master_key.clone_from(&list.master_key);
                content.self_signing_key.clone_from(&list.self_signing_key);
                telling.edus.extend(signing_keys(content)?);
                continue;
            }
            let device = devices.remove(&device_id);
            let device_id = OwnedDeviceId::from(device_id);
            let mut content =
                DeviceListUpdateContent::new(user_id.to_owned(), device_id, number(position));
            content.prev_id = vec![number(telling.stream_id)];
            content.deleted = device.is_none().then_some(true);
            content.keys = keys.remove(&content.device_id);
            content.device_display_name = device.and_then(|device| device.display_name);
            telling.stream_id = position;
            telling.edus.push(edu(&Edu::DeviceListUpdate(content))?);
        }
        Ok(telling)
    }

    /// Returns the oldest messages to devices that wait for a server, but for those that waited for too long.
    pub async fn messages_for(
        &self,
        server: &OwnedServerName,
        now_ms: i64,
        limit: i64,
    ) -> Result<Vec<(Position, Raw<Edu>)>> {
        let since = now_ms.saturating_sub(LETTERS_KEPT_MS);
        let mut db = self.db.read().await?;
        let rows = outbox::messages(&mut db, server.as_str(), since, limit).await?;
        rows.into_iter()
            .map(|(position, json)| Ok((position, Raw::from_json_string(json)?)))
            .collect()
    }

    /// Removes messages that waited for their servers for too long.
    pub async fn remove_old_letters(&self, now_ms: i64) -> Result<()> {
        let before = now_ms.saturating_sub(LETTERS_KEPT_MS);
        loop {
            let mut tx = self.db.write().await?;
            let removed = outbox::remove_old_messages(&mut tx, before, LETTERS).await?;
            tx.commit().await?;
            if removed == 0 {
                return Ok(());
            }
        }
    }

    /// Notes what a server has now: the messages up to a position, and what it was told of devices.
    pub async fn note_told(
        &self,
        server: &OwnedServerName,
        messages: Option<Position>,
        tellings: &[Telling],
    ) -> Result<()> {
        let mut tx = self.db.write().await?;
        if let Some(up_to) = messages {
            outbox::remove_messages(&mut tx, server.as_str(), up_to).await?;
        }
        for telling in tellings {
            let (user, told) = (telling.user, (telling.told, telling.stream_id));
            device_list_updates::set_told(&mut tx, server.as_str(), user, told).await?;
        }
        tx.commit().await
    }
}

/// Users and servers that are noted in one write.
const PAIRS: usize = 500;

/// Messages to devices of users of another server.
pub(super) struct RemoteLetters {
    server: OwnedServerName,
    edus: Vec<String>,
}

/// Writes the messages of one user to devices of other servers: some EDUs for each server.
pub(super) fn write_remote(
    sender: &UserId,
    kind: &str,
    messages: BTreeMap<OwnedServerName, DirectDeviceMessages>,
) -> Result<Vec<RemoteLetters>> {
    let mut letters = Vec::new();
    for (server, messages) in messages {
        let mut edus = Vec::new();
        let mut piece = DirectDeviceMessages::new();
        let mut size = 0;
        for (user_id, of_user) in messages {
            for (device, content) in of_user {
                let length = content.json().get().len();
                if size > 0 && size + length > LETTER_BYTES {
                    edus.push(letter(sender, kind, std::mem::take(&mut piece))?);
                    size = 0;
                }
                size += length;
                let of_user = piece.entry(user_id.clone()).or_default();
                of_user.insert(device, content);
            }
        }
        if !piece.is_empty() {
            edus.push(letter(sender, kind, piece)?);
        }
        letters.push(RemoteLetters { server, edus });
    }
    Ok(letters)
}

/// Stores messages for other servers, in the turn that stores all else of the request; the oldest that wait for a server
/// go when there are too many.
pub(super) async fn post(tx: &mut WriteTx, letters: &[RemoteLetters], now_ms: i64) -> Result<()> {
    for RemoteLetters { server, edus } in letters {
        for edu in edus {
            let position = tx.position();
            outbox::insert_message(tx, position, server.as_str(), (edu, now_ms)).await?;
            let server = server.clone();
            tx.publish(position, Change::ToServer { server });
        }
        outbox::keep_newest_messages(tx, server.as_str(), LETTERS_KEPT).await?;
    }
    Ok(())
}

fn letter(sender: &UserId, kind: &str, messages: DirectDeviceMessages) -> Result<String> {
    let message_id = format!("{:032x}", rand::random::<u128>());
    let mut content = DirectDeviceContent::new(sender.to_owned(), kind.into(), message_id.into());
    content.messages = messages;
    Ok(serde_json::to_string(&Edu::DirectToDevice(content))?)
}

/// The keys of a user under the name of the specification, and under that which servers knew before.
fn signing_keys(content: SigningKeyUpdateContent) -> Result<[Raw<Edu>; 2]> {
    let old = json!({ "edu_type": "org.matrix.signing_key_update", "content": content });
    let old = Raw::from_json_string(old.to_string())?;
    Ok([edu(&Edu::SigningKeyUpdate(content))?, old])
}

fn edu(edu: &Edu) -> Result<Raw<Edu>> {
    Ok(Raw::new(edu)?)
}

fn number(position: Position) -> UInt {
    UInt::try_from(position).unwrap_or_default()
}

fn server_name(server: &str) -> Result<OwnedServerName> {
    server
        .try_into()
        .map_err(|source| Error::internal("read the name of a server", source))
}
