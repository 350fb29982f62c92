//! The actions of users, and disturbances of clients.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    chat::{new_transaction, room_path},
    harness::{HttpAnswer, Server, User},
};

/// The number of rooms.
const ROOMS: usize = 3;
/// The number of users. The first one has the clients.
const USERS: usize = 3;

/// An action. Rooms and users are given by number.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Message {
        user: usize,
        room: usize,
    },
    Mention {
        user: usize,
        room: usize,
    },
    RoomName {
        user: usize,
        room: usize,
        n: u8,
    },
    State {
        user: usize,
        room: usize,
        n: u8,
    },
    Visibility {
        user: usize,
        room: usize,
        n: usize,
    },
    Join {
        user: usize,
        room: usize,
    },
    Leave {
        user: usize,
        room: usize,
    },
    Invite {
        user: usize,
        room: usize,
        other: usize,
    },
    Kick {
        user: usize,
        room: usize,
        other: usize,
    },
    Redact {
        user: usize,
        room: usize,
    },
    Receipt {
        user: usize,
        room: usize,
        is_private: bool,
    },
    Typing {
        user: usize,
        room: usize,
        is_typing: bool,
    },
    Tag {
        room: usize,
        n: u8,
    },
    AccountData {
        n: u8,
    },
    ToDevice {
        user: usize,
        n: u8,
    },
    LoseSyncAnswer,
    LoseSlidingAnswer,
    BreakChannel,
    NarrowList(u64),
    ForgetSlidingConnection,
    Restart,
}

/// Returns a strategy for actions.
pub(super) fn any_action() -> impl Strategy<Value = Action> {
    let place = (0..USERS, 0..ROOMS);
    let with_other = (0..USERS, 0..ROOMS, 0..USERS);
    let with_number = (0..USERS, 0..ROOMS, any::<u8>());
    prop_oneof![
        10 => place.clone().prop_map(|(user, room)| Action::Message { user, room }),
        4 => place.clone().prop_map(|(user, room)| Action::Mention { user, room }),
        3 => with_number.clone().prop_map(|(user, room, n)| Action::RoomName { user, room, n }),
        3 => with_number.prop_map(|(user, room, n)| Action::State { user, room, n }),
        1 => with_other.clone().prop_map(|(user, room, n)| Action::Visibility { user, room, n }),
        6 => place.clone().prop_map(|(user, room)| Action::Join { user, room }),
        3 => place.clone().prop_map(|(user, room)| Action::Leave { user, room }),
        3 => with_other.clone()
            .prop_map(|(user, room, other)| Action::Invite { user, room, other }),
        2 => with_other.prop_map(|(user, room, other)| Action::Kick { user, room, other }),
        3 => place.clone().prop_map(|(user, room)| Action::Redact { user, room }),
        6 => (0..USERS, 0..ROOMS, any::<bool>())
            .prop_map(|(user, room, is_private)| Action::Receipt { user, room, is_private }),
        3 => (0..USERS, 0..ROOMS, any::<bool>())
            .prop_map(|(user, room, is_typing)| Action::Typing { user, room, is_typing }),
        2 => (0..ROOMS, any::<u8>()).prop_map(|(room, n)| Action::Tag { room, n }),
        2 => any::<u8>().prop_map(|n| Action::AccountData { n }),
        3 => (0..USERS, any::<u8>()).prop_map(|(user, n)| Action::ToDevice { user, n }),
        2 => Just(Action::LoseSyncAnswer),
        2 => Just(Action::LoseSlidingAnswer),
        2 => Just(Action::BreakChannel),
        2 => (0_u64..3).prop_map(Action::NarrowList),
        1 => Just(Action::ForgetSlidingConnection),
        1 => Just(Action::Restart),
    ]
}

/// The users and their rooms.
pub(super) struct World {
    users: Vec<User>,
    rooms: Vec<String>,
    /// The latest event of each room that an action has sent.
    latest: Vec<Option<String>>,
}

impl World {
    pub(super) async fn new(server: &Server) -> Self {
        let mut users = Vec::new();
        for name in ["alice", "bob", "carol"] {
            users.push(server.register(name).await);
        }
        let levels = json!({
            "users": { &*users[1].id: 100 }, "events": { "org.example": 0, "m.room.name": 0 },
        });
        let request = json!({ "preset": "public_chat", "power_level_content_override": levels });
        let mut rooms = Vec::new();
        for _ in 0..ROOMS {
            rooms.push(users[0].creates(request.clone()).await);
        }
        Self {
            users,
            latest: vec![None; rooms.len()],
            rooms,
        }
    }

    /// Returns the same users as clients of a restarted server.
    pub(super) fn on_server(self, server: &Server) -> Self {
        let users = self.users.into_iter();
        Self {
            users: users.map(|user| user.on_server(server)).collect(),
            ..self
        }
    }

    /// Performs an action, which the server may refuse.
    pub(super) async fn perform(&mut self, action: &Action) {
        let Some((room, answer)) = self.try_perform(action).await else {
            return;
        };
        if let Some(event_id) = answer.body["event_id"].as_str() {
            self.latest[room] = Some(event_id.to_owned());
        }
    }

    async fn try_perform(&self, action: &Action) -> Option<(usize, HttpAnswer)> {
        let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
        match *action {
            Action::Message { user, room } => {
                let sent = self.send_message(user, room, text("hi")).await;
                Some((room, sent))
            }
            Action::Mention { user, room } => {
                let mut content = text("you");
                content["m.mentions"] = json!({ "user_ids": [self.users[0].id] });
                Some((room, self.send_message(user, room, content).await))
            }
            Action::RoomName { user, room, n } => {
                let content = json!({ "name": n.to_string() });
                Some((
                    room,
                    self.set_state(user, room, "m.room.name", content).await,
                ))
            }
            Action::State { user, room, n } => {
                let kind = format!("org.example/{}", n % 3);
                let content = json!({ "n": n });
                Some((room, self.set_state(user, room, &kind, content).await))
            }
            Action::Visibility { user, room, n } => {
                let visibility = ["shared", "joined", "world_readable"][n];
                let content = json!({ "history_visibility": visibility });
                let kind = "m.room.history_visibility";
                Some((room, self.set_state(user, room, kind, content).await))
            }
            Action::Redact { user, room } => {
                let target = self.latest[room].as_ref()?;
                let user = &self.users[user];
                Some((room, user.tries_to_redact(&self.rooms[room], target).await))
            }
            _ => {
                self.try_other(action).await;
                None
            }
        }
    }

    /// Performs an action that sends no event of its own.
    async fn try_other(&self, action: &Action) -> Option<()> {
        let member = |other: usize| json!({ "user_id": self.users[other].id });
        match *action {
            Action::Join { user, room } => self.post(user, room, "join", json!({})).await,
            Action::Leave { user, room } => self.post(user, room, "leave", json!({})).await,
            Action::Invite { user, room, other } => {
                self.post(user, room, "invite", member(other)).await;
            }
            Action::Kick { user, room, other } => {
                self.post(user, room, "kick", member(other)).await;
            }
            Action::Receipt {
                user,
                room,
                is_private,
            } => {
                let kind = if is_private {
                    "m.read.private"
                } else {
                    "m.read"
                };
                let event_id = self.latest[room].as_ref()?;
                self.post(user, room, &format!("receipt/{kind}/{event_id}"), json!({}))
                    .await;
            }
            Action::Typing {
                user,
                room,
                is_typing,
            } => {
                let user = &self.users[user];
                let path = room_path(&self.rooms[room], &format!("typing/{}", user.id));
                let body = json!({ "typing": is_typing, "timeout": 3_600_000 });
                user.client.put(&path, body).await;
            }
            Action::Tag { room, n } => {
                let room = &self.rooms[room];
                let path = format!("rooms/{room}/account_data/org.example.note");
                self.set_account_data(&path, json!({ "n": n })).await;
            }
            Action::AccountData { n } => {
                let path = format!("account_data/org.example.{}", n % 3);
                self.set_account_data(&path, json!({ "n": n })).await;
            }
            Action::ToDevice { user, n } => self.send_to_devices(user, n).await,
            _ => {}
        }
        Some(())
    }

    async fn send_message(&self, user: usize, room: usize, content: Value) -> HttpAnswer {
        let room = &self.rooms[room];
        self.users[user]
            .tries_to_send(room, "m.room.message", content)
            .await
    }

    async fn set_state(&self, user: usize, room: usize, kind: &str, content: Value) -> HttpAnswer {
        let room = &self.rooms[room];
        self.users[user]
            .tries_to_set_state(room, kind, content)
            .await
    }

    async fn post(&self, user: usize, room: usize, what: &str, body: Value) {
        let room = &self.rooms[room];
        self.users[user].posts_in_room(room, what, body).await;
    }

    async fn set_account_data(&self, path: &str, content: Value) {
        let alice = &self.users[0];
        let path = format!("/_matrix/client/v3/user/{}/{path}", alice.id);
        alice.client.put(&path, content).await.expect_ok();
    }

    /// Sends a message to all devices of the user with the clients.
    async fn send_to_devices(&self, user: usize, n: u8) {
        let txn_id = new_transaction();
        let path = format!("/_matrix/client/v3/sendToDevice/org.example/{txn_id}");
        let messages = json!({ &self.users[0].id: { "*": { "n": n } } });
        let sent = self.users[user]
            .client
            .put(&path, json!({ "messages": messages }));
        sent.await.expect_ok();
    }
}
