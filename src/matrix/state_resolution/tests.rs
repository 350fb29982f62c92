//! Tests that a resolution has the same result as `ruma` has for the whole sets, although it reads only a part of them.

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
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
        let create = json!({"room_version": version, "creator": founder});
        self.add_room_event(0, &founder, "m.room.create", &create);
        self.add_member_event(0, &founder, &founder, "join");
        self.add_room_event(0, &founder, "m.room.power_levels", &levels);
        let rule = json!({"join_rule": "public"});
        self.add_room_event(0, &founder, "m.room.join_rules", &rule);
        for n in 1..6 {
            self.add_member_event(0, &user(n), &user(n), "join");
        }
    }

    fn add_member_event(
        &mut self,
        line: usize,
        sender: &UserId,
        target: &UserId,
        membership: &str,
    ) {
        let event = json!({
            "type": "m.room.member", "sender": sender, "state_key": target, "content": {"membership": membership},
        });
        self.add_event(line, event);
    }

    /// Adds a state event with an empty state key.
    fn add_room_event(&mut self, line: usize, sender: &UserId, kind: &str, content: &Value) {
        let event = json!({"type": kind, "sender": sender, "state_key": "", "content": content});
        self.add_event(line, event);
    }

    /// Adds the other fields to an event and adds it to a branch, if the rules allow it there.
    fn add_event(&mut self, line: usize, mut event: Value) {
        self.event_count += 1;
        let state = self.branches[line].clone();
        let create = state.get(&StateEventType::RoomCreate, "");
        let prev_events: Vec<_> = create.map(|pdu| pdu.event_id.clone()).into_iter().collect();
        event["depth"] = json!(self.event_count);
        event["origin_server_ts"] = json!(self.random.random_range(0..50));
        event["prev_events"] = json!(prev_events);
        event["auth_events"] = json!([]);
        event["hashes"] = json!({"sha256": self.event_count.to_string()});
        if let Some(room_id) = &self.room_id {
            event["room_id"] = json!(room_id);
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
        match self.random.random_range(0..9) {
            0 => self.add_member_event(line, &sender, &sender, "join"),
            1 => self.add_member_event(line, &sender, &sender, "leave"),
            2 => self.add_member_event(line, &sender, &target, "ban"),
            3 => self.add_member_event(line, &sender, &target, "leave"),
            4 | 5 => self.change_levels(line, &sender, &target),
            6 => {
                let rule = ["public", "invite"][self.random.random_range(0..2)];
                let rule = json!({"join_rule": rule});
                self.add_room_event(line, &sender, "m.room.join_rules", &rule);
            }
            n => {
                let topic = json!({"topic": self.event_count});
                let kind = if n == 7 {
                    "m.room.topic"
                } else {
                    "m.room.name"
                };
                self.add_room_event(line, &sender, kind, &topic);
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
        self.add_room_event(line, sender, "m.room.power_levels", &levels);
    }

    /// Resolves states, giving only the events that are asked for.
    fn resolved(&self, sets: &[StateMap]) -> StateMap {
        let mut known = KnownEvents::new();
        let mut absent = BTreeSet::new();
        loop {
            let needs = match resolve_state(&self.rules, sets, &known, &absent).unwrap() {
                ResolutionResult::Resolved(state) => return state,
                ResolutionResult::NeedsEvents(needs) => needs,
            };
            assert!(!needs.is_empty());
            for id in needs {
                match self.events.get(&id) {
                    Some(pdu) => drop(known.insert(id, pdu.clone())),
                    None => assert!(absent.insert(id), "asked for twice"),
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
            if path.len() < 8 {
                let auth_events = self.events[last].auth_events.iter();
                paths.extend(auth_events.map(|id| path.iter().chain([id]).cloned().collect()));
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
        let conflicts: usize = (0..60).map(|seed| compare_resolutions(version, seed)).sum();
        assert!(conflicts > 100, "{conflicts} conflicts are too few to tell");
    }
}

/// Compares the resolutions of a random room with those of the whole sets. Returns the number of keys in conflict.
fn compare_resolutions(version: &'static str, seed: u64) -> usize {
    let mut conflicts = 0;
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
    conflicts
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
