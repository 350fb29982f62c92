//! The state before each event is the same for every order in which the events arrive.

use std::collections::{HashSet, VecDeque};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{importing::Abroad, remote::Line, *};
use crate::matrix::Verified;

/// Random events after the join, some of them on parallel lines.
struct Story {
    abroad: Abroad,
    random: StdRng,
    import: Box<dyn Fn() -> Import>,
    events: Vec<Verified>,
}

impl Story {
    async fn begin(version: &'static str, seed: u64) -> Self {
        let mut abroad = Abroad::new(version).await;
        let members: Vec<OwnedUserId> = (0..5)
            .map(|n| abroad.there.user(&format!("user{n}")))
            .collect();
        for member in &members {
            let event = (&**member, "m.room.member", Some(member.as_str()));
            let content = json!({"membership": "join"});
            let join = abroad
                .there
                .makes(&abroad.room, &abroad.line, event, content);
            abroad.line = abroad.line.after(&join);
            abroad.events.push(join);
        }
        let mut levels = json!({"users": {&members[0]: 50, &members[1]: 50}});
        if version != "12" {
            levels["users"]["@carol:there"] = json!(100);
        }
        abroad.happens("m.room.power_levels", Some(""), levels);
        let join = abroad.join_of(&bob());
        let answer = abroad.answer(join.clone());
        let (origin, version) = (answer.origin, answer.version);
        let (state, auth_chain) = (answer.state, answer.auth_chain);
        abroad.line = abroad.line.after(&join);
        let import = move || Import {
            origin: origin.clone(),
            version: version.clone(),
            join: join.clone(),
            state: state.clone(),
            auth_chain: auth_chain.clone(),
        };
        abroad
            .house
            .rooms
            .join_import
            .import(import())
            .await
            .unwrap();
        Self {
            abroad,
            random: StdRng::seed_from_u64(seed),
            import: Box::new(import),
            events: Vec::new(),
        }
    }

    fn someone(&mut self) -> OwnedUserId {
        match self.random.random_range(0..7) {
            5 | 6 => self.abroad.there.user("carol"),
            n => self.abroad.there.user(&format!("user{n}")),
        }
    }

    /// Makes a random event at the end of a line, whether or not it is allowed there.
    fn happens(&mut self, line: &Line) -> Verified {
        let (sender, other) = (self.someone(), self.someone());
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
        let (there, room) = (&self.abroad.there, &self.abroad.room);
        there.makes(room, line, event, content)
    }

    /// Adds two parallel lines of events, and then one event that follows both.
    async fn goes_on(&mut self) {
        let start = self.abroad.house.line(&self.abroad.id()).await;
        for _ in 0..2 {
            let mut line = start.clone();
            for _ in 0..self.random.random_range(1..4) {
                let event = self.happens(&line);
                let received = self.tells(&event).await;
                self.events.push(event.clone());
                if received == Received::Accepted {
                    line = line.after(&event);
                }
            }
        }
        let line = self.abroad.house.line(&self.abroad.id()).await;
        let carol = self.abroad.there.user("carol");
        let event = (&*carol, "m.room.message", None);
        let (there, room) = (&self.abroad.there, &self.abroad.room);
        let all = there.makes(room, &line, event, json!({"body": "all"}));
        self.tells(&all).await;
        self.events.push(all);
    }

    async fn tells(&self, event: &Verified) -> Received {
        self.abroad.house.receives(&self.abroad.there, event).await
    }

    /// Sends the same events to another server in another order.
    async fn retold(&mut self) -> House {
        let house = self.abroad.house.twin().await;
        house
            .rooms
            .join_import
            .import((self.import)())
            .await
            .unwrap();
        let mut order = self.events.clone();
        order.shuffle(&mut self.random);
        let mut waiting: VecDeque<Verified> = order.into();
        let mut tries = 0;
        while let Some(event) = waiting.pop_front() {
            tries += 1;
            assert!(tries < 5_000, "some events stay missing");
            let received = house.receives(&self.abroad.there, &event).await;
            if matches!(received, Received::Missing { .. }) {
                waiting.push_back(event);
            }
        }
        house
    }

    /// Compares the states before the events that both servers have. Returns the number of these events.
    async fn compare(&self, one: &House, other: &House) -> usize {
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

    async fn state_before(&self, house: &House, event: &Verified) -> Option<HashSet<OwnedEventId>> {
        let room = house.rooms.memory.room(&self.abroad.id()).await.unwrap();
        let id = &event.pdu().event_id;
        let state = house
            .rooms
            .federation
            .state_before_event(&room, id)
            .await
            .ok()?;
        Some(state.iter().map(|pdu| pdu.event_id.clone()).collect())
    }
}

#[tokio::test]
async fn the_state_before_each_event_does_not_depend_on_the_order_in_which_they_came() {
    for version in ["10", "12"] {
        for seed in 0..6 {
            let mut story = Story::begin(version, seed).await;
            for _ in 0..5 {
                story.goes_on().await;
            }

            let other = story.retold().await.restart().await;

            let compared = story.compare(&story.abroad.house, &other).await;
            assert!(compared > 8, "{version} {seed}: {compared}");
        }
    }
}
