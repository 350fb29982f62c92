//! Measures what push notifications and application services cost, on this machine:
//! `cargo bench --bench notifications`.
//!
//! It starts the program with SQLite on a new folder and without rate limits. The push gateway, the application service
//! and the load are in this process, and take their share of the same processor time.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement stops at its first failure, and prints its results"
)]

#[path = "../common/process.rs"]
mod process;
mod receiver;
mod server;

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use self::{
    receiver::Receiver,
    server::{Server, User},
};

/// Messages that are sent in each part, by all senders together.
const MESSAGES_PER_PART: usize = 3_200;
const SENDER_COUNT: usize = 16;
/// Rounds in which messages that are pushed are sent: a queue of a pusher holds a hundred events.
const PUSH_ROUNDS: usize = 40;
/// Members with a pusher in the large room, and the messages that are sent to it.
const LARGE_ROOM_PUSHERS: usize = 1_000;
const LARGE_ROOM_MESSAGES: usize = 20;
/// Time limit for everything.
const TIME_LIMIT: Duration = Duration::from_mins(10);

#[tokio::main]
async fn main() {
    parlour::outbound::choose_cryptography();
    let done = timeout(TIME_LIMIT, async {
        measure_pushes().await;
        measure_large_room().await;
        measure_application_service().await;
    });
    done.await.expect("the measurement ends in time");
}

/// The result of sending messages.
struct SentMessages {
    /// The time until the last one was accepted.
    took: Duration,
    /// The processor time of the server for each.
    cpu_ms: f64,
}

/// Sends messages to a room from many users, in rounds after each of which the receiver has all of them. Returns the
/// processor time of the server for each message, in milliseconds.
async fn send_in_rounds(
    server: &Server,
    senders: &[User],
    room: &str,
    rounds: usize,
    mut receiver: Option<&mut Receiver>,
) -> f64 {
    let cpu_before = server.cpu_ms();
    for _ in 0..rounds {
        let mut sending = JoinSet::new();
        for sender in senders {
            let (sender, room) = (sender.clone(), room.to_owned());
            let count = MESSAGES_PER_PART / SENDER_COUNT / rounds;
            sending.spawn(async move { sender.send_messages(&room, count).await });
        }
        sending.join_all().await;
        if let Some(receiver) = &mut receiver {
            receiver.receive(MESSAGES_PER_PART / rounds).await;
        }
    }
    (server.cpu_ms() - cpu_before) / as_float(MESSAGES_PER_PART)
}

/// Measures messages to a room before and after one member sets a pusher.
async fn measure_pushes() {
    let mut gateway = Receiver::start().await;
    let server = Server::start(&[("PARLOUR__PUSH__ALLOW_PRIVATE_ADDRESSES", "true")]).await;
    let senders = register(&server, "sender", SENDER_COUNT).await;
    let reader = User::register(&server, "reader").await;
    let room = create_room(&senders).await;
    reader.join(&room).await;
    let without = send_in_rounds(&server, &senders, &room, PUSH_ROUNDS, None).await;
    reader.set_pusher(&gateway.url).await;
    let begin = Instant::now();
    let receiver = Some(&mut gateway);
    let with = send_in_rounds(&server, &senders, &room, PUSH_ROUNDS, receiver).await;
    println!(
        "server CPU of a message, without and with one push: {without:.2} ms, {with:.2} ms; {:.0} pushes/s",
        as_float(MESSAGES_PER_PART) / begin.elapsed().as_secs_f64(),
    );
}

/// Measures messages to a room with many pushers.
async fn measure_large_room() {
    let mut gateway = Receiver::start().await;
    let server = Server::start(&[
        ("PARLOUR__PUSH__ALLOW_PRIVATE_ADDRESSES", "true"),
        ("PARLOUR__PASSWORDS__MEMORY_KIB", "8"),
        ("PARLOUR__PASSWORDS__ITERATIONS", "1"),
    ])
    .await;
    let members = register(&server, "member", LARGE_ROOM_PUSHERS + 1).await;
    let (sender, readers) = members.split_first().expect("there are members");
    let room = create_room(&members).await;
    sender.send_messages(&room, LARGE_ROOM_MESSAGES).await;
    let without = measure_one_sender(&server, sender, &room, async {}, LARGE_ROOM_MESSAGES).await;
    for reader in readers {
        reader.set_pusher(&gateway.url).await;
    }
    let pushes = LARGE_ROOM_PUSHERS * LARGE_ROOM_MESSAGES;
    let begin = Instant::now();
    let arrivals = gateway.receive(pushes);
    let with = measure_one_sender(&server, sender, &room, arrivals, pushes).await;
    println!(
        "a room with {LARGE_ROOM_PUSHERS} pushers: one send {:.2} ms without pushers, {:.2} ms with; \
         server CPU of a push {:.3} ms; {:.0} pushes/s; resident memory {:.0} MiB",
        as_milliseconds(without.took) / as_float(LARGE_ROOM_MESSAGES),
        as_milliseconds(with.took) / as_float(LARGE_ROOM_MESSAGES),
        with.cpu_ms,
        as_float(pushes) / begin.elapsed().as_secs_f64(),
        server.memory_mib(),
    );
}

/// Sends the messages of the large room, and waits for the arrivals. The processor time is divided by `share`.
async fn measure_one_sender(
    server: &Server,
    sender: &User,
    room: &str,
    arrivals: impl Future,
    share: usize,
) -> SentMessages {
    let cpu_before = server.cpu_ms();
    let begin = Instant::now();
    sender.send_messages(room, LARGE_ROOM_MESSAGES).await;
    let took = begin.elapsed();
    arrivals.await;
    SentMessages {
        took,
        cpu_ms: (server.cpu_ms() - cpu_before) / as_float(share),
    }
}

/// Measures the events that reach an application service.
async fn measure_application_service() {
    let mut service = Receiver::start().await;
    let registration = service.registration();
    let path = registration.path().to_string_lossy().into_owned();
    let server = Server::start(&[("PARLOUR__APPSERVICES__REGISTRATIONS", &path)]).await;
    let senders = register(&server, "sender", SENDER_COUNT).await;
    let room = create_room(&senders).await;
    let without = send_in_rounds(&server, &senders, &room, 1, None).await;
    User::of_service(&server).join(&room).await;
    let begin = Instant::now();
    let with = send_in_rounds(&server, &senders, &room, 1, Some(&mut service)).await;
    println!(
        "an application service: {:.0} events/s; server CPU of an event, without and with the service: \
         {without:.2} ms, {with:.2} ms",
        as_float(MESSAGES_PER_PART) / begin.elapsed().as_secs_f64(),
    );
}

async fn register(server: &Server, name: &str, count: usize) -> Vec<User> {
    let mut users = Vec::new();
    for n in 0..count {
        users.push(User::register(server, &format!("{name}-{n}")).await);
    }
    users
}

/// Creates a room with these members.
async fn create_room(members: &[User]) -> String {
    let (creator, others) = members.split_first().expect("there are members");
    let room = creator.create_room().await;
    for member in others {
        member.join(&room).await;
    }
    room
}

fn as_milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn as_float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
