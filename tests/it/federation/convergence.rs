//! Three servers, changes on all of them at once, and partitions between them: when the partitions have healed, all
//! servers agree, and every acknowledged event is on all of them.
//!
//! `PARLOUR_TEST_ROUNDS` sets the number of rounds, and `PARLOUR_TEST_SEED` the seed of the first one.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Network, Peer};
use crate::{
    chat::{new_transaction, percent_encoded, room_path},
    harness::{Server, User, http_client},
};

/// The number of rounds if the environment does not set one.
const DEFAULT_ROUNDS: u64 = 3;
/// The number of changes in each step of a round, on all servers together.
const CHANGES_PER_STEP: usize = 12;
/// The time within which all servers must agree.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(90);
/// The time between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A generator of numbers that follow from a seed.
struct SeededRandom(u64);

impl SeededRandom {
    /// Returns a number below a limit.
    fn number_below(&mut self, below: usize) -> usize {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).expect("it is small")
    }
}

/// The pairs of servers (from, to) that cannot reach each other.
#[derive(Clone, Default)]
struct NetworkCuts(Arc<Mutex<HashSet<(String, String)>>>);

impl NetworkCuts {
    fn cut(&self, from: &str, to: &str) {
        let mut cuts = self.0.lock().expect("no test panics here");
        cuts.insert((from.to_owned(), to.to_owned()));
    }

    fn heal(&self) {
        self.0.lock().expect("no test panics here").clear();
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let cuts = self.0.lock().expect("no test panics here");
        cuts.contains(&(from.to_owned(), to.to_owned()))
    }
}

/// A proxy in front of a server. It lets only servers through that are not cut off.
#[derive(Clone)]
struct PartitionGate {
    cuts: NetworkCuts,
    name: String,
    backend: SocketAddr,
    http: reqwest::Client,
}

/// Forwards a request, unless the server that sent it is cut off.
async fn pass_request(State(gate): State<PartitionGate>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let proof = parts.headers.get("authorization");
    let proof = proof.and_then(|proof| proof.to_str().ok());
    if request_origin(proof.unwrap_or_default())
        .is_some_and(|origin| gate.cuts.is_cut(origin, &gate.name))
    {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let body = axum::body::to_bytes(body, 64 * 1024 * 1024).await;
    let path = parts.uri.path_and_query().expect("a path");
    let url = format!("http://{}{path}", gate.backend);
    let mut headers = parts.headers;
    headers.remove("host");
    let answer = gate
        .http
        .request(parts.method, url)
        .headers(headers)
        .body(body.expect("a body"))
        .send()
        .await;
    let Ok(answer) = answer else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let status = answer.status();
    let bytes: Bytes = answer.bytes().await.unwrap_or_default();
    (status, [("content-type", "application/json")], bytes).into_response()
}

/// Returns the server that sent a request.
fn request_origin(proof: &str) -> Option<&str> {
    let (_, rest) = proof.split_once("origin=")?;
    rest.trim_start_matches('"').split(['"', ',']).next()
}

/// Three servers with a user each. The users are in a room together.
struct ThreeServers {
    servers: Vec<Server>,
    users: Vec<User>,
    room: String,
    cuts: NetworkCuts,
    /// The events that were acknowledged.
    acknowledged: BTreeSet<String>,
    /// Requests templates, which name the forward extremities.
    stranger: Peer,
    _network: Network,
}

impl ThreeServers {
    async fn new(version: &str) -> Self {
        let (network, cuts) = (Network::new(), NetworkCuts::default());
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(start_server_with_gate(&network, &cuts).await);
        }
        let mut users = Vec::new();
        for (server, name) in servers.iter().zip(["alice", "bob", "carol"]) {
            users.push(server.register(name).await);
        }
        let powers: BTreeMap<&str, u32> = users.iter().map(|user| (&*user.id, 100)).collect();
        let request = json!({
            "preset": "public_chat", "room_version": version,
            "power_level_content_override": { "users": powers },
        });
        let room = users[0].creates(request).await;
        for user in &users[1..] {
            let via = servers[0].name();
            let path = format!(
                "/_matrix/client/v3/join/{}?via={via}",
                percent_encoded(&room)
            );
            user.client.post(&path, json!({})).await.expect_ok();
        }
        Self {
            servers,
            users,
            room,
            cuts,
            acknowledged: BTreeSet::new(),
            stranger: network.peer(Router::new()).await,
            _network: network,
        }
    }

    /// Cuts some of the servers off from others.
    fn cuts_at_random(&self, dice: &mut SeededRandom) {
        for (n, one) in self.servers.iter().enumerate() {
            let others = self.servers[..n].iter();
            for other in others.filter(|_| dice.number_below(3) > 0) {
                self.cuts.cut(one.name(), other.name());
                self.cuts.cut(other.name(), one.name());
            }
        }
    }

    /// Makes random changes on random servers, all at once.
    async fn makes_random_changes(&mut self, dice: &mut SeededRandom) {
        let steps: Vec<(usize, usize, usize)> = (0..CHANGES_PER_STEP)
            .map(|_| {
                (
                    dice.number_below(3),
                    dice.number_below(8),
                    dice.number_below(1_000),
                )
            })
            .collect();
        let sent = steps
            .iter()
            .map(|(user, what, n)| self.makes_change(*user, *what, *n));
        let sent = join_all(sent).await;
        self.acknowledged.extend(sent);
    }

    async fn makes_change(&self, user: usize, what: usize, n: usize) -> String {
        let user = &self.users[user];
        let text = format!("{n}");
        let state = |kind: &str, key: &str| room_path(&self.room, &format!("state/{kind}/{key}"));
        let (path, content) = match what {
            0 => (state("m.room.name", ""), json!({ "name": text })),
            1 => (state("m.room.topic", ""), json!({ "topic": text })),
            2 => {
                let key = format!("key{}", n % 3);
                (state("org.example.state", &key), json!({ "n": n }))
            }
            3 => {
                let key = percent_encoded(&user.id);
                let content = json!({ "membership": "join", "displayname": text });
                (state("m.room.member", &key), content)
            }
            4 => {
                let users: BTreeMap<&str, u32> =
                    self.users.iter().map(|user| (&*user.id, 100)).collect();
                let content = json!({ "users": users, "events": { "org.example": n % 100 } });
                (state("m.room.power_levels", ""), content)
            }
            5 => {
                let access = if n.is_multiple_of(2) {
                    "can_join"
                } else {
                    "forbidden"
                };
                let content = json!({ "guest_access": access });
                (state("m.room.guest_access", ""), content)
            }
            _ => {
                let rest = format!("send/m.room.message/{}", new_transaction());
                let content = json!({ "msgtype": "m.text", "body": text });
                (room_path(&self.room, &rest), content)
            }
        };
        let sent = user.client.put(&path, content).await.expect_ok();
        sent["event_id"].as_str().expect("an id").to_owned()
    }

    /// Waits until all servers have the same state and know every event. Panics with the difference on a timeout.
    async fn waits_for_agreement(&self) {
        let looks = async {
            while self.difference().await.is_some() {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        if tokio::time::timeout(AGREEMENT_TIMEOUT, looks)
            .await
            .is_err()
        {
            assert_eq!(self.difference().await, None);
        }
    }

    /// Returns the users whose servers do not have an event.
    async fn users_without(&self, event_id: &str) -> Vec<&str> {
        let mut without = Vec::new();
        for user in &self.users {
            if user.event(&self.room, event_id).await.status != 200 {
                without.push(&*user.id);
            }
        }
        without
    }

    /// Describes the first difference between the servers.
    async fn difference(&self) -> Option<String> {
        for event_id in &self.acknowledged {
            let without = self.users_without(event_id).await;
            if !without.is_empty() {
                return Some(format!("{without:?} do not have {event_id}"));
            }
        }
        let mut states = Vec::new();
        for user in &self.users {
            let path = room_path(&self.room, "state");
            let state = user.client.get(&path).await.expect_ok();
            let state = state.as_array().expect("a list").iter().map(|event| {
                let text = |field: &str| event[field].as_str().expect("a text").to_owned();
                ((text("type"), text("state_key")), text("event_id"))
            });
            states.push(state.collect::<BTreeMap<_, _>>());
        }
        for state in &states[1..] {
            let mut pairs = state.iter().zip(&states[0]);
            if let Some((one, other)) = pairs.find(|(one, other)| one != other) {
                return Some(format!("{one:?} is not {other:?}"));
            }
        }
        let mut extremities = Vec::new();
        for server in &self.servers {
            extremities.push(self.extremities(server).await);
        }
        let differs = extremities.iter().find(|each| **each != extremities[0]);
        differs.map(|each| format!("{each:?} are not {:?}", extremities[0]))
    }

    /// Returns the events that the next event of a server would follow.
    async fn extremities(&self, server: &Server) -> BTreeSet<String> {
        let stranger = self.stranger.user("stranger");
        let prepared = self
            .stranger
            .requests_template(server, "join", (&self.room, &stranger))
            .await
            .expect_ok();
        let ids = prepared["event"]["prev_events"].as_array();
        // Before room version 3, each is listed with its hash.
        let id = |event: &Value| event.as_str().or(event[0].as_str()).map(ToOwned::to_owned);
        let ids = ids.expect("a list").iter().filter_map(id);
        ids.collect()
    }
}

/// Starts a server that others reach through a proxy.
async fn start_server_with_gate(network: &Network, cuts: &NetworkCuts) -> Server {
    let server = network
        .server_with_config(|config| {
            // The proxy listens in its place.
            config.listen.truncate(1);
        })
        .await;
    let address: Ipv4Addr = server.name().parse().expect("an address");
    let gate = PartitionGate {
        cuts: cuts.clone(),
        name: server.name().to_owned(),
        backend: server.running.addresses()[0],
        http: http_client(),
    };
    let router = Router::new().fallback(pass_request).with_state(gate);
    network.serve(address, router, Arc::default()).await;
    server
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment sets the length of a run"
)]
fn number_from_environment(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test]
async fn servers_agree_again_after_a_partition() {
    check_agreement_after_partitions("11").await;
}

#[tokio::test]
async fn servers_agree_again_after_a_partition_in_room_version_1() {
    check_agreement_after_partitions("1").await;
}

#[expect(
    clippy::print_stdout,
    reason = "a round that failed is repeated by its number"
)]
async fn check_agreement_after_partitions(version: &str) {
    let rounds = number_from_environment("PARLOUR_TEST_ROUNDS").unwrap_or(DEFAULT_ROUNDS);
    let seed = number_from_environment("PARLOUR_TEST_SEED").unwrap_or(1);
    let mut three = ThreeServers::new(version).await;
    three.waits_for_agreement().await;

    for round in seed..seed + rounds {
        println!("round {round}");
        let mut dice = SeededRandom(round);
        three.cuts_at_random(&mut dice);
        three.makes_random_changes(&mut dice).await;
        three.makes_random_changes(&mut dice).await;
        three.cuts.heal();
        three.makes_random_changes(&mut dice).await;
        three.waits_for_agreement().await;
        three.acknowledged.clear();
    }
}
