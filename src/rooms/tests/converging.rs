//! Tests that the state before each event is the same for every order in which the events arrive.

use std::collections::{HashSet, VecDeque};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{importing::ImportFixture, remote::EventLine, *};
use crate::matrix::VerifiedEvent;

/// Random events after the join, some of them on parallel lines.
struct RandomHistory {
    fixture: ImportFixture,
    random: StdRng,
    import: Box<dyn Fn() -> RoomImport>,
    events: Vec<VerifiedEvent>,
}

impl RandomHistory {
    async fn begin(version: &'static str, seed: u64) -> Self {
        let mut fixture = ImportFixture::new(version).await;
        let members: Vec<OwnedUserId> = (0..5)
            .map(|n| fixture.there.user(&format!("user{n}")))
            .collect();
        for member in &members {
            let event = (&**member, "m.room.member", Some(member.as_str()));
            let content = json!({"membership": "join"});
            let join = fixture
                .there
                .make_event(&fixture.room, &fixture.line, event, content);
            fixture.line = fixture.line.after(&join);
            fixture.events.push(join);
        }
        let mut levels = json!({"users": {&members[0]: 50, &members[1]: 50}});
        if version != "12" {
            levels["users"]["@carol:there"] = json!(100);
        }
        fixture.add_event("m.room.power_levels", Some(""), levels);
        let join = fixture.signed_join(&bob());
        let answer = fixture.join_answer(join.clone());
        let (origin, version) = (answer.origin, answer.version);
        let (state, auth_chain) = (answer.state, answer.auth_chain);
        fixture.line = fixture.line.after(&join);
        let import = move || RoomImport {
            origin: origin.clone(),
            version: version.clone(),
            join: join.clone(),
            state: state.clone(),
            auth_chain: auth_chain.clone(),
        };
        fixture
            .server
            .rooms
            .join_import
            .import(import())
            .await
            .unwrap();
        Self {
            fixture,
            random: StdRng::seed_from_u64(seed),
            import: Box::new(import),
            events: Vec::new(),
        }
    }

    fn random_user(&mut self) -> OwnedUserId {
        match self.random.random_range(0..7) {
            5 | 6 => self.fixture.there.user("carol"),
            n => self.fixture.there.user(&format!("user{n}")),
        }
    }

    /// Makes a random event at the end of a line, whether or not it is allowed there.
    fn random_event(&mut self, line: &EventLine) -> VerifiedEvent {
        let (sender, other) = (self.random_user(), self.random_user());
        let mark = self.events.len();
        let (kind, key, content) = match self.random.random_range(0..8) {
            0 => (
                "m.room.member",
                Some(other.to_string()),
                json!({"membership": "ban"}),
            ),
            1 => (
                "m.room.member",
                Some(other.to_string()),
                json!({"membership": "leave"}),
            ),
            2 => (
                "m.room.member",
                Some(sender.to_string()),
                json!({"membership": "join"}),
            ),
            3 => {
                let levels = line.state.get(&StateEventType::RoomPowerLevels, "");
                let mut levels: serde_json::Value = levels.unwrap().content_as().unwrap();
                levels["users"][other.as_str()] = json!(self.random.random_range(0..3) * 25);
                ("m.room.power_levels", Some(String::new()), levels)
            }
            4 => {
                let rule = ["public", "invite"][self.random.random_range(0..2)];
                (
                    "m.room.join_rules",
                    Some(String::new()),
                    json!({"join_rule": rule}),
                )
            }
            5 => ("m.room.message", None, json!({"body": mark})),
            _ => ("m.room.topic", Some(String::new()), json!({"topic": mark})),
        };
        let event = (&*sender, kind, key.as_deref());
        let (there, room) = (&self.fixture.there, &self.fixture.room);
        there.make_event(room, line, event, content)
    }

    /// Returns a history with several branches that were merged again.
    async fn with_branches(version: &'static str, seed: u64) -> Self {
        let mut history = Self::begin(version, seed).await;
        for _ in 0..5 {
            history.add_branches().await;
        }
        history
    }

    async fn add_branch(&mut self, mut line: EventLine) {
        for _ in 0..self.random.random_range(1..4) {
            let event = self.random_event(&line);
            let received = self.deliver_event(&event).await;
            self.events.push(event.clone());
            if received == ReceiveOutcome::Accepted {
                line = line.after(&event);
            }
        }
    }

    /// Adds two parallel lines of events, and then one event that follows both.
    async fn add_branches(&mut self) {
        let start = self.fixture.server.event_line(&self.fixture.id()).await;
        for _ in 0..2 {
            self.add_branch(start.clone()).await;
        }
        let line = self.fixture.server.event_line(&self.fixture.id()).await;
        let carol = self.fixture.there.user("carol");
        let event = (&*carol, "m.room.message", None);
        let (there, room) = (&self.fixture.there, &self.fixture.room);
        let all = there.make_event(room, &line, event, json!({"body": "all"}));
        self.deliver_event(&all).await;
        self.events.push(all);
    }

    async fn deliver_event(&self, event: &VerifiedEvent) -> ReceiveOutcome {
        self.fixture
            .server
            .receive_event(&self.fixture.there, event)
            .await
    }

    /// Sends the same events to another server in another order.
    async fn replay_shuffled(&mut self) -> TestServer {
        let server = self.fixture.server.with_empty_database().await;
        server
            .rooms
            .join_import
            .import((self.import)())
            .await
            .unwrap();
        let mut order = self.events.clone();
        order.shuffle(&mut self.random);
        let mut waiting: VecDeque<VerifiedEvent> = order.into();
        let mut tries = 0;
        while let Some(event) = waiting.pop_front() {
            tries += 1;
            assert!(tries < 5_000, "some events stay missing");
            let received = server.receive_event(&self.fixture.there, &event).await;
            if matches!(received, ReceiveOutcome::Missing { .. }) {
                waiting.push_back(event);
            }
        }
        server
    }

    /// Compares the states before the events that both servers have. Returns the number of these events.
    async fn compare_states(&self, one: &TestServer, other: &TestServer) -> usize {
        let mut compared = 0;
        for event in &self.events {
            let one = self.state_before(one, event).await;
            let other = self.state_before(other, event).await;
            if one.is_some() && other.is_some() {
                assert_eq!(one, other, "{:?}", event.pdu());
                compared += 1;
            }
        }
        compared
    }

    async fn state_before(
        &self,
        server: &TestServer,
        event: &VerifiedEvent,
    ) -> Option<HashSet<OwnedEventId>> {
        let room = server.rooms.memory.room(&self.fixture.id()).await.unwrap();
        let id = &event.pdu().event_id;
        let state = server
            .rooms
            .federation
            .state_before_event(&room, id)
            .await
            .ok()?;
        Some(state.iter().map(|pdu| pdu.event_id.clone()).collect())
    }
}

#[tokio::test]
async fn the_state_before_an_event_does_not_depend_on_arrival_order() {
    for version in ["10", "12"] {
        for seed in 0..6 {
            let mut history = RandomHistory::with_branches(version, seed).await;

            let other = history.replay_shuffled().await.restart().await;

            let compared = history
                .compare_states(&history.fixture.server, &other)
                .await;
            assert!(compared > 8, "{version} {seed}: {compared}");
        }
    }
}
