//! Sorts events so that each comes after the events that it refers to.

use std::collections::{HashMap, HashSet};

use ruma::OwnedEventId;

use super::Pdu;

/// Sorts events so that each follows those among them that it refers to, by its `auth_events` or its `prev_events`.
///
/// Where these do not decide, the given order remains. Events in a circle come in any order. If two events have the
/// same id, the later one remains.
pub fn sort_topologically<E: AsRef<Pdu>>(
    events: Vec<E>,
    references: impl Fn(&Pdu) -> &[OwnedEventId],
) -> Vec<E> {
    let id_of = |event: &E| event.as_ref().event_id.clone();
    let ids: Vec<OwnedEventId> = events.iter().map(id_of).collect();
    let with_ids = events.into_iter().map(|event| (id_of(&event), event));
    let mut waiting: HashMap<OwnedEventId, E> = with_ids.collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    let mut begun: HashSet<OwnedEventId> = HashSet::new();
    for id in ids {
        let mut stack = vec![id];
        while let Some(id) = stack.last().cloned() {
            let Some(event) = waiting.get(&id) else {
                stack.pop();
                continue;
            };
            if begun.insert(id.clone()) {
                let earlier = references(event.as_ref()).iter();
                stack.extend(earlier.filter(|id| waiting.contains_key(*id)).cloned());
                continue;
            }
            stack.pop();
            ordered.extend(waiting.remove(&id));
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(id: &str, prev_events: &[&str], auth_events: &[&str]) -> Pdu {
        let json = json!({
            "type": "m.room.message", "room_id": "!r:a", "sender": "@a:a", "content": {}, "depth": 1,
            "origin_server_ts": 1, "prev_events": prev_events, "auth_events": auth_events,
        });
        Pdu::parse(id.try_into().unwrap(), &json.to_string()).unwrap()
    }

    fn ids(events: &[Pdu]) -> Vec<&str> {
        events.iter().map(|pdu| pdu.event_id.as_str()).collect()
    }

    #[test]
    fn each_event_follows_those_that_it_refers_to() {
        let events = vec![
            event("$c", &["$b"], &[]),
            event("$b", &["$a", "$elsewhere"], &[]),
            event("$a", &[], &[]),
        ];

        let sorted = sort_topologically(events, |pdu| &pdu.prev_events);

        assert_eq!(ids(&sorted), ["$a", "$b", "$c"]);
    }

    #[test]
    fn only_the_chosen_references_count() {
        let events = vec![event("$a", &["$b"], &[]), event("$b", &[], &["$a"])];

        let by_prev_events = sort_topologically(events.clone(), |pdu| &pdu.prev_events);
        let by_auth_events = sort_topologically(events, |pdu| &pdu.auth_events);

        assert_eq!(ids(&by_prev_events), ["$b", "$a"]);
        assert_eq!(ids(&by_auth_events), ["$a", "$b"]);
    }

    #[test]
    fn events_that_do_not_refer_to_each_other_keep_their_order() {
        let events = vec![
            event("$b", &[], &[]),
            event("$c", &[], &[]),
            event("$a", &[], &[]),
        ];

        let sorted = sort_topologically(events, |pdu| &pdu.prev_events);

        assert_eq!(ids(&sorted), ["$b", "$c", "$a"]);
    }

    #[test]
    fn events_in_a_circle_are_kept() {
        let events = vec![event("$a", &["$b"], &[]), event("$b", &["$a"], &[])];

        let sorted = sort_topologically(events, |pdu| &pdu.prev_events);

        assert_eq!(sorted.len(), 2);
    }

    #[test]
    fn an_event_that_is_given_twice_is_kept_once() {
        let events = vec![event("$a", &[], &[]), event("$a", &[], &[])];

        let sorted = sort_topologically(events, |pdu| &pdu.prev_events);

        assert_eq!(ids(&sorted), ["$a"]);
    }
}
