//! The services that joins and knocks have in common.

use super::{
    candidates::ServerFinder, entry_route::EntryRoutes, membership_locks::MembershipLocks,
};
use crate::workflows::{memberships::MembershipChanges, profiles::UserProfiles};

/// The services that joins and knocks have in common. Cheap to clone.
#[derive(Clone)]
pub(in crate::workflows) struct EntryServices {
    pub(in crate::workflows) profiles: UserProfiles,
    pub(in crate::workflows) servers: ServerFinder,
    pub(in crate::workflows) locks: MembershipLocks,
    pub(in crate::workflows) routes: EntryRoutes,
    pub(in crate::workflows) memberships: MembershipChanges,
}
