//! Room aliases and public room lists, of this server and of others.

use std::collections::HashMap;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, ServerName, UInt,
    api::federation::{
        directory::{get_public_rooms, get_public_rooms_filtered},
        query::get_room_information,
    },
    directory::{Filter, RoomTypeFilter},
    events::{StateEventType, room::member::MembershipState},
};

use super::WorkflowSources;
use crate::{
    application_services::ServiceQueries,
    error::{Error, Result},
    federation::{Federation, RequestLimits},
    rooms::{DirectoryPage, DirectorySearch, Room, Rooms},
};

/// The largest number of servers in an answer. To join, a client needs only one that responds.
const MAX_SERVERS: usize = 50;

/// Resolves aliases, and fetches the public room lists of other servers. Cheap to clone.
#[derive(Clone)]
pub struct RemoteDirectory {
    rooms: Rooms,
    federation: Federation,
    service_queries: ServiceQueries,
}

impl RemoteDirectory {
    pub(super) fn new(sources: &WorkflowSources) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            federation: sources.federation.clone(),
            service_queries: sources.service_queries.clone(),
        }
    }

    /// Returns the room that an alias points to, and servers that are in it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the alias does not exist; [`Error::Unreachable`] when its server does not answer.
    pub async fn resolve_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
        let server = alias.server_name();
        if server == self.rooms.memory.server_name() {
            let room_id = self.resolve_local_alias(alias).await?;
            let room = self.rooms.memory.room(&room_id).await?;
            return Ok((room_id, servers_in(&room, self.rooms.memory.server_name())));
        }
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let client = self.federation.client();
        let found = client
            .send(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        let mut servers = found.servers;
        servers.truncate(MAX_SERVERS);
        if !servers.iter().any(|known| known == server) {
            servers.push(server.to_owned());
        }
        Ok((found.room_id, servers))
    }

    /// Returns the room that an alias of this server points to. Application services may create it now.
    async fn resolve_local_alias(&self, alias: &RoomAliasId) -> Result<OwnedRoomId> {
        let directory = &self.rooms.directory;
        match directory.resolve_alias(alias).await {
            Err(Error::NotFound(_)) if self.service_queries.create_alias_on_demand(alias).await => {
                directory.resolve_alias(alias).await
            }
            resolved => resolved,
        }
    }

    /// Returns a page of the public rooms of another server.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or refuses.
    pub async fn fetch_public_rooms(
        &self,
        server: &ServerName,
        search: DirectorySearch,
    ) -> Result<DirectoryPage> {
        let client = self.federation.client();
        let limit = search.limit.map(UInt::new_saturating);
        if search.term.is_none() && search.room_types.is_none() {
            let mut request = get_public_rooms::v1::Request::new();
            request.limit = limit;
            request.since = search.since;
            request.room_network = search.network;
            let page = client
                .send(server, request, RequestLimits::QUICK_RESPONSE)
                .await?;
            return Ok(DirectoryPage {
                chunk: page.chunk,
                next_batch: page.next_batch,
                prev_batch: page.prev_batch,
                total: page.total_room_count_estimate.unwrap_or_default().into(),
            });
        }
        let mut request = get_public_rooms_filtered::v1::Request::new();
        request.limit = limit;
        request.since = search.since;
        request.room_network = search.network;
        request.filter = Filter::new();
        request.filter.generic_search_term = search.term;
        let types = search.room_types.unwrap_or_default().into_iter();
        request.filter.room_types = types.map(RoomTypeFilter::from).collect();
        let page = client
            .send(server, request, RequestLimits::QUICK_RESPONSE)
            .await?;
        Ok(DirectoryPage {
            chunk: page.chunk,
            next_batch: page.next_batch,
            prev_batch: page.prev_batch,
            total: page.total_room_count_estimate.unwrap_or_default().into(),
        })
    }
}

/// Returns the servers in a room: this one first, and then by their number of members.
fn servers_in(room: &Room, own: &ServerName) -> Vec<OwnedServerName> {
    let state = room.view().state.clone();
    let mut members: HashMap<OwnedServerName, usize> = HashMap::new();
    for pdu in state.of_type(&StateEventType::RoomMember) {
        let server = pdu.state_key.as_deref().and_then(|id| id.split_once(':'));
        let server = server.and_then(|(_, name)| OwnedServerName::try_from(name).ok());
        if pdu.membership() == Some(MembershipState::Join)
            && let Some(server) = server
        {
            *members.entry(server).or_default() += 1;
        }
    }
    members.remove(own);
    let mut others: Vec<(OwnedServerName, usize)> = members.into_iter().collect();
    others.sort_by(|(a, one), (b, other)| other.cmp(one).then_with(|| a.cmp(b)));
    let others = others.into_iter().map(|(server, _)| server);
    let all = std::iter::once(own.to_owned()).chain(others);
    all.take(MAX_SERVERS).collect()
}
