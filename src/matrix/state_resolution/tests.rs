//! Tests that a resolution has the same result as `ruma` has for the whole sets, although it reads only a part of them.

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId};
use serde_json::{Value, json};

use super::*;
use crate::matrix::room_version_rules;

/// A room whose events fork at random.
struct RandomRoom {
    rules: RoomVersionRules,
    version: &'static str,
    room_id: Option<OwnedRoomId>,
    events: KnownEvents,
    /// The state at the end of each branch.
    branches: Vec<StateMap>,
    random: StdRng,
    event_count: u64,
}

fn user(n: usize) -> OwnedUserId {
    OwnedUserId::try_from(format!("@user{n}:server{}", n % 3)).unwrap()
}

impl RandomRoom {
    fn new(version: &'static str, seed: u64) -> Self {
        let id = RoomVersionId::try_from(version).unwrap();
        let rules = room_version_rules(&id).unwrap();
        let named_before = rules.event_format.require_room_create_room_id;
        let mut graph = Self {
            version,
            room_id: named_before.then(|| OwnedRoomId::try_from("!room:server0").unwrap()),
            rules,
            events: KnownEvents::new(),
            branches: vec![StateMap::default()],
            random: StdRng::seed_from_u64(seed),
            event_count: 0,
        };
        graph.create_room();
        graph
    }

    fn create_room(&mut self) {
        let founder = user(0);
        let levels = match self.version {
            "12" => json!({}),
            _ => json!({"users": {&founder: 100}}),
        };
        let version = self.version;
        self.add_event(
            0,
            &founder,
            "m.room.create",
            "",
            json!({"room_version": version, "creator": founder}),
        );
        let key = founder.to_string();
        self.add_event(
            0,
            &founder,
            "m.room.member",
            &key,
            json!({"membership": "join"}),
        );
        self.add_event(0, &founder, "m.room.power_levels", "", levels);
        self.add_event(
            0,
            &founder,
            "m.room.join_rules",
            "",
            json!({"join_rule": "public"}),
        );
        for n in 1..6 {
            let key = user(n).to_string();
            self.add_event(
                0,
                &user(n),
                "m.room.member",
                &key,
                json!({"membership": "join"}),
            );
        }
    }

    /// Adds an event to a branch, if the rules allow it there.
    fn add_event(
        &mut self,
        line: usize,
        sender: &OwnedUserId,
        kind: &str,
        key: &str,
        content: Value,
    ) {
        self.event_count += 1;
        let state = self.branches[line].clone();
        let create = state.get(&StateEventType::RoomCreate, "");
        let prev_events: Vec<_> = create.map(|pdu| pdu.event_id.clone()).into_iter().collect();
        let mut event = json!({
            "type": kind, "sender": sender, "state_key": key, "depth": self.event_count,
            "origin_server_ts": self.random.random_range(0..50), "prev_events": prev_events, "auth_events": [],
            "hashes": {"sha256": self.event_count.to_string()}, "room_id": self.room_id,
        });
        event["content"] = content;
        if self.room_id.is_none() {
            event.as_object_mut().unwrap().remove("room_id");
        }
        let parse = |event: &Value| {
            let object = serde_json::from_value(event.clone()).unwrap();
            Pdu::from_object(&object, &self.rules).unwrap().0
        };
        let draft = parse(&event);
        let types = auth_types(&draft, &self.rules).unwrap();
        let held = types.iter().filter_map(|(kind, key)| state.get(kind, key));
        let auth_events: Vec<_> = held.map(|pdu| pdu.event_id.clone()).collect();
        event["auth_events"] = json!(auth_events);
        let pdu = parse(&event);
        if crate::matrix::authorize(&pdu, &self.rules, &state).is_err() {
            return;
        }
        self.room_id.get_or_insert_with(|| pdu.room_id.clone());
        let pdu = Arc::new(pdu);
        self.events.insert(pdu.event_id.clone(), pdu.clone());
        self.branches[line].insert(pdu);
    }

    /// Adds a random event to a branch.
    fn add_random_event(&mut self, line: usize) {
        let (who, whom) = (
            self.random.random_range(0..8),
            self.random.random_range(0..8),
        );
        let (sender, target) = (user(who), user(whom));
        let own = sender.to_string();
        match self.random.random_range(0..9) {
            0 => self.add_event(
                line,
                &sender,
                "m.room.member",
                &own,
                json!({"membership": "join"}),
            ),
            1 => self.add_event(
                line,
                &sender,
                "m.room.member",
                &own,
                json!({"membership": "leave"}),
            ),
            2 => {
                let content = json!({"membership": "ban"});
                self.add_event(line, &sender, "m.room.member", target.as_str(), content);
            }
            3 => {
                let content = json!({"membership": "leave"});
                self.add_event(line, &sender, "m.room.member", target.as_str(), content);
            }
            4 | 5 => self.change_levels(line, &sender, &target),
            6 => {
                let rule = ["public", "invite"][self.random.random_range(0..2)];
                self.add_event(
                    line,
                    &sender,
                    "m.room.join_rules",
                    "",
                    json!({"join_rule": rule}),
                );
            }
            n => {
                let topic = json!({"topic": self.event_count});
                let kind = if n == 7 {
                    "m.room.topic"
                } else {
                    "m.room.name"
                };
                self.add_event(line, &sender, kind, "", topic);
            }
        }
    }

    fn change_levels(&mut self, line: usize, sender: &OwnedUserId, target: &OwnedUserId) {
        let levels = self.branches[line].get(&StateEventType::RoomPowerLevels, "");
        let mut levels: Value = levels.and_then(|pdu| pdu.content_as()).unwrap_or_default();
        let level = self.random.random_range(0..3) * 50;
        if self.version == "12" && *target == user(0) {
            return;
        }
        levels["users"][target.as_str()] = json!(level);
        self.add_event(line, sender, "m.room.power_levels", "", levels);
    }

    /// Resolves states, giving only the events that are asked for.
    fn resolved(&self, sets: &[StateMap]) -> StateMap {
        let mut known = KnownEvents::new();
        let mut absent = BTreeSet::new();
        loop {
            match resolve_state(&self.rules, sets, &known, &absent).unwrap() {
                ResolutionResult::Resolved(state) => return state,
                ResolutionResult::NeedsEvents(needs) => {
                    assert!(!needs.is_empty());
                    for id in needs {
                        match self.events.get(&id) {
                            Some(pdu) => drop(known.insert(id, pdu.clone())),
                            None => assert!(absent.insert(id), "asked for twice"),
                        }
                    }
                }
            }
        }
    }

    /// Resolves the whole states with the whole auth chains.
    fn naively_resolved(&self, sets: &[StateMap]) -> StateMap {
        let maps: Vec<IdMap<OwnedEventId>> = sets.iter().map(ids).collect();
        let chains = sets.iter().map(|set| self.whole_chain(set)).collect();
        let resolved = ruma::state_res::resolve(
            &self.rules.authorization,
            self.rules.state_res.v2_rules().unwrap(),
            &maps,
            chains,
            |id| self.events.get(id).cloned(),
            |conflicted| Some(self.paths(conflicted.values().flatten())),
        )
        .unwrap();
        let mut state = StateMap::default();
        for id in resolved.values() {
            state.insert(self.events[id].clone());
        }
        state
    }

    fn whole_chain(&self, set: &StateMap) -> EventIdSet<OwnedEventId> {
        let mut chain = EventIdSet::new();
        let mut next: Vec<OwnedEventId> = set.iter().map(|pdu| pdu.event_id.clone()).collect();
        while let Some(id) = next.pop() {
            if chain.insert(id.clone()) {
                next.extend(self.events[&id].auth_events.iter().cloned());
            }
        }
        chain
    }

    /// Returns the events on the paths between events of a set.
    fn paths<'a>(&self, ends: impl Iterator<Item = &'a OwnedEventId>) -> EventIdSet<OwnedEventId> {
        let ends: HashSet<OwnedEventId> = ends.cloned().collect();
        let mut between = EventIdSet::new();
        let mut paths: Vec<Vec<OwnedEventId>> = ends.iter().map(|id| vec![id.clone()]).collect();
        while let Some(path) = paths.pop() {
            let last = path.last().unwrap();
            if ends.contains(last) {
                between.extend(path.iter().cloned());
            }
            for id in &self.events[last].auth_events {
                let mut longer = path.clone();
                longer.push(id.clone());
                if longer.len() < 9 {
                    paths.push(longer);
                }
            }
        }
        between
    }
}

fn ids(set: &StateMap) -> IdMap<OwnedEventId> {
    let entry = |pdu: &Arc<Pdu>| {
        let key = (pdu.state_type(), pdu.state_key.clone().unwrap());
        (key, pdu.event_id.clone())
    };
    set.iter().map(entry).collect()
}

#[test]
fn a_resolution_equals_that_of_the_whole_sets() {
    for version in ["6", "11", "12"] {
        let mut conflicts = 0;
        for seed in 0..60 {
            let mut graph = RandomRoom::new(version, seed);
            for _ in 0..2 {
                let first = graph.branches[0].clone();
                graph.branches = vec![first.clone(), first.clone(), first];
                for step in 0..18 {
                    graph.add_random_event(step % 3);
                }
                let sets = graph.branches.clone();
                conflicts += sets[0].differing_keys(&sets[1]).len();

                let (ours, naive) = (graph.resolved(&sets), graph.naively_resolved(&sets));

                let differences = naive.differing_keys(&ours);
                assert!(differences.is_empty(), "{version} {seed}: {differences:?}");
                graph.branches[0] = ours;
            }
        }
        assert!(conflicts > 100, "{conflicts} conflicts are too few to tell");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn neither_order_nor_repetition_of_states_changes_the_result(
        version in prop_oneof![Just("2"), Just("6"), Just("10"), Just("12")],
        seed: u64,
        steps in 0_usize..32,
        order in Just([0_usize, 1, 2, 3]).prop_shuffle(),
        repeated in 0_usize..4,
    ) {
        let mut graph = RandomRoom::new(version, seed);
        let first = graph.branches[0].clone();
        graph.branches = vec![first; 4];
        for step in 0..steps {
            graph.add_random_event(step % 4);
        }
        let sets = graph.branches.clone();
        let mut shuffled: Vec<StateMap> = order.iter().map(|line| sets[*line].clone()).collect();
        let expected = graph.resolved(&sets);

        prop_assert!(expected.differing_keys(&graph.resolved(&shuffled)).is_empty());
        shuffled.push(sets[repeated].clone());
        prop_assert!(expected.differing_keys(&graph.resolved(&shuffled)).is_empty());
    }
}

#[test]
fn the_order_of_the_states_does_not_matter() {
    for version in ["10", "12"] {
        for seed in 100..140 {
            let mut graph = RandomRoom::new(version, seed);
            let first = graph.branches[0].clone();
            graph.branches = vec![first.clone(), first.clone(), first];
            for step in 0..30 {
                graph.add_random_event(step % 3);
            }
            let mut sets = graph.branches.clone();
            let forwards = graph.resolved(&sets);
            sets.reverse();
            let backwards = graph.resolved(&sets);
            sets.swap(0, 1);
            let mixed = graph.resolved(&sets);

            assert!(forwards.differing_keys(&backwards).is_empty());
            assert!(forwards.differing_keys(&mixed).is_empty());
        }
    }
}

#[test]
fn states_that_agree_need_no_events() {
    let graph = RandomRoom::new("11", 1);
    let state = graph.branches[0].clone();

    let resolved = graph.resolved(&[state.clone(), state.clone()]);

    assert!(resolved.differing_keys(&state).is_empty());
    assert!(graph.resolved(&[]).is_empty());
}
