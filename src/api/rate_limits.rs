//! Rate limits: a token bucket for each kind of request and each sender.
//!
//! The buckets are kept in memory; a restart fills them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client_address::{ClientAddress, subscriber_network};
use crate::{
    clock::Clock,
    config,
    error::{Error, Result},
};

/// The number of buckets in each of two generations (about 10 MB each when full). The buckets that have been unused for
/// the longest time are dropped first.
const MAX_BUCKETS: usize = 100_000;

/// The number of wrong passwords that one account may get from all addresses, as a multiple of those from one address.
/// So nobody at a single address can lock the owner out.
const WRONG_PASSWORD_FACTOR: u32 = 5;

/// A kind of request that has a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestClass {
    /// A login with a password. Guessing passwords must be slow.
    Login,
    /// A wrong password for an account, from any address.
    WrongPassword,
    /// An invalid registration token or link. A valid one costs nothing and is always accepted: it cannot be guessed,
    /// and other people behind the same address may send invalid ones.
    WrongToken,
    /// An invalid refresh token, treated like [`RequestClass::WrongToken`].
    WrongRefreshToken,
    /// A proof of knowing the shared secret of the configuration, which may be short. Guessing it must be slow.
    SharedSecret,
    /// A lookup without an access token, such as whether a user name is free, or a list of the rooms of another server.
    Lookup,
    /// The registration of an account.
    Register,
    Send,
    /// A change of the user's display name, counted once for each room that shows it.
    DisplayNameChange,
    /// A change of the user's avatar, counted in the same way. It has its own limit, because a user in many rooms sets
    /// both, one after the other.
    AvatarChange,
    /// To-device messages, which are sent in addition to events, for example when room keys are shared.
    SendToDevice,
    /// The upload of a file.
    Upload,
    /// Any request of a user that may store something.
    Write,
    /// An invite from a user of this server to anyone.
    Invite,
    /// An invite from any user of this server to the same user.
    InviteReceived,
    /// An invite from the same user to the same user.
    InviteToSameUser,
    /// A request from a server whose keys are unknown. It makes this server contact the named server to fetch them.
    UnknownServer,
    /// An invite from another server to anyone.
    FederatedInvite,
    /// An invite from another server to the same user.
    FederatedInviteToUser,
}

/// The number of requests that may arrive at the same time, and the time after which another one may.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RateLimit {
    burst: f64,
    period: Duration,
}

impl RateLimit {
    const fn new(burst: f64, period: Duration) -> Self {
        Self { burst, period }
    }

    fn per_minute(burst: u32, per_minute: u32) -> Self {
        Self::new(f64::from(burst), Duration::from_mins(1) / per_minute.max(1))
    }
}

/// The rates that the configuration sets.
#[derive(Clone, Copy, Debug)]
struct ConfiguredRates {
    login: RateLimit,
    wrong_password: RateLimit,
    registration: RateLimit,
    sending: RateLimit,
}

impl ConfiguredRates {
    fn new(config: &config::LimitsSection) -> Self {
        Self {
            login: RateLimit::per_minute(config.login_burst, config.login_per_minute),
            wrong_password: RateLimit::per_minute(
                config.login_burst.saturating_mul(WRONG_PASSWORD_FACTOR),
                config
                    .login_per_minute
                    .saturating_mul(WRONG_PASSWORD_FACTOR),
            ),
            registration: RateLimit::per_minute(
                config.registration_burst,
                config.registration_per_minute,
            ),
            sending: RateLimit::per_minute(config.sending_burst, config.sending_per_minute),
        }
    }

    fn rate_of(&self, class: RequestClass) -> RateLimit {
        match class {
            RequestClass::Login => self.login,
            RequestClass::WrongPassword => self.wrong_password,
            RequestClass::Register => self.registration,
            RequestClass::Send
            | RequestClass::SendToDevice
            | RequestClass::DisplayNameChange
            | RequestClass::AvatarChange => self.sending,
            RequestClass::WrongToken
            | RequestClass::WrongRefreshToken
            | RequestClass::SharedSecret => RateLimit::new(20.0, Duration::from_secs(30)),
            RequestClass::Lookup => RateLimit::new(100.0, Duration::from_millis(500)),
            RequestClass::UnknownServer => RateLimit::new(100.0, Duration::from_millis(100)),
            RequestClass::Write => RateLimit::new(500.0, Duration::from_millis(40)),
            RequestClass::Invite => RateLimit::new(100.0, Duration::from_secs(5)),
            RequestClass::InviteToSameUser => RateLimit::new(10.0, Duration::from_mins(1)),
            RequestClass::Upload => RateLimit::new(50.0, Duration::from_secs(1)),
            RequestClass::FederatedInvite => RateLimit::new(100.0, Duration::from_secs(1)),
            RequestClass::InviteReceived | RequestClass::FederatedInviteToUser => {
                RateLimit::new(30.0, Duration::from_secs(20))
            }
        }
    }
}

/// The subject of a rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// A network address. For IPv6 it is the /64 network, because one subscriber has all of it.
    Address(IpAddr),
    User(OwnedUserId),
    Server(OwnedServerName),
    /// Another server and a user to whom it sends.
    ServerTo(OwnedServerName, OwnedUserId),
    /// A user and another user to whom they send.
    UserTo(OwnedUserId, OwnedUserId),
}

impl From<&UserId> for RateLimitKey {
    fn from(user_id: &UserId) -> Self {
        Self::User(user_id.to_owned())
    }
}

impl From<&ServerName> for RateLimitKey {
    fn from(server: &ServerName) -> Self {
        Self::Server(server.to_owned())
    }
}

impl From<&ClientAddress> for RateLimitKey {
    fn from(peer: &ClientAddress) -> Self {
        Self::Address(subscriber_network(peer.0))
    }
}

/// The part of a member event that says whether it is an invite.
#[derive(Deserialize)]
struct MemberEventMembership {
    membership: MembershipState,
}

/// The rate limits of a server.
#[derive(Clone)]
pub struct RateLimits {
    enabled: bool,
    rates: ConfiguredRates,
    clock: Clock,
    buckets: Arc<Mutex<TokenBuckets>>,
}

/// Tokens taken for a request that may turn out to be free. Dropping this returns them.
#[must_use]
pub struct RateLimitCharge {
    limits: RateLimits,
    taken: Option<((RequestClass, RateLimitKey), f64)>,
}

#[derive(Default)]
struct TokenBuckets {
    /// The recently used buckets.
    current: HashMap<(RequestClass, RateLimitKey), TokenBucket>,
    /// The buckets that have not been used since `current` was last full.
    previous: HashMap<(RequestClass, RateLimitKey), TokenBucket>,
}

#[derive(Clone, Copy)]
struct TokenBucket {
    tokens: f64,
    filled_ms: i64,
}

impl RateLimits {
    /// Returns limits with all buckets full.
    pub fn new(config: &config::LimitsSection, clock: Clock) -> Self {
        Self {
            enabled: config.enabled,
            rates: ConfiguredRates::new(config),
            clock,
            buckets: Arc::default(),
        }
    }

    /// Takes a token for one request.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when there is none left.
    pub fn check(&self, class: RequestClass, key: impl Into<RateLimitKey>) -> Result<()> {
        self.charge(class, key).map(RateLimitCharge::keep)
    }

    /// Takes the tokens for invites from a user.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when the user sends too many, or one of the invited users receives too many.
    pub fn check_invitations<'a>(
        &self,
        sender: &UserId,
        invited: impl IntoIterator<Item = &'a UserId>,
    ) -> Result<()> {
        for user_id in invited {
            let pair = RateLimitKey::UserTo(sender.to_owned(), user_id.to_owned());
            let again = self.charge(RequestClass::InviteToSameUser, pair)?;
            let sent = self.charge(RequestClass::Invite, sender)?;
            self.check(RequestClass::InviteReceived, user_id)?;
            again.keep();
            sent.keep();
        }
        Ok(())
    }

    /// Takes the tokens for a state event if it is an invite. The token for sending is separate.
    ///
    /// # Errors
    ///
    /// As [`RateLimits::check_invitations`].
    pub fn check_state(
        &self,
        sender: &UserId,
        (kind, state_key): (&StateEventType, &str),
        content: &RawValue,
    ) -> Result<()> {
        let content: Option<MemberEventMembership> = serde_json::from_str(content.get()).ok();
        let is_invitation = *kind == StateEventType::RoomMember
            && content.is_some_and(|content| content.membership == MembershipState::Invite);
        match <&UserId>::try_from(state_key) {
            Ok(invited) if is_invitation => self.check_invitations(sender, [invited]),
            _ => Ok(()),
        }
    }

    /// Takes a token for a request that may turn out to be free.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when there is none left.
    pub fn charge(
        &self,
        class: RequestClass,
        key: impl Into<RateLimitKey>,
    ) -> Result<RateLimitCharge> {
        self.charge_times(class, key, 1)
    }

    /// Takes tokens for one request that does several things. One remaining token is enough. The next request has to
    /// wait until the missing tokens are refilled.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when there is none left.
    pub fn charge_times(
        &self,
        class: RequestClass,
        key: impl Into<RateLimitKey>,
        times: usize,
    ) -> Result<RateLimitCharge> {
        if !self.enabled || times == 0 {
            return Ok(RateLimitCharge {
                limits: self.clone(),
                taken: None,
            });
        }
        let key = (class, key.into());
        let rate = self.rates.rate_of(class);
        let mut buckets = self.lock();
        let bucket = buckets.bucket(key.clone(), rate, self.clock.now_ms());
        if bucket.tokens < 1.0 {
            let retry_after = rate.period.mul_f64(1.0 - bucket.tokens);
            return Err(Error::LimitExceeded { retry_after });
        }
        let tokens = f64::from(u32::try_from(times).unwrap_or(u32::MAX));
        bucket.tokens -= tokens;
        Ok(RateLimitCharge {
            limits: self.clone(),
            taken: Some((key, tokens)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, TokenBuckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RateLimitCharge {
    /// Keeps the tokens taken.
    pub fn keep(mut self) {
        self.taken = None;
    }
}

impl Drop for RateLimitCharge {
    fn drop(&mut self) {
        let Some((key, tokens)) = self.taken.take() else {
            return;
        };
        let rate = self.limits.rates.rate_of(key.0);
        let now_ms = self.limits.clock.now_ms();
        let mut buckets = self.limits.lock();
        let bucket = buckets.bucket(key, rate, now_ms);
        bucket.tokens = (bucket.tokens + tokens).min(rate.burst);
    }
}

impl TokenBucket {
    fn fill(&mut self, rate: RateLimit, now_ms: i64) {
        // A clock that was set back adds no tokens.
        let elapsed_ms = u64::try_from(now_ms - self.filled_ms).unwrap_or(0);
        let gained = Duration::from_millis(elapsed_ms).div_duration_f64(rate.period);
        self.tokens = (self.tokens + gained).min(rate.burst);
        self.filled_ms = now_ms;
    }
}

impl TokenBuckets {
    /// Returns the current bucket of a key. A new or dropped bucket is full.
    fn bucket(
        &mut self,
        key: (RequestClass, RateLimitKey),
        rate: RateLimit,
        now_ms: i64,
    ) -> &mut TokenBucket {
        let full = TokenBucket {
            tokens: rate.burst,
            filled_ms: now_ms,
        };
        if self.current.len() >= MAX_BUCKETS && !self.current.contains_key(&key) {
            self.previous = std::mem::take(&mut self.current);
        }
        let known = self.previous.remove(&key);
        let bucket = self.current.entry(key).or_insert(known.unwrap_or(full));
        bucket.fill(rate, now_ms);
        bucket
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ruma::user_id;

    use super::*;

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
    fn a_burst_passes_and_the_next_one_waits() {
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
            panic!("the one after the burst passed");
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
    fn a_large_charge_delays_the_next_one() {
        let (limits, clock) = limits(true);
        let user_id = user_id!("@a:b");
        let change = || limits.charge_times(RequestClass::DisplayNameChange, user_id, 150);

        drop(change().expect("is given back"));
        change().expect("there are tokens").keep();
        let Err(Error::LimitExceeded { retry_after }) = change() else {
            panic!("the next one passed");
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
        assert!(buckets.current.len() + buckets.previous.len() <= 2 * MAX_BUCKETS);
    }
}
