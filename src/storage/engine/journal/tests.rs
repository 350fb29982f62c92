//! Tests of the journal on a database of its own.

use std::sync::Mutex as StdMutex;

use super::*;
use crate::storage::{Db, testing::TestDb};

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

/// Polls a future at most the given number of times, and then drops it.
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

/// Writes in a batch whose commit fails as `fault` says. Returns the outcome for the writer.
async fn written_with(test: &TestDb, fault: batch_in_doubt::Fault) -> Result<()> {
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "doubtful").await;
    tx.writer.fault = fault;
    tx.commit().await
}

#[tokio::test]
async fn a_batch_that_was_stored_is_told_although_the_answer_was_lost() {
    let test = TestDb::new().await;
    let notes = Arc::new(Notes::default());
    test.db.journal().follow(notes.clone());

    let written = written_with(&test, batch_in_doubt::Fault::AnswerLost).await;

    assert!(written.is_ok());
    assert_eq!(stored(&test).await, 1);
    assert_eq!(*notes.0.lock().unwrap(), vec![1]);
    assert_eq!(test.db.journal().published(), 1);
}

#[tokio::test]
async fn a_batch_without_answer_that_was_not_stored_is_lost_for_all_who_wrote_in_it() {
    let test = TestDb::new().await;
    let notes = Arc::new(Notes::default());
    test.db.journal().follow(notes.clone());

    let written = written_with(&test, batch_in_doubt::Fault::NotCommitted).await;

    assert!(matches!(written, Err(Error::Unavailable(_))));
    assert_eq!(stored(&test).await, 0);
    assert!(notes.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_batch_that_takes_no_position_is_found_out_about_as_well() {
    let test = TestDb::new().await;
    for (fault, is_stored) in [
        (batch_in_doubt::Fault::AnswerLost, true),
        (batch_in_doubt::Fault::NotCommitted, false),
    ] {
        let mut tx = test.db.write().await.unwrap();
        tx.intern(&format!("{is_stored}")).await.unwrap();
        tx.writer.fault = fault;

        assert_eq!(tx.commit().await.is_ok(), is_stored);
    }
}

#[tokio::test]
async fn writes_go_on_after_a_batch_was_in_doubt() {
    let test = TestDb::new().await;
    let notes = Arc::new(Notes::default());
    test.db.journal().follow(notes.clone());
    for fault in [
        batch_in_doubt::Fault::AnswerLost,
        batch_in_doubt::Fault::NotCommitted,
    ] {
        drop(written_with(&test, fault).await);

        let mut tx = test.db.write().await.unwrap();
        store(&mut tx, "after").await;
        tx.commit().await.unwrap();
    }

    let told = notes.0.lock().unwrap().clone();
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(told.len(), 3);
}

#[tokio::test]
async fn the_journal_says_that_nothing_can_be_stored_until_something_is() {
    let test = TestDb::new().await;

    let mut tx = test.db.write().await.unwrap();
    tx.writer.lose(&Error::StorageFull).await;
    drop(tx);
    let problem = test.db.health().problem();
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "kept").await;
    tx.commit().await.unwrap();

    assert!(problem.is_some_and(|problem| problem.contains("full")));
    assert_eq!(test.db.health().problem(), None);
}

#[tokio::test]
async fn a_second_server_on_the_same_data_directory_is_refused() {
    let test = TestDb::new().await;

    let second = Db::open(&test.url, test.dir.path(), &Tasks::default()).await;

    let refused = second.err().expect("it is refused").to_string();
    assert!(refused.contains("another server is running"), "{refused}");
    test.reopen().await;
}
