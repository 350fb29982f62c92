//! A device receives its own events in a sync no earlier than the answer to its request.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::{
    chat::{message_bodies, new_transaction, room_path, timeline},
    harness::{Server, User},
    sliding::{self, SlidingTestConnection},
};

/// Number of sent events: without the enforced order, some of them would overtake their answers.
const SENT_EVENTS: usize = 30;

/// Records the order in which answers and echoes arrive.
#[derive(Default)]
struct ArrivalOrder(AtomicUsize);

impl ArrivalOrder {
    fn next_position(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Sends a message and returns the position of its answer in the order of arrival.
async fn answer_position(user: &User, (room, text): (&str, &str), order: &ArrivalOrder) -> usize {
    let content = json!({ "msgtype": "m.text", "body": text });
    let path = room_path(room, &format!("send/m.room.message/{}", new_transaction()));
    user.client.put(&path, content).await.expect_ok();
    order.next_position()
}

/// Syncs until an answer fulfils a condition, and returns that answer.
async fn syncs_until(user: &User, since: &Value, is_awaited: impl Fn(&Value) -> bool) -> Value {
    let mut sync = user.long_polls_after(since).await;
    while !is_awaited(&sync) {
        sync = user.long_polls_after(&sync).await;
    }
    sync
}

fn has_events(sync: &Value, room: &str) -> bool {
    let events = timeline(sync, room).as_array();
    events.is_some_and(|events| !events.is_empty())
}

async fn polls_until_message(connection: &mut SlidingTestConnection<'_>, room: &str, text: &str) {
    let mut events = Value::Null;
    while !message_bodies(&events).contains(&text) {
        let sync = connection.poll_until_news().await;
        events = sync["rooms"][room]["timeline"].clone();
    }
}

#[tokio::test]
async fn an_echo_in_a_sync_does_not_overtake_the_answer() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let mut last = alice.syncs().await;
    let mut overtaken = 0;

    for n in 0..SENT_EVENTS {
        let (order, text) = (ArrivalOrder::default(), format!("message {n}"));
        let echo = async {
            let has_echo = |sync: &Value| message_bodies(timeline(sync, &room)).contains(&&*text);
            let sync = syncs_until(&alice, &last, has_echo).await;
            (order.next_position(), sync)
        };
        let answer = answer_position(&alice, (&room, &text), &order);
        let (answered, (echoed, sync)) = tokio::join!(answer, echo);
        overtaken += usize::from(echoed < answered);
        last = sync;
    }

    assert_eq!(overtaken, 0, "overtaken answers of {SENT_EVENTS}");
}

#[tokio::test]
async fn an_echo_in_a_sliding_sync_does_not_overtake_the_answer() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let mut connection = alice.opens_list(&sliding::list_config([0, 9], 5, &json!([])));
    connection.poll().await;
    let mut overtaken = 0;

    for n in 0..SENT_EVENTS {
        let (order, text) = (ArrivalOrder::default(), format!("message {n}"));
        let echo = async {
            polls_until_message(&mut connection, &room, &text).await;
            order.next_position()
        };
        let answer = answer_position(&alice, (&room, &text), &order);
        let (answered, echoed) = tokio::join!(answer, echo);
        overtaken += usize::from(echoed < answered);
    }

    assert_eq!(overtaken, 0, "overtaken answers of {SENT_EVENTS}");
}

#[tokio::test]
async fn a_state_echo_does_not_overtake_its_answer() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let mut last = alice.syncs().await;
    let mut overtaken = 0;

    for n in 0..SENT_EVENTS {
        let order = ArrivalOrder::default();
        let echo = async {
            let sync = syncs_until(&alice, &last, |sync| has_events(sync, &room)).await;
            (order.next_position(), sync)
        };
        let answer = async {
            alice
                .sets_state(
                    &room,
                    "m.room.topic",
                    json!({ "topic": format!("topic {n}") }),
                )
                .await;
            order.next_position()
        };
        let (answered, (echoed, sync)) = tokio::join!(answer, echo);
        overtaken += usize::from(echoed < answered);
        last = sync;
    }

    assert_eq!(overtaken, 0, "overtaken answers of {SENT_EVENTS}");
}
