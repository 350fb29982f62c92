//! Tests of the rate limits.

use std::{net::Ipv4Addr, time::Duration};

use ruma::user_id;

use super::{buckets::MAX_BUCKETS, *};
use crate::api::client_address::ClientAddress;

fn limits(enabled: bool) -> (RateLimits, Clock) {
    let clock = Clock::manual(1_000_000);
    let config = config::LimitsSection {
        enabled,
        ..config::LimitsSection::default()
    };
    (RateLimits::new(&config, clock.clone()), clock)
}

fn peer(address: &str) -> ClientAddress {
    ClientAddress(address.parse().expect("is an address"))
}

#[test]
fn a_request_beyond_the_burst_is_refused_for_a_while() {
    let (limits, clock) = limits(true);
    let peer = peer("192.0.2.1");
    for _ in 0..20 {
        limits
            .check(RequestClass::Register, &peer)
            .expect("is within the burst");
    }

    let refused = limits.check(RequestClass::Register, &peer);
    clock.advance(Duration::from_secs(30));
    let later = limits.check(RequestClass::Register, &peer);

    let Err(Error::LimitExceeded { retry_after }) = refused else {
        panic!("the request after the burst was not refused");
    };
    assert_eq!(retry_after, Duration::from_secs(30));
    assert!(later.is_ok());
    assert!(limits.check(RequestClass::Register, &peer).is_err());
}

#[test]
fn a_charge_that_is_not_kept_costs_nothing() {
    let (limits, _) = limits(true);
    let peer = peer("192.0.2.1");

    for _ in 0..100 {
        drop(
            limits
                .charge(RequestClass::Register, &peer)
                .expect("was given back"),
        );
    }
    let charges: Vec<_> = (0..20)
        .map(|_| limits.charge(RequestClass::Register, &peer))
        .collect();
    assert!(limits.charge(RequestClass::Register, &peer).is_err());

    for charge in charges {
        charge.expect("is within the burst").keep();
    }
    assert!(limits.charge(RequestClass::Register, &peer).is_err());
}

#[test]
fn a_large_charge_delays_the_next_charge() {
    let (limits, clock) = limits(true);
    let user_id = user_id!("@a:b");
    let change = || limits.charge_times(RequestClass::DisplayNameChange, user_id, 150);

    drop(change().expect("is given back"));
    change().expect("there are tokens").keep();
    let Err(Error::LimitExceeded { retry_after }) = change() else {
        panic!("the next charge was not refused");
    };
    clock.advance(retry_after);

    // The burst is 100, and one token returns in 100 ms: 51 tokens have to be refilled.
    assert_eq!(retry_after, Duration::from_millis(5_100));
    assert!(change().is_ok());
}

#[test]
fn the_configuration_sets_burst_and_rate() {
    let clock = Clock::manual(1_000_000);
    let config = config::LimitsSection {
        login_burst: 2,
        login_per_minute: 60,
        ..config::LimitsSection::default()
    };
    let limits = RateLimits::new(&config, clock.clone());
    let peer = peer("192.0.2.1");

    let passed = (0..5).filter(|_| limits.check(RequestClass::Login, &peer).is_ok());
    assert_eq!(passed.count(), 2);
    clock.advance(Duration::from_secs(1));

    assert!(limits.check(RequestClass::Login, &peer).is_ok());
    assert!(limits.check(RequestClass::Login, &peer).is_err());
}

#[test]
fn each_class_and_each_key_has_its_own_bucket() {
    let (limits, _) = limits(true);
    let (one, other) = (peer("192.0.2.1"), peer("192.0.2.2"));
    while limits.check(RequestClass::Register, &one).is_ok() {}

    assert!(limits.check(RequestClass::Register, &other).is_ok());
    assert!(limits.check(RequestClass::Login, &one).is_ok());
    assert!(limits.check(RequestClass::Send, user_id!("@a:b")).is_ok());
}

#[test]
fn one_subscriber_of_ipv6_is_one_address() {
    let (limits, _) = limits(true);
    while limits
        .check(RequestClass::Login, &peer("2001:db8::1"))
        .is_ok()
    {}

    assert!(
        limits
            .check(RequestClass::Login, &peer("2001:db8::2"))
            .is_err()
    );
    assert!(
        limits
            .check(RequestClass::Login, &peer("2001:db8:0:1::1"))
            .is_ok()
    );
}

#[test]
fn nothing_is_limited_when_limits_are_off() {
    let (limits, _) = limits(false);
    let peer = peer("192.0.2.1");

    let refused = (0..1000).find(|_| limits.check(RequestClass::Login, &peer).is_err());

    assert_eq!(refused, None);
}

#[test]
fn the_memory_of_buckets_is_bounded() {
    let (limits, _) = limits(true);

    for host in 0..250_000_u32 {
        let peer = ClientAddress(Ipv4Addr::from_bits(host).into());
        limits
            .check(RequestClass::Login, &peer)
            .expect("is the first");
    }

    let buckets = limits.buckets.lock().expect("is not poisoned");
    assert!(buckets.count() <= 2 * MAX_BUCKETS);
}
