//! Aliases and the public room directory.

use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId, UInt, UserId,
    directory::{PublicRoomsChunk, PublicRoomsChunkInit, RoomNetwork},
    events::{
        StateEventType,
        room::{canonical_alias::RoomCanonicalAliasEventContent, member::MembershipState},
    },
    room::{JoinRuleKind, RoomType},
};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::RoomDirectory;
use crate::{
    error::{Error, RefusalCode, Result},
    matrix,
    numbers::{RoomNum, UserNum},
    rooms::{EventToSend, memory::room::Room},
    storage::{
        TextList, WriteTx,
        rooms::{
            aliases,
            room_table::{self, DirectoryPlace, DirectoryQuery, ListedNetwork, ListedRoom},
        },
        text_list,
    },
};

/// The most rooms on one page, even if the client requests more.
const MAX_PAGE_ROOMS: u64 = 500;
/// The most aliases that one user may create.
const MAX_ALIASES_OF_USER: i64 = 10_000;

/// The longest name of a network of an application service, in bytes.
const MAX_NETWORK_BYTES: usize = 255;

/// A network in whose directory an application service lists rooms.
#[derive(Clone, Copy, Debug)]
pub struct NetworkListing<'a> {
    pub service_id: &'a str,
    pub network: &'a str,
}

/// A search in the room directory.
#[derive(Clone, Debug, Default)]
pub struct DirectorySearch {
    /// The text to find in the name, topic or alias.
    pub term: Option<String>,
    /// The types of rooms to list; an inner `None` means rooms without a type.
    pub room_types: Option<Vec<Option<RoomType>>>,
    /// The networks whose rooms are listed.
    pub network: RoomNetwork,
    /// The token of the page to return.
    pub since: Option<String>,
    /// The most rooms to return.
    pub limit: Option<u64>,
}

/// A page of the room directory.
#[derive(Debug, Default)]
pub struct DirectoryPage {
    /// The rooms, those with the most members first.
    pub chunk: Vec<PublicRoomsChunk>,
    /// The token of the next page.
    pub next_batch: Option<String>,
    /// The token of the page before.
    pub prev_batch: Option<String>,
    /// The number of rooms that the directory lists.
    pub total: u64,
}

impl RoomDirectory {
    /// Returns the room that an alias of this server points to.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such alias.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<OwnedRoomId> {
        let found = {
            let mut conn = self.db.read().await?;
            aliases::get(&mut conn, alias.as_str()).await?
        };
        match found {
            Some(found) => self.memory.room_id(found.room).await,
            None => Err(Error::not_found(format!(
                "there is no room with the alias {alias}"
            ))),
        }
    }

    /// Creates an alias of this server for a room, at the request of a member.
    ///
    /// # Errors
    ///
    /// Returns `RefusalCode::AliasInUse` if the alias is taken, and [`Error::Forbidden`] if the user is not in the
    /// room.
    pub async fn create_alias(
        &self,
        alias: &RoomAliasId,
        room_id: &RoomId,
        creator: AliasCreator<'_>,
    ) -> Result<()> {
        let AliasCreator {
            user_id,
            is_limited,
        } = creator;
        let room = self.memory.room_of_member(room_id).await?;
        if room.view().state.membership(user_id) != MembershipState::Join {
            return Err(Error::forbidden("you are not in this room"));
        }
        let mut tx = self.db.write().await?;
        let creator = tx.intern_user(user_id.as_str()).await?;
        if is_limited {
            check_alias_count(&mut tx, creator).await?;
        }
        if !aliases::insert(&mut tx, alias.as_str(), room.num, creator).await? {
            return Err(Error::refused(
                RefusalCode::AliasInUse,
                format!("the alias {alias} is taken"),
            ));
        }
        tx.commit().await
    }

    /// Removes an alias. Its creator may do that, and anyone who may change the room's canonical alias.
    ///
    /// The alias is also removed from the room's `m.room.canonical_alias` event, if the user may change that.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such alias, and [`Error::Forbidden`] for anyone else.
    pub async fn delete_alias(
        &self,
        alias: &RoomAliasId,
        user: UserNum,
        user_id: &UserId,
        is_admin: bool,
    ) -> Result<()> {
        let found = {
            let mut conn = self.db.read().await?;
            aliases::get(&mut conn, alias.as_str()).await?
        };
        let found = found
            .ok_or_else(|| Error::not_found(format!("there is no room with the alias {alias}")))?;
        let room = self.memory.room_by_number(found.room).await?;
        if found.creator != user && !is_admin && !may_set_canonical_alias(&room, user_id) {
            return Err(Error::forbidden("you may not remove this alias"));
        }
        let mut tx = self.db.write().await?;
        aliases::delete(&mut tx, alias.as_str(), found.room).await?;
        tx.commit().await?;
        let Some(content) = content_without_alias(&room, alias) else {
            return Ok(());
        };
        let content = to_raw_value(&content)?;
        let kind = StateEventType::RoomCanonicalAlias;
        let event = EventToSend::state(user_id.to_owned(), &kind, "", content);
        match self.sender.send(&room.room_id, event).await {
            // A user may remove an alias without the power to change the room.
            Ok(_) | Err(Error::Forbidden(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Checks a new `m.room.canonical_alias` event: all aliases that it adds must exist and point to the room.
    ///
    /// # Errors
    ///
    /// Returns `RefusalCode::BadAlias` for an alias that does not, and [`Error::InvalidParam`] for a malformed one.
    pub async fn check_canonical_alias(&self, room_id: &RoomId, content: &RawValue) -> Result<()> {
        let content = serde_json::from_str::<RoomCanonicalAliasEventContent>(content.get())
            .map_err(|e| Error::invalid_param(format!("not a canonical alias: {e}")))?;
        let room = self.memory.room_of_member(room_id).await?;
        let before = room
            .view()
            .state
            .content::<RoomCanonicalAliasEventContent>(&StateEventType::RoomCanonicalAlias)
            .unwrap_or_default();
        let known = |alias: &OwnedRoomAliasId| {
            before.alias.as_ref() == Some(alias) || before.alt_aliases.contains(alias)
        };
        for alias in content
            .alias
            .iter()
            .chain(&content.alt_aliases)
            .filter(|alias| !known(alias))
        {
            match self.resolve_alias(alias).await {
                Ok(target) if target == room_id => {}
                Ok(_) | Err(Error::NotFound(_)) => {
                    return Err(Error::refused(
                        RefusalCode::BadAlias,
                        format!("{alias} does not point to this room"),
                    ));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Returns the aliases of a room.
    pub async fn aliases(&self, room: &Room) -> Result<Vec<OwnedRoomAliasId>> {
        let mut conn = self.db.read().await?;
        let aliases = aliases::of_room(&mut conn, room.num).await?;
        Ok(aliases
            .into_iter()
            .filter_map(|alias| OwnedRoomAliasId::try_from(alias).ok())
            .collect())
    }

    /// Returns whether the public directory lists a room.
    pub async fn is_published(&self, room: &Room) -> Result<bool> {
        let mut conn = self.db.read().await?;
        room_table::is_published(&mut conn, room.num).await
    }

    /// Adds a room to the public directory or removes it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`] if the user may not change the room's canonical alias.
    pub async fn set_published(
        &self,
        room: &Room,
        user_id: &UserId,
        published: bool,
    ) -> Result<()> {
        if !may_set_canonical_alias(room, user_id) {
            return Err(Error::forbidden(
                "you may not change whether the directory lists this room",
            ));
        }
        let mut tx = self.db.write().await?;
        room_table::set_published(&mut tx, room.num, published).await?;
        tx.commit().await
    }

    /// Lists a room in a network of an application service, or stops to list it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidParam`] for a name that is too long.
    pub async fn set_listed_in_network(
        &self,
        room: &Room,
        listing: NetworkListing<'_>,
        is_listed: bool,
    ) -> Result<()> {
        let NetworkListing {
            service_id,
            network,
        } = listing;
        if network.len() > MAX_NETWORK_BYTES || network.contains('\0') {
            return Err(Error::invalid_param(format!(
                "the network id must have at most {MAX_NETWORK_BYTES} bytes, and no U+0000"
            )));
        }
        let mut tx = self.db.write().await?;
        room_table::set_listed_in_network(&mut tx, room.num, service_id, network, is_listed)
            .await?;
        tx.commit().await
    }

    /// Returns a page of the public directory.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidParam`] for a token that is not from this server.
    pub async fn list_public_rooms(&self, search: DirectorySearch) -> Result<DirectoryPage> {
        let limit = search
            .limit
            .unwrap_or(MAX_PAGE_ROOMS)
            .clamp(1, MAX_PAGE_ROOMS);
        let limit = usize::try_from(limit).unwrap_or(1);
        let since = search
            .since
            .as_deref()
            .map(DirectoryPosition::parse)
            .transpose()?;
        let query = DirectoryQuery {
            term: search.term.unwrap_or_default().to_lowercase(),
            room_types: search.room_types.as_deref().map(room_type_list),
            network: match search.network {
                RoomNetwork::All => ListedNetwork::All,
                RoomNetwork::ThirdParty(name) => ListedNetwork::ThirdParty(name),
                _ => ListedNetwork::Matrix,
            },
            from: since.as_ref().map(|position| position.place),
            limit: i64::try_from(limit).unwrap_or(1) + 1,
        };
        let mut conn = self.db.read().await?;
        let is_back = since.as_ref().is_some_and(|position| position.is_backwards);
        let mut found = if is_back {
            room_table::directory_before(&mut conn, &query).await?
        } else {
            room_table::directory_page(&mut conn, &query).await?
        };
        let has_more = found.len() > limit;
        found.truncate(limit);
        if is_back {
            found.reverse();
        }
        let next = found
            .last()
            .filter(|_| has_more || is_back)
            .map(|room| DirectoryPosition::from_room(room, false));
        let prev = found
            .first()
            .filter(|_| if is_back { has_more } else { since.is_some() });
        Ok(DirectoryPage {
            next_batch: next.map(DirectoryPosition::into_token),
            prev_batch: prev.map(|room| DirectoryPosition::before_room(room).into_token()),
            total: u64::try_from(room_table::count_listed(&mut conn, &query.network).await?)
                .unwrap_or(0),
            chunk: found.into_iter().filter_map(public_rooms_chunk).collect(),
        })
    }
}

/// Returns the content of the room's `m.room.canonical_alias` event without an alias, or `None` if the event does not
/// contain the alias.
fn content_without_alias(room: &Room, alias: &RoomAliasId) -> Option<Map<String, Value>> {
    let kind = StateEventType::RoomCanonicalAlias;
    let mut content: Map<String, Value> = room.view().state.content(&kind)?;
    let before = content.clone();
    if content
        .get("alias")
        .is_some_and(|named| *named == alias.as_str())
    {
        content.remove("alias");
    }
    if let Some(Value::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(|named| *named != alias.as_str());
        if others.is_empty() {
            content.remove("alt_aliases");
        }
    }
    (content != before).then_some(content)
}

fn may_set_canonical_alias(room: &Room, user_id: &UserId) -> bool {
    let state = room.view().state.clone();
    state.membership(user_id) == MembershipState::Join
        && matrix::power_levels(&state, &room.rules)
            .user_can_send_state(user_id, StateEventType::RoomCanonicalAlias)
}

/// A position in the order of the directory, from which a page begins.
struct DirectoryPosition {
    place: DirectoryPlace,
    is_backwards: bool,
}

impl DirectoryPosition {
    fn from_room(room: &ListedRoom, is_back: bool) -> Self {
        Self {
            place: DirectoryPlace {
                joined_members: room.entry.joined_members,
                num: room.num,
            },
            is_backwards: is_back,
        }
    }

    /// Returns the position directly before a room, for the page before it.
    fn before_room(room: &ListedRoom) -> Self {
        let mut position = Self::from_room(room, true);
        position.place.num = RoomNum::new(room.num.as_i64() - 1);
        position
    }

    fn into_token(self) -> String {
        format!(
            "{}{}_{}",
            if self.is_backwards { 'b' } else { 'f' },
            self.place.joined_members,
            self.place.num
        )
    }

    fn parse(token: &str) -> Result<Self> {
        let parse = || {
            let is_back = token.starts_with('b');
            let (members, num) = token.strip_prefix(['b', 'f'])?.split_once('_')?;
            Some(Self {
                place: DirectoryPlace {
                    joined_members: members.parse().ok()?,
                    num: num.parse().ok()?,
                },
                is_backwards: is_back,
            })
        };
        parse().ok_or_else(|| Error::invalid_param("since is not a token of the room directory"))
    }
}

fn room_type_list(types: &[Option<RoomType>]) -> TextList {
    text_list(
        types
            .iter()
            .map(|kind| kind.as_ref().map_or_else(String::new, ToString::to_string)),
    )
}

fn public_rooms_chunk(room: ListedRoom) -> Option<PublicRoomsChunk> {
    let listing = room.entry;
    let joined_members = u64::try_from(listing.joined_members).unwrap_or(0);
    let mut chunk = PublicRoomsChunk::from(PublicRoomsChunkInit {
        num_joined_members: UInt::new_saturating(joined_members),
        room_id: OwnedRoomId::try_from(room.room_id).ok()?,
        world_readable: listing.world_readable,
        guest_can_join: listing.guest_can_join,
    });
    chunk.name = listing.name;
    chunk.topic = listing.topic;
    chunk.canonical_alias = listing
        .canonical_alias
        .and_then(|alias| OwnedRoomAliasId::try_from(alias).ok());
    chunk.avatar_url = listing.avatar_url.map(OwnedMxcUri::from);
    chunk.join_rule = JoinRuleKind::from(listing.join_rule);
    chunk.room_type = listing.room_type.map(RoomType::from);
    Some(chunk)
}

/// The user who creates an alias.
#[derive(Clone, Copy, Debug)]
pub struct AliasCreator<'a> {
    pub user_id: &'a UserId,
    /// Whether the number of the user's aliases is limited. It is not for application services, whose bots may create an
    /// alias for each room of another network.
    pub is_limited: bool,
}

/// Checks that a user may create one more alias.
///
/// # Errors
///
/// Returns [`Error::Forbidden`] if the user has created too many.
pub(crate) async fn check_alias_count(tx: &mut WriteTx, creator: UserNum) -> Result<()> {
    if aliases::count_of_creator(tx, creator).await? >= MAX_ALIASES_OF_USER {
        return Err(Error::forbidden(format!(
            "a user may create at most {MAX_ALIASES_OF_USER} aliases"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{ReadAccess, testing::TestDb};

    #[tokio::test]
    async fn the_aliases_of_a_user_are_limited() {
        let test = TestDb::new().await;
        let (alice, bob) = (UserNum::new(1), UserNum::new(2));
        let mut tx = test.db.write().await.unwrap();
        tx.query(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
             INSERT INTO aliases (alias, room, creator)
             SELECT '#' || CAST(i AS TEXT) || ':localhost', 1, $2 FROM n",
        )
        .bind(MAX_ALIASES_OF_USER)
        .bind(alice)
        .execute()
        .await
        .unwrap();

        let one_more = check_alias_count(&mut tx, alice).await;

        assert!(matches!(one_more, Err(Error::Forbidden(_))));
        assert!(check_alias_count(&mut tx, bob).await.is_ok());
    }
}
