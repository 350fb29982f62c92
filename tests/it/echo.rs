//! A device receives its own events in a sync no earlier than the answer to its request.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::{
    chat::{in_room, new_transaction, said, timeline},
    harness::{Server, User},
    sliding,
};

/// Number of sent events: without the enforced order, some of them would overtake their answers.
const SENDS: usize = 30;

/// Records the order in which answers and echoes arrive.
#[derive(Default)]
struct Order(AtomicUsize);

impl Order {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Sends a message and returns the position of its answer in the order of arrival.
async fn answered(user: &User, (room, text): (&str, &str), order: &Order) -> usize {
    let content = json!({ "msgtype": "m.text", "body": text });
    let path = in_room(room, &format!("send/m.room.message/{}", new_transaction()));
    user.client.put(&path, content).await.expect_ok();
    order.next()
}

#[tokio::test]
async fn an_echo_in_a_sync_does_not_overtake_the_answer() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let mut last = alice.syncs().await;
    let mut overtaken = 0;

    for n in 0..SENDS {
        let (order, text) = (Order::default(), format!("message {n}"));
        let echo = async {
            let mut sync = alice.waits_after(&last).await;
            while !said(timeline(&sync, &room)).contains(&&*text) {
                sync = alice.waits_after(&sync).await;
            }
            (order.next(), sync)
        };
        let answer = answered(&alice, (&room, &text), &order);
        let (answered, (echoed, sync)) = tokio::join!(answer, echo);
        overtaken += usize::from(echoed < answered);
        last = sync;
    }

    assert_eq!(overtaken, 0, "overtaken answers of {SENDS}");
}

#[tokio::test]
async fn an_echo_in_a_sliding_sync_does_not_overtake_the_answer() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let mut connection = alice.lists(&sliding::list([0, 9], 5, &json!([])));
    connection.next().await;
    let mut overtaken = 0;

    for n in 0..SENDS {
        let (order, text) = (Order::default(), format!("message {n}"));
        let echo = async {
            let mut events = Value::Null;
            while !said(&events).contains(&&*text) {
                let sync = connection.waits().await;
                events = sync["rooms"][&room]["timeline"].clone();
            }
            order.next()
        };
        let answer = answered(&alice, (&room, &text), &order);
        let (answered, echoed) = tokio::join!(answer, echo);
        overtaken += usize::from(echoed < answered);
    }

    assert_eq!(overtaken, 0, "overtaken answers of {SENDS}");
}

#[tokio::test]
async fn state_does_not_overtake_its_answer_either() {
    let server = Server::start().await;
    let alice = server.register("alice").await;
    let room = alice.creates(json!({})).await;
    let mut last = alice.syncs().await;
    let mut overtaken = 0;

    for n in 0..SENDS {
        let order = Order::default();
        let echo = async {
            let mut sync = alice.waits_after(&last).await;
            while timeline(&sync, &room).as_array().is_none_or(Vec::is_empty) {
                sync = alice.waits_after(&sync).await;
            }
            (order.next(), sync)
        };
        let answer = async {
            alice
                .sets(
                    &room,
                    "m.room.topic",
                    json!({ "topic": format!("topic {n}") }),
                )
                .await;
            order.next()
        };
        let (answered, (echoed, sync)) = tokio::join!(answer, echo);
        overtaken += usize::from(echoed < answered);
        last = sync;
    }

    assert_eq!(overtaken, 0, "overtaken answers of {SENDS}");
}
