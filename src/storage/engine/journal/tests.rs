//! Tests of the journal on a database of its own.

use std::sync::Mutex as StdMutex;

use super::{batch::CommitFault, *};
use crate::{
    error::Error,
    numbers::{DeviceNum, Position, UserNum},
    storage::{Db, JournalChange, ReadAccess, testing::TestDb},
};

#[derive(Default)]
struct PositionLog(StdMutex<Vec<Position>>);

impl JournalFollower for PositionLog {
    fn committed(&self, changes: &[(Position, JournalChange)]) {
        self.0
            .lock()
            .unwrap()
            .extend(changes.iter().map(|(position, _)| *position));
    }
    fn failed(&self) {}
}

fn change() -> JournalChange {
    JournalChange::ToDevice {
        user: UserNum::new(1),
        device: DeviceNum::new(1),
    }
}

async fn store(tx: &mut WriteTx, text: &str) {
    tx.intern(text).await.unwrap();
    let position = tx.next_position();
    tx.publish(position, change());
}

async fn count_stored(test: &TestDb) -> i64 {
    let mut conn = test.db.read().await.unwrap();
    conn.query("SELECT COUNT(*) FROM strings")
        .fetch_scalar()
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn concurrent_writes_are_announced_in_order() {
    let test = TestDb::new().await;
    let follower = Arc::new(PositionLog::default());
    test.db.journal().add_follower(follower.clone());

    let writers = (0..64).map(|n| {
        let db = test.db.clone();
        test.tasks.spawn(async move {
            let mut tx = db.write().await.unwrap();
            store(&mut tx, &format!("text {n}")).await;
            tx.commit().await.unwrap();
        })
    });
    futures_util::future::join_all(writers).await;

    let positions = follower.0.lock().unwrap().clone();
    assert_eq!(positions, (1..=64).map(Position::new).collect::<Vec<_>>());
    assert_eq!(count_stored(&test).await, 64);
    assert_eq!(test.db.journal().published_position(), Position::new(64));
}

#[tokio::test]
async fn a_dropped_write_leaves_no_trace() {
    let test = TestDb::new().await;
    let follower = Arc::new(PositionLog::default());
    test.db.journal().add_follower(follower.clone());

    let mut before = test.db.write().await.unwrap();
    store(&mut before, "before").await;
    let before = before.release().unwrap();
    let mut dropped = test.db.write().await.unwrap();
    store(&mut dropped, "dropped").await;
    drop(dropped);
    let mut after = test.db.write().await.unwrap();
    store(&mut after, "after").await;
    after.commit().await.unwrap();
    before.wait_until_durable().await.unwrap();

    assert_eq!(count_stored(&test).await, 2);
    assert_eq!(*follower.0.lock().unwrap(), [1, 3].map(Position::new));
    let mut conn = test.db.read().await.unwrap();
    assert_eq!(
        test.db
            .strings
            .find_number(&mut conn, "dropped")
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn a_failed_statement_affects_only_its_own_turn() {
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

    assert_eq!(count_stored(&test).await, 1);
}

#[tokio::test]
async fn positions_continue_after_a_restart() {
    let test = TestDb::new().await;
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "one").await;
    tx.commit().await.unwrap();

    let test = test.reopen().await;
    let mut tx = test.db.write().await.unwrap();

    assert_eq!(tx.next_position(), Position::new(2));
}

#[tokio::test]
async fn the_next_write_after_a_lost_batch_reconnects() {
    let test = TestDb::new().await;
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "lost").await;
    let broken = Error::Unavailable("the disk is full".to_owned());
    tx.writer.discard_batch(&broken).await;
    drop(tx);

    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "kept").await;
    tx.commit().await.unwrap();

    assert_eq!(count_stored(&test).await, 1);
}

#[tokio::test]
async fn dropped_callers_neither_block_nor_lose_other_writes() {
    let test = TestDb::new().await;

    let writers = (0..100_u64).map(|n| {
        let db = test.db.clone();
        let write = async move {
            let mut tx = db.write().await.unwrap();
            store(&mut tx, &format!("text {n}")).await;
            tx.commit().await.unwrap();
        };
        let polls = if n % 5 == 0 { n / 5 } else { u64::MAX };
        test.tasks.spawn(drop_after_polls(write, polls))
    });
    futures_util::future::join_all(writers).await;

    assert!(count_stored(&test).await >= 80);
}

/// Polls a future at most the given number of times, and then drops it.
async fn drop_after_polls(future: impl Future<Output = ()>, polls: u64) {
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
async fn write_with_fault(test: &TestDb, fault: CommitFault) -> Result<()> {
    let mut tx = test.db.write().await.unwrap();
    store(&mut tx, "doubtful").await;
    tx.writer.fault = fault;
    tx.commit().await
}

#[tokio::test]
async fn a_stored_batch_is_announced_although_its_answer_was_lost() {
    let test = TestDb::new().await;
    let follower = Arc::new(PositionLog::default());
    test.db.journal().add_follower(follower.clone());

    let written = write_with_fault(&test, CommitFault::AnswerLost).await;

    assert!(written.is_ok());
    assert_eq!(count_stored(&test).await, 1);
    assert_eq!(*follower.0.lock().unwrap(), [Position::new(1)]);
    assert_eq!(test.db.journal().published_position(), Position::new(1));
}

#[tokio::test]
async fn an_unanswered_batch_that_was_not_stored_is_lost() {
    let test = TestDb::new().await;
    let follower = Arc::new(PositionLog::default());
    test.db.journal().add_follower(follower.clone());

    let written = write_with_fault(&test, CommitFault::NotCommitted).await;

    assert!(matches!(written, Err(Error::Unavailable(_))));
    assert_eq!(count_stored(&test).await, 0);
    assert!(follower.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn doubt_about_a_batch_without_positions_is_resolved() {
    let test = TestDb::new().await;
    for (fault, is_stored) in [
        (CommitFault::AnswerLost, true),
        (CommitFault::NotCommitted, false),
    ] {
        let mut tx = test.db.write().await.unwrap();
        tx.intern(&format!("{is_stored}")).await.unwrap();
        tx.writer.fault = fault;

        assert_eq!(tx.commit().await.is_ok(), is_stored);
    }
}

#[tokio::test]
async fn writes_continue_after_a_batch_was_in_doubt() {
    let test = TestDb::new().await;
    let follower = Arc::new(PositionLog::default());
    test.db.journal().add_follower(follower.clone());
    for fault in [CommitFault::AnswerLost, CommitFault::NotCommitted] {
        drop(write_with_fault(&test, fault).await);

        let mut tx = test.db.write().await.unwrap();
        store(&mut tx, "after").await;
        tx.commit().await.unwrap();
    }

    let positions = follower.0.lock().unwrap().clone();
    assert!(positions.is_sorted(), "{positions:?}");
    assert_eq!(positions.len(), 3);
}

#[tokio::test]
async fn the_journal_reports_a_problem_until_a_write_succeeds() {
    let test = TestDb::new().await;

    let mut tx = test.db.write().await.unwrap();
    tx.writer.discard_batch(&Error::StorageFull).await;
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
