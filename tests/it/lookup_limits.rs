//! Lookups of public data are rate limited for clients without a login, and where this server has to ask another one.

use parlour::clock::Clock;

use crate::harness::Server;

/// Returns a server with rate limits and a clock that does not advance.
async fn limited_server() -> Server {
    let clock = Clock::manual(1_700_000_000_000);
    Server::with_clock(clock, |config| config.limits.enabled = true).await
}

#[tokio::test]
async fn anonymous_alias_lookups_are_rate_limited() {
    let server = limited_server().await;
    let alice = server.register("alice").await;
    let alias = |n: usize| format!("/_matrix/client/v3/directory/room/%23{n}:localhost");

    // The registration counts as a lookup, too.
    for n in 0..99 {
        server.get(&alias(n)).await.expect_error(404, "M_NOT_FOUND");
    }

    server
        .get(&alias(0))
        .await
        .expect_error(429, "M_LIMIT_EXCEEDED");
    let known = alice.client.get(&alias(0)).await;
    known.expect_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn remote_directory_lookups_are_rate_limited() {
    let server = limited_server().await;
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v3/publicRooms";

    for n in 0..100 {
        let asked = format!("{path}?server=other{n}.test");
        assert_ne!(alice.client.get(&asked).await.status, 429);
    }

    let other = alice.client.get(&format!("{path}?server=other.test")).await;
    other.expect_error(429, "M_LIMIT_EXCEEDED");
    alice.client.get(path).await.expect_ok();
}
