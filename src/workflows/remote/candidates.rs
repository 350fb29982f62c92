//! The servers that may know a room, in the order in which they are asked.

use ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, UserId};

use crate::{
    error::{Error, Result},
    federation::RequestFailure,
    rooms::Rooms,
    workflows::{WorkflowSources, aliases::RemoteDirectory},
};

/// The number of servers that are tried for one operation.
const MAX_SERVERS: usize = 20;

/// Servers that may be asked, in order and without duplicates.
#[derive(Clone, Debug)]
pub(super) struct CandidateServers {
    own: OwnedServerName,
    /// The servers that are likely to be in the room, because they were named.
    pub(super) servers: Vec<OwnedServerName>,
    /// The servers to ask if none of `servers` can be reached.
    pub(super) others: Vec<OwnedServerName>,
}

impl CandidateServers {
    pub(super) fn add(&mut self, servers: impl IntoIterator<Item = OwnedServerName>) {
        for server in servers {
            if self.is_new(&server) && self.servers.len() < MAX_SERVERS {
                self.servers.push(server);
            }
        }
    }

    pub(super) fn add_others(&mut self, servers: impl IntoIterator<Item = OwnedServerName>) {
        for server in servers {
            if self.is_new(&server) && self.others.len() < MAX_SERVERS {
                self.others.push(server);
            }
        }
    }

    fn is_new(&self, server: &OwnedServerName) -> bool {
        let mut known = self.servers.iter().chain(&self.others);
        *server != self.own && !known.any(|known| known == server)
    }

    /// Returns all servers, in the order in which they are asked.
    pub(super) fn all(&self) -> Vec<OwnedServerName> {
        self.servers.iter().chain(&self.others).cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.others.is_empty()
    }
}

/// The errors of the servers that were asked; the most specific one is reported.
#[derive(Debug, Default)]
pub(super) struct CandidateErrors {
    most_specific: Option<Error>,
}

impl CandidateErrors {
    pub(super) fn add(&mut self, error: Error) {
        tracing::debug!(%error, "a server refused a request or could not be reached");
        let error = match error {
            // The other server is at fault, not the client.
            Error::BadJson(text) | Error::InvalidSignature(text) | Error::InvalidParam(text) => {
                Error::Unreachable(text)
            }
            other => other,
        };
        let is_better = self
            .most_specific
            .as_ref()
            .is_none_or(|known| specificity(&error) >= specificity(known));
        if is_better {
            self.most_specific = Some(error);
        }
    }

    /// Returns whether none of the asked servers could be reached.
    pub(super) fn has_reached_none(&self) -> bool {
        matches!(self.most_specific, None | Some(Error::Unreachable(_)))
    }

    pub(super) fn into_error(self) -> Error {
        self.most_specific
            .unwrap_or_else(|| Error::not_found("no server is known to be in the room"))
    }
}

fn specificity(error: &Error) -> u8 {
    match error {
        Error::Forbidden(_) => 5,
        Error::IncompatibleRoomVersion(_) | Error::UnsupportedRoomVersion(_) => 4,
        Error::UnableToAuthoriseJoin(_)
        | Error::UnableToGrantJoin(_)
        | Error::RefusedElsewhere { .. } => 3,
        Error::NotFound(_) => 2,
        Error::Unreachable(_) => 1,
        _ => 0,
    }
}

/// Returns whether a server's refusal is final, because other servers would refuse, too.
pub(super) fn is_final(failure: &RequestFailure) -> bool {
    match failure {
        RequestFailure::Unreachable(_) | RequestFailure::Unwritable(_) => false,
        RequestFailure::Refused(refusal) => refusal.status == 403,
    }
}

/// Finds servers that may know a room. Cheap to clone.
#[derive(Clone)]
pub(in crate::workflows) struct ServerFinder {
    rooms: Rooms,
    directory: RemoteDirectory,
}

impl ServerFinder {
    pub(in crate::workflows) fn new(
        sources: &WorkflowSources,
        directory: &RemoteDirectory,
    ) -> Self {
        Self {
            rooms: sources.rooms.clone(),
            directory: directory.clone(),
        }
    }

    pub(super) fn candidates(&self) -> CandidateServers {
        CandidateServers {
            own: self.rooms.memory.server_name().to_owned(),
            servers: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Returns the id of a room given by id or alias, and servers that may be in it, the named ones first.
    pub(super) async fn resolve_room(
        &self,
        room: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
    ) -> Result<(OwnedRoomId, CandidateServers)> {
        let mut candidates = self.candidates();
        candidates.add(via);
        let room_id = match <&RoomId>::try_from(room) {
            Ok(room_id) => room_id.to_owned(),
            Err(alias) => {
                let (room_id, servers) = self.directory.resolve_alias(alias).await?;
                candidates.add(servers);
                room_id
            }
        };
        Ok((room_id, candidates))
    }

    /// Adds servers that this one knows. The inviter's server is a likely one. The last resort are servers that were in
    /// the room when it was last known, and the one in the room id, which may have left it long ago.
    pub(super) async fn add_known_servers(
        &self,
        candidates: &mut CandidateServers,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<()> {
        let inviter = self.rooms.access.find_inviter(room_id, user_id).await?;
        candidates.add(inviter.map(|inviter| inviter.server_name().to_owned()));
        match self.rooms.federation.servers_in_room(room_id).await {
            Ok(servers) => candidates.add_others(servers),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        candidates.add_others(room_id.server_name().map(ToOwned::to_owned));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, server_name};

    use super::*;

    #[test]
    fn a_refusal_precedes_an_unreachable_server() {
        let mut refusals = CandidateErrors::default();

        refusals.add(Error::Unreachable("a is down".to_owned()));
        refusals.add(Error::forbidden("you are banned"));
        refusals.add(Error::IncompatibleRoomVersion(RoomVersionId::V12));
        refusals.add(Error::Unreachable("b is down".to_owned()));

        assert!(matches!(refusals.into_error(), Error::Forbidden(_)));
        let nobody = CandidateErrors::default().into_error();
        assert!(matches!(nobody, Error::NotFound(_)));
    }

    #[test]
    fn each_other_server_is_a_candidate_once() {
        let own = server_name!("own.example").to_owned();
        let mut candidates = CandidateServers {
            own: own.clone(),
            servers: Vec::new(),
            others: Vec::new(),
        };
        let other = server_name!("other.example").to_owned();

        candidates.add([own, other.clone(), other.clone()]);
        candidates.add_others([other.clone()]);
        candidates.add((0..100).map(|n| OwnedServerName::try_from(format!("n{n}")).unwrap()));

        assert_eq!(candidates.servers.first(), Some(&other));
        assert_eq!(candidates.servers.len(), MAX_SERVERS);
        assert!(candidates.others.is_empty());
    }
}
