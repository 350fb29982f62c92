//! Measures the speed of rooms on other servers, on this machine: `cargo bench --bench federation`.
//!
//! It starts the program with SQLite on a new folder, and acts as another server with large rooms and many events, over
//! TLS on the loopback address. Its events are signed beforehand; the rest of its work takes a share of the processor
//! time.

#![expect(
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement stops at its first failure, prints its results, and needs no standard errors"
)]

mod peer;
#[path = "../common/process.rs"]
mod process;
mod room;
mod server;

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout};

use self::{peer::Peer, room::BigRoom, server::Server};

/// Member counts of the rooms that the server joins.
const ROOM_MEMBER_COUNTS: [usize; 2] = [1_000, 10_000];
/// Number of events that the server receives in normal operation, and the numbers of rooms over which they are spread.
const RECEIVED_EVENTS: usize = 10_000;
const SPREAD_ROOM_COUNTS: [usize; 2] = [1, 50];
/// Number of events that the server misses.
const MISSED_EVENTS: usize = 10_000;
/// PDUs in a transaction: the maximum of the specification.
const PDUS_PER_TRANSACTION: usize = 50;
/// Time limit for the whole measurement.
const BENCH_TIMEOUT: Duration = Duration::from_mins(20);

#[tokio::main]
async fn main() {
    parlour::outbound::choose_cryptography();
    let done = timeout(BENCH_TIMEOUT, measure()).await;
    done.expect("the measurement ends in time");
}

async fn measure() {
    let peer = Peer::start().await;
    let mut server = Server::start(&peer).await;
    println!("resident memory, idle: {:.1} MiB", server.memory_mib());
    for members in ROOM_MEMBER_COUNTS {
        measure_join(&server, &peer, members).await;
    }
    for spread in SPREAD_ROOM_COUNTS {
        measure_receiving(&server, &peer, spread).await;
    }
    measure_catching_up(&mut server, &peer).await;
}

/// Measures the time to join a room.
async fn measure_join(server: &Server, peer: &Peer, members: usize) {
    let room_id = peer.add_room(BigRoom::create(&peer.key, members));
    let begin = Instant::now();
    server.join_room(&room_id, &peer.name).await;
    let usable = begin.elapsed();
    let joined = server.count_joined_members(&room_id).await;
    assert_eq!(joined, members + 2, "all members are known");
    println!(
        "a room of {members} members: joined in {:.2} s, all members listed after {:.2} s, resident memory {:.1} MiB",
        usable.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
        server.memory_mib()
    );
}

/// Measures the number of events per second that the server receives from one server, one transaction after the other.
async fn measure_receiving(server: &Server, peer: &Peer, spread: usize) {
    let mut rooms = Vec::new();
    for _ in 0..spread {
        let room_id = peer.add_room(BigRoom::create(&peer.key, 10));
        server.join_room(&room_id, &peer.name).await;
        rooms.push(room_id);
    }
    let said: Vec<_> = (0..RECEIVED_EVENTS)
        .map(|n| peer.create_message(&rooms[n % spread]))
        .collect();
    let cpu = server.cpu_ms();
    let begin = Instant::now();
    for pdus in said.chunks(PDUS_PER_TRANSACTION) {
        let answer = peer.send_transaction(server, pdus).await;
        let refused = answer["pdus"]
            .as_object()
            .expect("the answer has a result for each PDU");
        let refused = refused
            .values()
            .find(|of_one| of_one.get("error").is_some());
        assert_eq!(refused, None);
    }
    let took = begin.elapsed().as_secs_f64();
    let events = f64::from(u32::try_from(RECEIVED_EVENTS).expect("is small"));
    println!(
        "{RECEIVED_EVENTS} events into {spread} rooms: {:.0} a second, {:.2} ms of processor time each, resident memory {:.1} MiB",
        events / took,
        (server.cpu_ms() - cpu) / events,
        server.memory_mib()
    );
}

/// Measures the time until a server that was stopped shows the newest of the events that it missed.
async fn measure_catching_up(server: &mut Server, peer: &Peer) {
    let room_id = peer.add_room(BigRoom::create(&peer.key, 10));
    server.join_room(&room_id, &peer.name).await;
    let since = server.sync(None).await;
    server.restart_after(|| {
        for _ in 0..MISSED_EVENTS {
            peer.create_message(&room_id);
        }
    });
    let newest = peer.create_message(&room_id);
    let begin = Instant::now();
    peer.send_transaction(server, &[newest]).await;
    let mut since = since["next_batch"].clone();
    let shown = loop {
        let update = server.sync(since.as_str()).await;
        let events = &update["rooms"]["join"][&room_id]["timeline"]["events"];
        if events.as_array().is_some_and(|events| !events.is_empty()) {
            break begin.elapsed();
        }
        since = update["next_batch"].clone();
    };
    println!(
        "{MISSED_EVENTS} missed events: the newest is shown after {:.2} s",
        shown.as_secs_f64()
    );
    let read = server.read_history(&room_id, MISSED_EVENTS).await;
    println!(
        "{read} of them were read back after {:.2} s, resident memory {:.1} MiB",
        begin.elapsed().as_secs_f64(),
        server.memory_mib()
    );
}

fn text(value: &Value) -> &str {
    value.as_str().expect("is a text")
}
