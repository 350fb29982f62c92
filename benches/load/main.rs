//! Measures the speed of the server, on this machine: `cargo bench --bench load`.
//!
//! It starts the program with SQLite on a new folder (full durability, as always) and without rate limits, and
//! measures it from outside, over HTTP and WebSocket on the loopback address. The load comes from the same machine
//! and takes a share of the processor time: the results are lower than the server can reach alone.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement stops at its first failure, and prints its results"
)]

mod client;
#[path = "../common/process.rs"]
mod process;
mod server;

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use self::{
    client::{Client, Listener, Room},
    server::Server,
};

/// Number of starts that are measured.
const STARTS: usize = 10;
/// Messages that one sender sends, one after the other.
const SENT_BY_ONE: usize = 1_000;
/// Messages that many senders send together.
const SENT_BY_MANY: usize = 9_000;
const SENDERS: usize = 32;
const ROOMS: usize = 4;
/// Number of messages whose delivery to a waiting client is measured.
const DELIVERED: usize = 300;
/// Messages that are sent to a member with costly push rules.
const SENT_TO_COSTLY_RULES: usize = 100;
/// The length of each of these messages, in bytes.
const LONG_TEXT_BYTES: usize = 50_000;
/// Messages that are sent before anything is measured.
const WARM_UP: usize = 100;
/// Time limit for the sending of one part; the result covers the messages that were sent within it.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() {
    parlour::outbound::choose_cryptography();
    let done = timeout(PATIENCE * 10, measure()).await;
    done.expect("the measurement ends in time");
}

async fn measure() {
    start().await;
    let server = Server::start().await;
    println!("resident memory, idle: {:.1} MiB", server.memory_mib());
    let rooms = gather(&server).await;
    send_all(&rooms[..1], 1, WARM_UP).await;

    sending(&server, &rooms, 1, SENT_BY_ONE).await;
    sending(&server, &rooms, SENDERS, SENT_BY_MANY).await;
    let sent = SENT_BY_ONE + SENT_BY_MANY;
    println!(
        "resident memory, after {sent} messages: {:.1} MiB",
        server.memory_mib()
    );

    let room = &rooms[0];
    let by_sync = Listener::sync(&room.members[1]).await;
    delivery("a waiting /sync", room, by_sync).await;
    let by_socket = Listener::socket(&room.members[1]).await;
    delivery("a WebSocket", room, by_socket).await;
    costly_rules(room).await;
}

/// Measures the cost of the most expensive push rules that one member may have, for a long message.
async fn costly_rules(room: &Room) {
    let (sender, member) = (&room.members[0], &room.members[1]);
    let text = "a b".repeat(LONG_TEXT_BYTES / 3);
    println!(
        "one long message, usual push rules: {}",
        told(&mut send_long(sender, &room.id, &text).await)
    );
    member.adds_costly_push_rules().await;
    println!(
        "one long message, a member with the most costly push rules: {}",
        told(&mut send_long(sender, &room.id, &text).await)
    );
}

async fn send_long(sender: &Client, room_id: &str, text: &str) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..SENT_TO_COSTLY_RULES {
        let begin = Instant::now();
        sender.send_text(room_id, text).await;
        took.push(begin.elapsed());
    }
    took
}

/// Measures the time from the start of the program to its first answer.
async fn start() {
    let mut fresh = Vec::new();
    let mut again = Vec::new();
    for _ in 0..STARTS {
        let mut server = Server::start().await;
        fresh.push(server.started_in);
        server.restart().await;
        again.push(server.started_in);
    }
    println!(
        "start to first answer, new data directory: {}",
        told(&mut fresh)
    );
    println!(
        "start to first answer, old data directory: {}",
        told(&mut again)
    );
}

/// Registers all users and creates the rooms, each with an equal share of the users.
async fn gather(server: &Server) -> Vec<Room> {
    let mut rooms = Vec::new();
    for room in 0..ROOMS {
        let mut members = Vec::new();
        for n in 0..SENDERS / ROOMS {
            members.push(Client::register(&server.address, &format!("user-{room}-{n}")).await);
        }
        rooms.push(Room::of(members).await);
    }
    rooms
}

/// Measures the rate at which `senders` users send `count` messages, each waiting for its answer before the next.
async fn sending(server: &Server, rooms: &[Room], senders: usize, count: usize) {
    let cpu_before = server.cpu_ms();
    let begin = Instant::now();
    let mut took = send_all(rooms, senders, count).await;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = (server.cpu_ms() - cpu_before) / number(took.len());
    println!(
        "{senders} sending: {:.0} sends/s; one send: {}; server CPU per event: {cpu:.2} ms",
        number(took.len()) / seconds,
        told(&mut took),
    );
}

/// Lets `senders` users, spread over the rooms, send `count` messages together, and returns the duration of each send.
async fn send_all(rooms: &[Room], senders: usize, count: usize) -> Vec<Duration> {
    let until = Instant::now() + PATIENCE;
    let mut sending = JoinSet::new();
    for n in 0..senders {
        let room = &rooms[n % rooms.len()];
        let (room_id, sender) = (Arc::clone(&room.id), room.members[n / rooms.len()].clone());
        sending.spawn(async move {
            let mut took = Vec::new();
            while took.len() < count / senders && Instant::now() < until {
                let begin = Instant::now();
                sender.send(&room_id).await;
                took.push(begin.elapsed());
            }
            took
        });
    }
    sending.join_all().await.concat()
}

/// Measures the time from sending a message until a waiting client has it.
async fn delivery(to: &str, room: &Room, mut listener: Listener) {
    let mut took = Vec::new();
    for _ in 0..DELIVERED {
        let (id, sender) = (Arc::clone(&room.id), room.members[0].clone());
        let waiting = listener.wait().await;
        let begin = Instant::now();
        let mut sending = JoinSet::new();
        sending.spawn(async move { sender.send(&id).await });
        listener = waiting.message(&room.id).await;
        took.push(begin.elapsed());
        sending.join_all().await;
    }
    println!("from the sending to {to}: {}", told(&mut took));
}

/// Formats the median and the 99th percentile.
fn told(took: &mut [Duration]) -> String {
    took.sort();
    let at = |percent: usize| ms(took[(took.len() - 1) * percent / 100]);
    format!("median {:.2} ms, p99 {:.2} ms", at(50), at(99))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
