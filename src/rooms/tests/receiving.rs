//! Receiving events of other servers.

use super::{
    remote::{Line, Remote, RemoteRoom, text},
    *,
};
use crate::matrix::Verified;

const MESSAGE: &str = "m.room.message";

/// This server and another one, which share a room.
struct Shared {
    house: House,
    there: Remote,
    room: RemoteRoom,
    dora: OwnedUserId,
}

impl Shared {
    async fn new() -> Self {
        Self::in_version("11").await
    }

    async fn in_version(version: &str) -> Self {
        let (house, there) = (House::new().await, Remote::new("there"));
        let (room, dora) = house.shares_a_room(&there, version).await;
        Self {
            house,
            there,
            room,
            dora,
        }
    }

    fn id(&self) -> OwnedRoomId {
        self.room.id.clone().unwrap()
    }

    async fn line(&self) -> Line {
        self.house.line(&self.id()).await
    }

    fn says(&self, line: &Line, body: &str) -> Verified {
        self.there
            .makes(&self.room, line, (&self.dora, MESSAGE, None), text(body))
    }

    fn sets(&self, line: &Line, kind: &str, key: &str, content: serde_json::Value) -> Verified {
        self.there
            .makes(&self.room, line, (&self.dora, kind, Some(key)), content)
    }

    async fn receives(&self, event: &Verified) -> Received {
        self.house.receives(&self.there, event).await
    }

    async fn sees(&self) -> Vec<String> {
        self.house.sees(&self.id(), &alice()).await
    }

    async fn state(&self, kind: &StateEventType, field: &str) -> Option<String> {
        let room = self.house.rooms.memory.room(&self.id()).await.unwrap();
        let view = room.view();
        view.state.get(kind, "")?.content_str(field)
    }

    async fn name(&self) -> String {
        let name = self.state(&StateEventType::RoomName, "name");
        name.await.unwrap_or_default()
    }

    /// Gives Dora a power level.
    async fn promotes(&self, level: i64) {
        let levels = json!({"users": {"@alice:here": 100, &self.dora: level}});
        self.alice_sets(&StateEventType::RoomPowerLevels, levels)
            .await;
    }

    async fn alice_sets(&self, kind: &StateEventType, content: serde_json::Value) {
        let event = NewEvent::state(alice(), kind, "", to_raw_value(&content).unwrap());
        self.house
            .rooms
            .sender
            .send(&self.id(), event)
            .await
            .unwrap();
    }

    async fn extremities(&self) -> Vec<OwnedEventId> {
        self.line().await.prev_events
    }
}

#[tokio::test]
async fn an_event_that_follows_the_room_is_accepted_once_in_every_version() {
    for version in ["3", "6", "8", "10", "11", "12"] {
        let shared = Shared::in_version(version).await;
        let hello = shared.says(&shared.line().await, "hello");

        assert_eq!(shared.receives(&hello).await, Received::Accepted);
        assert_eq!(shared.receives(&hello).await, Received::Duplicate);
        assert_eq!(shared.sees().await.last().unwrap(), "hello", "in {version}");

        let restarted = Shared {
            house: shared.house.restart().await,
            ..shared
        };
        assert_eq!(restarted.receives(&hello).await, Received::Duplicate);
        assert_eq!(restarted.sees().await.last().unwrap(), "hello");
    }
}

#[tokio::test]
async fn a_message_of_another_server_counts_as_unread() {
    let shared = Shared::new().await;

    let hello = shared.says(&shared.line().await, "hello");
    shared.receives(&hello).await;

    assert_eq!(shared.house.unread(&shared.id(), &alice()).await, (1, 0));
}

#[tokio::test]
async fn an_event_that_its_auth_events_do_not_allow_is_rejected_and_so_is_what_rests_on_it() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let stranger = shared.there.user("stranger");
    let event = (&*stranger, "m.room.member", Some(shared.dora.as_str()));
    let kick = shared
        .there
        .makes(&shared.room, &line, event, json!({"membership": "leave"}));
    let mut next = shared.there.drafts(
        &shared.room,
        &line,
        (&shared.dora, MESSAGE, None),
        text("no"),
    );
    next["auth_events"]
        .as_array_mut()
        .unwrap()
        .retain(|id| *id != line.state.member(&shared.dora).unwrap().event_id.as_str());
    next["auth_events"]
        .as_array_mut()
        .unwrap()
        .push(json!(kick.pdu().event_id));
    let next = shared.there.vouches_for(next, &shared.room);

    let first = shared.receives(&kick).await;
    let second = shared.receives(&next).await;

    assert!(matches!(first, Received::Rejected(_)), "{first:?}");
    assert!(matches!(second, Received::Rejected(reason) if reason.contains("rejected")));
    assert!(!shared.sees().await.contains(&"no".to_owned()));
}

#[tokio::test]
async fn an_event_may_follow_one_that_was_rejected() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let topic = shared.sets(&line, "m.room.topic", "", json!({"topic": "mine"}));
    let after = Line {
        prev_events: vec![topic.pdu().event_id.clone()],
        ..line.clone()
    };
    let hello = shared.says(&after, "hello");

    let first = shared.receives(&topic).await;
    let second = shared.receives(&hello).await;

    assert!(matches!(first, Received::Rejected(_)), "{first:?}");
    assert_eq!(second, Received::Accepted);
    assert_eq!(
        shared.state(&StateEventType::RoomTopic, "topic").await,
        None
    );
    // Through the rejected event it follows the extremities that the room had.
    assert_eq!(
        shared.extremities().await,
        std::slice::from_ref(&hello.pdu().event_id)
    );
}

#[tokio::test]
async fn an_event_whose_signature_is_wrong_or_missing_is_no_event() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let (room, dora) = (&shared.room, &shared.dora);
    let draft = shared
        .there
        .drafts(room, &line, (dora, MESSAGE, None), text("hello"));
    let stranger = Remote::new("there");

    let forged = stranger.signs(draft.clone(), &room.rules);
    let forged = Verified::check(forged, &room.rules, &shared.there.keys());
    let mut unsigned = shared.there.signs(draft, &room.rules);
    unsigned.remove("signatures");
    let unsigned = Verified::check(unsigned, &room.rules, &shared.there.keys());

    assert!(matches!(forged, Err(Error::InvalidSignature(_))));
    assert!(matches!(unsigned, Err(Error::InvalidSignature(_))));
}

#[tokio::test]
async fn an_event_whose_hash_does_not_match_is_redacted() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let (room, dora) = (&shared.room, &shared.dora);
    let draft = shared
        .there
        .drafts(room, &line, (dora, MESSAGE, None), text("hello"));
    let mut changed = shared.there.signs(draft, &room.rules);
    let content = serde_json::from_value(text("changed")).unwrap();
    changed.insert("content".to_owned(), content);

    let event = Verified::check(changed, &room.rules, &shared.there.keys()).unwrap();

    assert!(event.is_redacted());
    assert_eq!(shared.receives(&event).await, Received::Accepted);
    assert_eq!(shared.sees().await.last().unwrap(), MESSAGE);
}

#[tokio::test]
async fn what_is_missing_is_named_and_the_event_comes_in_when_it_is_here() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let one = shared.says(&line, "one");
    let two = shared.says(&line.after(&one), "two");

    let missing = shared.receives(&two).await;
    assert_eq!(
        missing,
        Received::Missing {
            prev: vec![one.pdu().event_id.clone()],
            auth: Vec::new()
        }
    );
    assert_eq!(shared.receives(&one).await, Received::Accepted);
    assert_eq!(shared.receives(&two).await, Received::Accepted);

    let seen = shared.sees().await;
    assert!(seen.ends_with(&["one".to_owned(), "two".to_owned()]));
}

#[tokio::test]
async fn an_auth_event_that_is_lost_rejects_the_event_and_one_that_comes_later_lets_it_in() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let dora = shared.dora.to_string();
    let content = json!({"membership": "join", "displayname": "Dora"});
    let renamed = shared.sets(&line, "m.room.member", &dora, content);
    let mut other = line.clone();
    other.state.insert(Arc::new(renamed.pdu().clone()));
    let hello = shared.says(&other, "hello");

    let missing = shared.receives(&hello).await;
    let lost = Help {
        auth_events_are_lost: true,
        ..Help::default()
    };
    let rejected = shared
        .house
        .takes(&shared.there, &hello, lost)
        .await
        .unwrap();
    let again = shared.receives(&hello).await;

    let auth = vec![renamed.pdu().event_id.clone()];
    let wanted = Received::Missing {
        prev: Vec::new(),
        auth,
    };
    assert_eq!(missing, wanted);
    assert!(matches!(rejected, Received::Rejected(_)));
    assert_eq!(again, wanted);
    // Its place is before the change of the name: another member event allows it there, but it is allowed.
    assert_eq!(shared.receives(&renamed).await, Received::Accepted);
    assert_eq!(shared.receives(&hello).await, Received::Accepted);
}

#[tokio::test]
async fn an_event_that_the_present_state_forbids_is_kept_from_everybody() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let ban = Action::Ban;
    let (id, dora) = (shared.id(), shared.dora.clone());
    shared.house.becomes(&id, alice(), dora, ban).await.unwrap();
    let before = shared.extremities().await;

    let hello = shared.says(&line, "hello");
    let received = shared.receives(&hello).await;

    assert!(matches!(received, Received::SoftFailed(_)), "{received:?}");
    assert!(!shared.sees().await.contains(&"hello".to_owned()));
    assert_eq!(shared.extremities().await, before);
    assert_eq!(shared.receives(&hello).await, Received::Duplicate);
}

#[tokio::test]
async fn two_lines_of_events_come_together_in_the_next_event() {
    let shared = Shared::new().await;
    shared.promotes(50).await;
    let line = shared.line().await;
    let topic = shared.sets(&line, "m.room.topic", "", json!({"topic": "theirs"}));
    shared
        .alice_sets(&StateEventType::RoomName, json!({"name": "ours"}))
        .await;

    assert_eq!(shared.receives(&topic).await, Received::Accepted);

    assert_eq!(shared.extremities().await.len(), 2);
    let field = |kind, field| shared.state(kind, field);
    assert_eq!(
        field(&StateEventType::RoomTopic, "topic").await.unwrap(),
        "theirs"
    );
    let name = shared.state(&StateEventType::RoomName, "name").await;
    assert_eq!(name.unwrap(), "ours");
    let id = shared.id();
    shared.house.says(&id, alice(), "both", None).await.unwrap();
    assert_eq!(shared.extremities().await.len(), 1);
    let shared = Shared {
        house: shared.house.restart().await,
        ..shared
    };
    let topic = shared.state(&StateEventType::RoomTopic, "topic").await;
    assert_eq!(topic.unwrap(), "theirs");
}

#[tokio::test]
async fn many_lines_that_begin_long_ago_do_not_bring_back_the_state_of_then() {
    let shared = Shared::new().await;
    let then = shared.line().await;
    let name = json!({"name": "new"});
    shared.alice_sets(&StateEventType::RoomName, name).await;

    for n in 0..30 {
        let hello = shared.says(&then, &n.to_string());
        assert_eq!(shared.receives(&hello).await, Received::Accepted);
    }

    assert!(shared.extremities().await.len() <= 20);
    assert_eq!(shared.name().await, "new");
    let id = shared.id();
    shared.house.says(&id, alice(), "all", None).await.unwrap();
    assert_eq!(shared.extremities().await.len(), 1);
    let shared = Shared {
        house: shared.house.restart().await,
        ..shared
    };
    let last = shared.says(&then, "last");
    assert_eq!(shared.receives(&last).await, Received::Accepted);
    assert_eq!(shared.name().await, "new");
}

#[tokio::test]
async fn of_lines_with_states_of_their_own_more_than_can_be_followed_fail_softly() {
    let shared = Shared::new().await;
    let then = shared.line().await;
    let name = json!({"name": "new"});
    shared.alice_sets(&StateEventType::RoomName, name).await;

    let mut accepted = 0;
    for n in 0..60 {
        let content = json!({"membership": "join", "displayname": n.to_string()});
        let event = shared.sets(&then, "m.room.member", shared.dora.as_str(), content);
        accepted += usize::from(shared.receives(&event).await == Received::Accepted);
    }

    assert!((20..60).contains(&accepted), "{accepted}");
    assert_eq!(shared.name().await, "new");
    // Each event that is sent from here follows as many extremities as it can name, until one is left.
    let id = shared.id();
    for _ in 0..4 {
        shared.house.says(&id, alice(), "all", None).await.unwrap();
    }
    assert_eq!(shared.extremities().await.len(), 1);
    assert_eq!(shared.name().await, "new");
}

#[tokio::test]
async fn whoever_came_in_beside_a_door_that_was_closed_is_out() {
    let shared = Shared::new().await;
    shared.promotes(100).await;
    let then = shared.line().await;
    let id = shared.id();
    let join = shared.house.becomes(&id, bob(), bob(), Action::Join);
    join.await.unwrap();
    let closed = json!({"join_rule": "invite"});

    let closed = shared.sets(&then, "m.room.join_rules", "", closed);
    assert_eq!(shared.receives(&closed).await, Received::Accepted);

    for house in [None, Some(())] {
        let rooms = match house {
            None => shared.house.rooms.clone(),
            Some(()) => rooms(&shared.house.test, &shared.house.key).await,
        };
        let room = rooms.memory.room(&id).await.unwrap();
        assert!(!room.view().local_members.values().any(|id| *id == bob()));
        let user = rooms.memory.user_number(&bob()).await.unwrap().unwrap();
        let mine = rooms.memory.of_user(user).await.unwrap();
        assert_eq!(mine.membership(room.num), MembershipState::Leave);
    }
}

#[tokio::test]
async fn a_ban_wins_over_what_the_banned_did_meanwhile() {
    for version in ["11", "12"] {
        let shared = Shared::in_version(version).await;
        if version == "11" {
            shared.promotes(50).await;
        } else {
            let levels = json!({"users": {&shared.dora: 50}});
            shared
                .alice_sets(&StateEventType::RoomPowerLevels, levels)
                .await;
        }
        let line = shared.line().await;
        let topic = shared.sets(&line, "m.room.topic", "", json!({"topic": "mine"}));
        let after = line.after(&topic);
        assert_eq!(shared.receives(&topic).await, Received::Accepted);
        let ban = NewEvent::state(
            alice(),
            &StateEventType::RoomMember,
            shared.dora.as_str(),
            to_raw_value(&json!({"membership": "ban"})).unwrap(),
        );
        shared
            .house
            .rooms
            .sender
            .send(&shared.id(), ban)
            .await
            .unwrap();
        // The banned user continues on a line of events without the ban.
        let more = shared.sets(&after, "m.room.topic", "", json!({"topic": "more"}));
        let received = shared.receives(&more).await;

        assert!(matches!(received, Received::SoftFailed(_)), "{received:?}");
        let topic = shared.state(&StateEventType::RoomTopic, "topic").await;
        assert_eq!(topic.unwrap(), "mine", "in {version}");
    }
}

#[tokio::test]
async fn a_server_that_the_room_shuts_out_is_not_heard() {
    let shared = Shared::new().await;
    let hello = shared.says(&shared.line().await, "hello");
    let acl = json!({"allow": ["*"], "deny": ["there"]});
    shared.alice_sets(&StateEventType::RoomServerAcl, acl).await;

    let help = Help::default();
    let refused = shared.house.takes(&shared.there, &hello, help).await;

    assert!(matches!(refused, Err(Error::Forbidden(_))), "{refused:?}");
}

#[tokio::test]
async fn a_room_that_nobody_here_is_in_hears_nothing() {
    let shared = Shared::new().await;
    let id = shared.id();
    let hello = shared.says(&shared.line().await, "hello");
    shared
        .house
        .becomes(&id, alice(), alice(), Action::Leave)
        .await
        .unwrap();

    let help = Help::default();
    let refused = shared.house.takes(&shared.there, &hello, help).await;

    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
}

#[tokio::test]
async fn a_redaction_takes_effect_when_its_event_comes() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let hello = shared.says(&line, "hello");
    let event = (&*shared.dora, "m.room.redaction", None);
    let content = json!({"redacts": hello.pdu().event_id});
    let redaction = shared.there.makes(&shared.room, &line, event, content);

    assert_eq!(shared.receives(&redaction).await, Received::Accepted);
    assert_eq!(shared.receives(&hello).await, Received::Accepted);

    assert!(!shared.sees().await.contains(&"hello".to_owned()));
}

#[tokio::test]
async fn a_redaction_without_the_power_for_it_changes_nothing() {
    let shared = Shared::new().await;
    let id = shared.id();
    let mine = shared.house.says(&id, alice(), "mine", None).await.unwrap();
    let event = (&*shared.dora, "m.room.redaction", None);
    let content = json!({"redacts": mine});
    let line = shared.line().await;
    let redaction = shared.there.makes(&shared.room, &line, event, content);

    shared.receives(&redaction).await;

    assert!(shared.sees().await.contains(&"mine".to_owned()));
}

#[tokio::test]
async fn an_event_after_a_gap_comes_in_with_the_state_that_its_server_tells() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let lost = shared.says(&line, "lost");
    let found = shared.says(&line.after(&lost), "found");
    let state = line.state.iter().map(|pdu| pdu.event_id.clone()).collect();
    let help = Help {
        state_before: Some(state),
        ..Help::default()
    };

    let received = shared.house.takes(&shared.there, &found, help).await;

    assert_eq!(received.unwrap(), Received::Accepted);
    let room = shared.house.rooms.memory.room(&shared.id()).await.unwrap();
    let gaps = shared
        .house
        .rooms
        .receiver
        .gaps(&room, i64::MIN, i64::MAX)
        .await
        .unwrap();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].missing, std::slice::from_ref(&lost.pdu().event_id));
    assert_eq!(shared.receives(&lost).await, Received::Accepted);
    let seen = shared.sees().await;
    assert!(
        seen.ends_with(&["lost".to_owned(), "found".to_owned()]),
        "{seen:?}"
    );
    let gaps = shared
        .house
        .rooms
        .receiver
        .gaps(&room, i64::MIN, i64::MAX)
        .await
        .unwrap();
    assert!(gaps.is_empty(), "{gaps:?}");
}

#[tokio::test]
async fn many_events_at_once_come_in_once_each() {
    let shared = Shared::new().await;
    let line = shared.line().await;
    let events: Vec<Verified> = (0..20)
        .map(|n| shared.says(&line, &format!("event {n}")))
        .collect();

    let twice = events.iter().chain(&events);
    let received = futures_util::future::join_all(twice.map(|event| shared.receives(event))).await;

    let accepted = received
        .iter()
        .filter(|received| **received == Received::Accepted)
        .count();
    assert_eq!(accepted, 20, "{received:?}");
    let seen = shared.sees().await;
    let count = seen.iter().filter(|body| body.starts_with("event")).count();
    assert_eq!(count, 20);
}
