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
    client::{Client, MeasuredRoom, SyncedClient},
    server::Server,
};

/// Number of starts that are measured.
const MEASURED_STARTS: usize = 10;
/// Messages that one sender sends, one after the other.
const ONE_SENDER_MESSAGES: usize = 1_000;
/// Messages that many senders send together.
const MANY_SENDERS_MESSAGES: usize = 9_000;
const SENDER_COUNT: usize = 32;
const ROOM_COUNT: usize = 4;
/// Number of messages whose delivery to a waiting client is measured.
const DELIVERED_MESSAGES: usize = 300;
/// Messages that are sent to a member with costly push rules.
const COSTLY_RULES_MESSAGES: usize = 100;
/// The length of each of these messages, in bytes.
const LONG_TEXT_BYTES: usize = 50_000;
/// Messages that are sent before anything is measured.
const WARM_UP_MESSAGES: usize = 100;
/// Time limit for the sending of one part; the result covers the messages that were sent within it.
const SENDING_TIMEOUT: Duration = Duration::from_mins(1);

#[tokio::main]
async fn main() {
    parlour::outbound::choose_cryptography();
    let done = timeout(SENDING_TIMEOUT * 10, measure()).await;
    done.expect("the measurement ends in time");
}

async fn measure() {
    measure_start().await;
    let server = Server::start().await;
    println!("resident memory, idle: {:.1} MiB", server.memory_mib());
    let rooms = create_rooms(&server).await;
    send_all(&rooms[..1], 1, WARM_UP_MESSAGES).await;

    measure_sending(&server, &rooms, 1, ONE_SENDER_MESSAGES).await;
    measure_sending(&server, &rooms, SENDER_COUNT, MANY_SENDERS_MESSAGES).await;
    let sent = ONE_SENDER_MESSAGES + MANY_SENDERS_MESSAGES;
    println!(
        "resident memory, after {sent} messages: {:.1} MiB",
        server.memory_mib()
    );

    let room = &rooms[0];
    let by_sync = SyncedClient::by_sync(&room.members[1]).await;
    measure_delivery("a waiting /sync", room, by_sync).await;
    let by_socket = SyncedClient::by_socket(&room.members[1]).await;
    measure_delivery("a WebSocket", room, by_socket).await;
    measure_costly_rules(room).await;
}

/// Measures the cost of the most expensive push rules that one member may have, for a long message.
async fn measure_costly_rules(room: &MeasuredRoom) {
    let (sender, member) = (&room.members[0], &room.members[1]);
    let text = "a b".repeat(LONG_TEXT_BYTES / 3);
    println!(
        "one long message, usual push rules: {}",
        format_percentiles(&mut send_long(sender, &room.id, &text).await)
    );
    member.add_costly_push_rules().await;
    println!(
        "one long message, a member with the most costly push rules: {}",
        format_percentiles(&mut send_long(sender, &room.id, &text).await)
    );
}

async fn send_long(sender: &Client, room_id: &str, text: &str) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..COSTLY_RULES_MESSAGES {
        let begin = Instant::now();
        sender.send_text(room_id, text).await;
        took.push(begin.elapsed());
    }
    took
}

/// Measures the time from the start of the program to its first answer.
async fn measure_start() {
    let mut fresh = Vec::new();
    let mut again = Vec::new();
    for _ in 0..MEASURED_STARTS {
        let mut server = Server::start().await;
        fresh.push(server.started_in);
        server.restart().await;
        again.push(server.started_in);
    }
    println!(
        "start to first answer, new data directory: {}",
        format_percentiles(&mut fresh)
    );
    println!(
        "start to first answer, old data directory: {}",
        format_percentiles(&mut again)
    );
}

/// Registers all users and creates the rooms, each with an equal share of the users.
async fn create_rooms(server: &Server) -> Vec<MeasuredRoom> {
    let mut rooms = Vec::new();
    for room in 0..ROOM_COUNT {
        let mut members = Vec::new();
        for n in 0..SENDER_COUNT / ROOM_COUNT {
            members.push(Client::register(&server.address, &format!("user-{room}-{n}")).await);
        }
        rooms.push(MeasuredRoom::create(members).await);
    }
    rooms
}

/// Measures the rate at which `senders` users send `count` messages, each waiting for its answer before the next.
async fn measure_sending(server: &Server, rooms: &[MeasuredRoom], senders: usize, count: usize) {
    let cpu_before = server.cpu_ms();
    let begin = Instant::now();
    let mut took = send_all(rooms, senders, count).await;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = (server.cpu_ms() - cpu_before) / as_float(took.len());
    println!(
        "{senders} sending: {:.0} sends/s; one send: {}; server CPU per event: {cpu:.2} ms",
        as_float(took.len()) / seconds,
        format_percentiles(&mut took),
    );
}

/// Lets `senders` users, spread over the rooms, send `count` messages together, and returns the duration of each send.
async fn send_all(rooms: &[MeasuredRoom], senders: usize, count: usize) -> Vec<Duration> {
    let until = Instant::now() + SENDING_TIMEOUT;
    let mut sending = JoinSet::new();
    for n in 0..senders {
        let room = &rooms[n % rooms.len()];
        let (room_id, sender) = (Arc::clone(&room.id), room.members[n / rooms.len()].clone());
        sending.spawn(async move {
            let mut took = Vec::new();
            while took.len() < count / senders && Instant::now() < until {
                let begin = Instant::now();
                sender.send_message(&room_id).await;
                took.push(begin.elapsed());
            }
            took
        });
    }
    sending.join_all().await.concat()
}

/// Measures the time from sending a message until a waiting client has it.
async fn measure_delivery(to: &str, room: &MeasuredRoom, mut listener: SyncedClient) {
    let mut took = Vec::new();
    for _ in 0..DELIVERED_MESSAGES {
        let (id, sender) = (Arc::clone(&room.id), room.members[0].clone());
        let waiting = listener.start_waiting().await;
        let begin = Instant::now();
        let mut sending = JoinSet::new();
        sending.spawn(async move { sender.send_message(&id).await });
        listener = waiting.wait_for_message(&room.id).await;
        took.push(begin.elapsed());
        sending.join_all().await;
    }
    println!(
        "from the sending to {to}: {}",
        format_percentiles(&mut took)
    );
}

/// Formats the median and the 99th percentile.
fn format_percentiles(took: &mut [Duration]) -> String {
    took.sort();
    let at = |percent: usize| as_milliseconds(took[(took.len() - 1) * percent / 100]);
    format!("median {:.2} ms, p99 {:.2} ms", at(50), at(99))
}

fn as_milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn as_float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
