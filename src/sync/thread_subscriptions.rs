//! Changes of thread subscriptions, as they are sent to clients.
//!
//! See [MSC4308](https://github.com/matrix-org/matrix-spec-proposals/pull/4308).

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    api::client::threads::get_thread_subscriptions_changes::unstable::{
        ThreadSubscription, ThreadUnsubscription,
    },
};

use crate::rooms::SubscriptionChange;

/// Values by room and thread root.
type ByThread<T> = BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, T>>;

/// Splits changes into the current subscriptions and those that were ended.
pub fn split_subscription_changes(
    changes: Vec<SubscriptionChange>,
) -> (ByThread<ThreadSubscription>, ByThread<ThreadUnsubscription>) {
    let mut subscribed: ByThread<ThreadSubscription> = BTreeMap::new();
    let mut unsubscribed: ByThread<ThreadUnsubscription> = BTreeMap::new();
    for change in changes {
        let bump_stamp = UInt::new_saturating(u64::try_from(change.position.as_i64()).unwrap_or(0));
        if let Some(automatic) = change.automatic {
            let threads = subscribed.entry(change.room_id).or_default();
            threads.insert(change.root, ThreadSubscription::new(automatic, bump_stamp));
        } else {
            let threads = unsubscribed.entry(change.room_id).or_default();
            threads.insert(change.root, ThreadUnsubscription::new(bump_stamp));
        }
    }
    (subscribed, unsubscribed)
}
