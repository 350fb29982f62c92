//! Clients of the three ways to sync hold the same data, whatever happens.
//!
//! A random history of several users is played. After every action, a client of `/sync`, one of sliding sync and one of
//! the WebSocket channel, on three devices of one user, must hold the same rooms, timelines, state, counts, receipts,
//! typing users, account data and messages to devices. Meanwhile, answers are lost, connections break, the range of
//! the list changes, and the server restarts. At the end, a client that syncs for the first time must hold the same.
//!
//! `PARLOUR_MODEL_STEPS` sets the number of actions in all histories together, and `PARLOUR_MODEL_SEED` the seed of the
//! histories, which are otherwise the same in each run. A history that fails is reduced to a short one that also fails.

mod action;
mod clients;
mod view;

use parlour::clock::Clock;
use proptest::{
    collection::vec,
    test_runner::{
        Config, FailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
    },
};
use serde_json::json;

use self::{
    action::{Action, World},
    clients::{ChannelClient, SlidingClient, SyncClient},
    view::difference,
};
use crate::harness::{Server, User};

/// The number of actions of all histories, if the environment has no other.
const DEFAULT_STEPS: u32 = 2_000;
/// The number of actions of one history.
const STEPS_PER_HISTORY: u32 = 50;
/// The number of shorter histories that are tried after a failure.
const MAX_SHRINK_STEPS: u32 = 60;

#[test]
fn all_ways_to_sync_give_clients_the_same_data() {
    let steps = number_from_environment("PARLOUR_MODEL_STEPS").unwrap_or(DEFAULT_STEPS);
    let seed = number_from_environment("PARLOUR_MODEL_SEED").unwrap_or(0);
    let config = Config {
        cases: steps.div_ceil(STEPS_PER_HISTORY),
        max_shrink_iters: MAX_SHRINK_STEPS,
        failure_persistence: None::<Box<dyn FailurePersistence>>,
        ..Config::default()
    };
    let length = usize::try_from(STEPS_PER_HISTORY).expect("is small");
    let histories = vec(action::any_action(), length);

    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_be_bytes(); 8].concat());
    let outcome = TestRunner::new_with_rng(config, random).run(&histories, |history| {
        // The runtime ends with the history, and with it everything that the server has started.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        let played = runtime.block_on(play(&history));
        played.map_err(TestCaseError::fail)
    });

    if let Err(TestError::Fail(reason, history)) = outcome {
        let actions: Vec<String> = history.iter().map(|action| format!("{action:?}")).collect();
        panic!("{reason}\nin the history\n{}", actions.join("\n"));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment sets the length of the test"
)]
fn number_from_environment(name: &str) -> Option<u32> {
    let number = std::env::var(name).ok()?;
    Some(number.parse().expect("a number"))
}

/// The clients of the user, one on each device.
struct Clients {
    sync: SyncClient,
    sliding: SlidingClient,
    channel: ChannelClient,
}

/// Plays a history. Returns the first difference between the clients.
async fn play(history: &[Action]) -> Result<(), String> {
    let clock = Clock::manual(1_700_000_000_000);
    let mut server = Server::with_clock(clock, |_| {}).await;
    let mut world = World::new(&server).await;
    let mut devices = Vec::new();
    for _ in 0..3 {
        devices.push(server.log_in("alice").await);
    }
    let mut clients = Clients::start(&server, &devices).await;
    for (step, action) in history.iter().enumerate() {
        if *action == Action::Restart {
            server = server.restart().await;
            world = world.on_server(&server);
            devices = devices
                .into_iter()
                .map(|device| device.on_server(&server))
                .collect();
            clients.forget_typing();
            clients.channel.reconnect(&server, &devices[2]).await;
        } else {
            world.perform(action).await;
            clients.perturb(action, &server, &devices).await;
        }
        clients
            .compare(&devices)
            .await
            .map_err(|difference| format!("after step {step}, {action:?}: {difference}"))?;
    }
    clients.compare_with_new(&devices).await
}

impl Clients {
    async fn start(server: &Server, devices: &[User]) -> Self {
        let mut sync = SyncClient::default();
        sync.catch_up(&devices[0]).await;
        Self {
            sync,
            sliding: SlidingClient::new(),
            channel: ChannelClient::connect(server, &devices[2]).await,
        }
    }

    /// Disturbs a client, if the action says so.
    async fn perturb(&mut self, action: &Action, server: &Server, devices: &[User]) {
        match action {
            Action::LoseSyncAnswer => self.sync.lose_answer(&devices[0]).await,
            Action::LoseSlidingAnswer => self.sliding.lose_answer(&devices[1]).await,
            Action::BreakChannel => self.channel.reconnect(server, &devices[2]).await,
            Action::NarrowList(last) => self.sliding.poll_range(&devices[1], *last).await,
            Action::ForgetSlidingConnection => self.sliding.forget_connection(),
            _ => {}
        }
    }

    /// Forgets who is typing. A server that was restarted does not know who was typing, so it cannot tell that they
    /// have stopped.
    fn forget_typing(&mut self) {
        self.sync.view.forget_typing();
        self.sliding.view.forget_typing();
        self.channel.view.forget_typing();
    }

    /// Lets all clients catch up, and returns their difference.
    async fn compare(&mut self, devices: &[User]) -> Result<(), String> {
        self.sync.catch_up(&devices[0]).await;
        let expected = &self.sync.view;
        let sliding = self.sliding.catch_up_with(&devices[1], expected).await;
        if let Some(difference) = difference(expected, sliding) {
            return Err(format!("/sync and sliding sync: {difference}"));
        }
        let channel = self.channel.catch_up_with(expected).await;
        match difference(expected, channel) {
            Some(difference) => Err(format!("/sync and the channel: {difference}")),
            None => Ok(()),
        }
    }

    /// Compares the client of `/sync` with one that syncs for the first time.
    async fn compare_with_new(&self, devices: &[User]) -> Result<(), String> {
        let mut new = SyncClient::default();
        new.catch_up(&devices[0]).await;
        // A new client gets no messages that were acknowledged.
        new.view.to_device.clone_from(&self.sync.view.to_device);
        match difference(&self.sync.view, &new.view) {
            Some(difference) => Err(format!("/sync and a first /sync: {difference}")),
            None => Ok(()),
        }
    }
}

/// Returns the filter of the clients of `/sync` and of the channel, as text for a query.
fn timeline_filter() -> String {
    let filter = json!({ "room": { "timeline": { "limit": view::TIMELINE_LIMIT } } });
    crate::chat::filter_query(&filter)
}
