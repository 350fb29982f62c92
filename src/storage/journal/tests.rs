//! The journal, tried on a database of its own.

use std::sync::Mutex as StdMutex;

use super::*;
use crate::storage::testing::TestDb;

#[derive(Default)]
struct Notes(StdMutex<Vec<Position>>);

impl Follower for Notes {
    fn committed(&self, changes: &[(Position, Change)]) {
        self.0
            .lock()
            .unwrap()
            .extend(changes.iter().map(|(position, _)| *position));
    }
    fn failed(&self) {}
}

fn change() -> Change {
    Change::ToDevice { user: 1, device: 1 }
}

async fn store(tx: &mut WriteTx, text: &str) {
    tx.intern(text).await.unwrap();
    let position = tx.position();
    tx.publish(position, change());
}

async fn stored(test: &TestDb) -> i64 {
    let mut conn = test.db.read().await.unwrap();
    conn.query("SELECT COUNT(*) FROM strings")
        .fetch_scalar()
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn concurrent_writes_are_all_stored_and_told_in_order() {
    let test = TestDb::new().await;
    let notes = Arc::new(Notes::default());
    test.db.journal().follow(notes.clone());

    let writers = (0..64).map(|n| {
        let db = test.db.clone();
        test.tasks.spawn(async move {
            let mut tx = db.write().await.unwrap();
            store(&mut tx, &format!("text {n}")).await;
            tx.commit().await.unwrap();
        })
    });
    futures_util::future::join_all(writers).await;

    let told = notes.0.lock().unwrap().clone();
    assert_eq!(told, (1..=64).collect::<Vec<_>>());
    assert_eq!(stored(&test).await, 64);
    assert_eq!(test.db.journal().published(), 64);
}

#[tokio::test]
async fn a_write_that_is_dropped_leaves_no_trace_and_harms_no_neighbour() {
    let test = TestDb::new().await;
    let notes = Arc::new(Notes::default());
    test.db.journal().follow(notes.clone());

    let mut before = test.db.write().await.unwrap();
    store(&mut before, "before").await;
    let before = before.release().unwrap();
    let mut dropped = test.db.write().await.unwrap();
    store(&mut dropped, "dropped").await;
    drop(dropped);
    let mut after = test.db.write().await.unwrap();
    store(&mut after, "after").await;
    after.commit().await.unwrap();
    before.durable().await.unwrap();

    assert_eq!(stored(&test).await, 2);
    assert_eq!(*notes.0.lock().unwrap(), vec![1, 3]);
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(
        test.db.strings.find(&mut conn, "dropped").await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_statement_that_fails_spoils_only_its_own_turn() {
    let test = TestDb::new().await;

    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "spoiled").await;
    let failed = tx
        .query("INSERT INTO journal (position) VALUES (NULL)")
        .execute()
        .await;
    assert!(failed.is_err());
    drop(tx);
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "good").await;
    tx.commit().await.unwrap();

    assert_eq!(stored(&test).await, 1);
}

#[tokio::test]
async fn positions_go_on_after_a_restart() {
    let test = TestDb::new().await;
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "one").await;
    tx.commit().await.unwrap();

    let test = test.reopen().await;
    let mut tx = test.db.write().await.unwrap();

    assert_eq!(tx.position(), 2);
}

#[tokio::test]
async fn after_a_batch_was_lost_the_next_write_connects_anew() {
    let test = TestDb::new().await;
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "lost").await;
    let broken = Error::Unavailable("the disk is full".to_owned());
    tx.writer.lose(&broken).await;
    drop(tx);

    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "kept").await;
    tx.commit().await.unwrap();

    assert_eq!(stored(&test).await, 1);
}

#[tokio::test]
async fn callers_that_vanish_at_any_moment_neither_block_nor_lose_others() {
    let test = TestDb::new().await;

    let writers = (0..100_u64).map(|n| {
        let db = test.db.clone();
        let write = async move {
            let mut tx = db.write().await.unwrap();
            store(&mut tx, &format!("text {n}")).await;
            tx.commit().await.unwrap();
        };
        let polls = if n % 5 == 0 { n / 5 } else { u64::MAX };
        test.tasks.spawn(vanish_after(write, polls))
    });
    futures_util::future::join_all(writers).await;

    assert!(stored(&test).await >= 80);
}

/// Polls a future a number of times at most, and drops it wherever it is then.
async fn vanish_after(future: impl Future<Output = ()>, polls: u64) {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return std::task::Poll::Ready(());
        }
        left -= 1;
        future.as_mut().poll(cx)
    })
    .await;
}
