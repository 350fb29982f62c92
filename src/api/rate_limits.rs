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

use super::client_address::{Peer, network_of};
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
pub enum Class {
    /// A login with a password. Guessing passwords must be slow.
    Login,
    /// A wrong password for an account, from any address.
    WrongPassword,
    /// An invalid registration token or link. A valid one costs nothing and is always accepted: it cannot be guessed,
    /// and other people behind the same address may send invalid ones.
    WrongToken,
    /// An invalid refresh token, treated like [`Class::WrongToken`].
    WrongRefreshToken,
    /// A proof of knowing the shared secret of the configuration, which may be short. Guessing it must be slow.
    SharedSecret,
    /// A lookup without an access token, such as whether a user name is free, or a list of the rooms of another server.
    Look,
    /// The registration of an account.
    Register,
    Send,
    /// A change of the user's display name, counted once for each room that shows it.
    ShowName,
    /// A change of the user's avatar, counted in the same way. It has its own limit, because a user in many rooms sets
    /// both, one after the other.
    ShowPicture,
    /// To-device messages, which are sent in addition to events, for example when room keys are shared.
    SendToDevice,
    /// The upload of a file.
    Upload,
    /// Any request of a user that may store something.
    Write,
    /// An invite from a user of this server to anyone.
    Invite,
    /// An invite from any user of this server to the same user.
    Invited,
    /// An invite from the same user to the same user.
    InviteAgain,
    /// A request from a server whose keys are unknown. It makes this server contact the named server to fetch them.
    Newcomer,
    /// An invite from another server to anyone.
    Invitation,
    /// An invite from another server to the same user.
    InvitationTo,
}

/// The number of requests that may arrive at the same time, and the time after which another one may.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    burst: f64,
    period: Duration,
}

impl Rate {
    const fn new(burst: f64, period: Duration) -> Self {
        Self { burst, period }
    }

    fn per_minute(burst: u32, per_minute: u32) -> Self {
        Self::new(f64::from(burst), Duration::from_mins(1) / per_minute.max(1))
    }
}

/// The rates that the configuration sets.
#[derive(Clone, Copy, Debug)]
struct Rates {
    login: Rate,
    wrong_password: Rate,
    registration: Rate,
    sending: Rate,
}

impl Rates {
    fn new(config: &config::Limits) -> Self {
        Self {
            login: Rate::per_minute(config.login_burst, config.login_per_minute),
            wrong_password: Rate::per_minute(
                config.login_burst.saturating_mul(WRONG_PASSWORD_FACTOR),
                config
                    .login_per_minute
                    .saturating_mul(WRONG_PASSWORD_FACTOR),
            ),
            registration: Rate::per_minute(
                config.registration_burst,
                config.registration_per_minute,
            ),
            sending: Rate::per_minute(config.sending_burst, config.sending_per_minute),
        }
    }

    fn of(&self, class: Class) -> Rate {
        match class {
            Class::Login => self.login,
            Class::WrongPassword => self.wrong_password,
            Class::Register => self.registration,
            Class::Send | Class::SendToDevice | Class::ShowName | Class::ShowPicture => {
                self.sending
            }
            Class::WrongToken | Class::WrongRefreshToken | Class::SharedSecret => {
                Rate::new(20.0, Duration::from_secs(30))
            }
            Class::Look => Rate::new(100.0, Duration::from_millis(500)),
            Class::Newcomer => Rate::new(100.0, Duration::from_millis(100)),
            Class::Write => Rate::new(500.0, Duration::from_millis(40)),
            Class::Invite => Rate::new(100.0, Duration::from_secs(5)),
            Class::InviteAgain => Rate::new(10.0, Duration::from_mins(1)),
            Class::Upload => Rate::new(50.0, Duration::from_secs(1)),
            Class::Invitation => Rate::new(100.0, Duration::from_secs(1)),
            Class::Invited | Class::InvitationTo => Rate::new(30.0, Duration::from_secs(20)),
        }
    }
}

/// The subject of a rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A network address. For IPv6 it is the /64 network, because one subscriber has all of it.
    Address(IpAddr),
    User(OwnedUserId),
    Server(OwnedServerName),
    /// Another server and a user to whom it sends.
    ServerTo(OwnedServerName, OwnedUserId),
    /// A user and another user to whom they send.
    UserTo(OwnedUserId, OwnedUserId),
}

impl From<&UserId> for Key {
    fn from(user_id: &UserId) -> Self {
        Self::User(user_id.to_owned())
    }
}

impl From<&ServerName> for Key {
    fn from(server: &ServerName) -> Self {
        Self::Server(server.to_owned())
    }
}

impl From<&Peer> for Key {
    fn from(peer: &Peer) -> Self {
        Self::Address(network_of(peer.0))
    }
}

/// The part of a member event that says whether it is an invite.
#[derive(Deserialize)]
struct MemberContent {
    membership: MembershipState,
}

/// The rate limits of a server.
#[derive(Clone)]
pub struct Limits {
    enabled: bool,
    rates: Rates,
    clock: Clock,
    buckets: Arc<Mutex<Buckets>>,
}

/// Tokens taken for a request that may turn out to be free. Dropping this returns them.
#[must_use]
pub struct Charge {
    limits: Limits,
    taken: Option<((Class, Key), f64)>,
}

#[derive(Default)]
struct Buckets {
    /// The recently used buckets.
    current: HashMap<(Class, Key), Bucket>,
    /// The buckets that have not been used since `current` was last full.
    previous: HashMap<(Class, Key), Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled_ms: i64,
}

impl Limits {
    /// Returns limits with all buckets full.
    pub fn new(config: &config::Limits, clock: Clock) -> Self {
        Self {
            enabled: config.enabled,
            rates: Rates::new(config),
            clock,
            buckets: Arc::default(),
        }
    }

    /// Takes a token for one request.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when there is none left.
    pub fn check(&self, class: Class, key: impl Into<Key>) -> Result<()> {
        self.charge(class, key).map(Charge::keep)
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
            let pair = Key::UserTo(sender.to_owned(), user_id.to_owned());
            let again = self.charge(Class::InviteAgain, pair)?;
            let sent = self.charge(Class::Invite, sender)?;
            self.check(Class::Invited, user_id)?;
            again.keep();
            sent.keep();
        }
        Ok(())
    }

    /// Takes the tokens for a state event if it is an invite. The token for sending is separate.
    ///
    /// # Errors
    ///
    /// As [`Limits::check_invitations`].
    pub fn check_state(
        &self,
        sender: &UserId,
        (kind, state_key): (&StateEventType, &str),
        content: &RawValue,
    ) -> Result<()> {
        let content: Option<MemberContent> = serde_json::from_str(content.get()).ok();
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
    pub fn charge(&self, class: Class, key: impl Into<Key>) -> Result<Charge> {
        self.charge_times(class, key, 1)
    }

    /// Takes tokens for one request that does several things. One remaining token is enough. The next request has to
    /// wait until the missing tokens are refilled.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when there is none left.
    pub fn charge_times(&self, class: Class, key: impl Into<Key>, times: usize) -> Result<Charge> {
        if !self.enabled || times == 0 {
            return Ok(Charge {
                limits: self.clone(),
                taken: None,
            });
        }
        let key = (class, key.into());
        let rate = self.rates.of(class);
        let mut buckets = self.lock();
        let bucket = buckets.bucket(key.clone(), rate, self.clock.now_ms());
        if bucket.tokens < 1.0 {
            let retry_after = rate.period.mul_f64(1.0 - bucket.tokens);
            return Err(Error::LimitExceeded { retry_after });
        }
        let tokens = f64::from(u32::try_from(times).unwrap_or(u32::MAX));
        bucket.tokens -= tokens;
        Ok(Charge {
            limits: self.clone(),
            taken: Some((key, tokens)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge {
    /// Keeps the tokens taken.
    pub fn keep(mut self) {
        self.taken = None;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let Some((key, tokens)) = self.taken.take() else {
            return;
        };
        let rate = self.limits.rates.of(key.0);
        let now_ms = self.limits.clock.now_ms();
        let mut buckets = self.limits.lock();
        let bucket = buckets.bucket(key, rate, now_ms);
        bucket.tokens = (bucket.tokens + tokens).min(rate.burst);
    }
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now_ms: i64) {
        // A clock that was set back adds no tokens.
        let elapsed_ms = u64::try_from(now_ms - self.filled_ms).unwrap_or(0);
        let gained = Duration::from_millis(elapsed_ms).div_duration_f64(rate.period);
        self.tokens = (self.tokens + gained).min(rate.burst);
        self.filled_ms = now_ms;
    }
}

impl Buckets {
    /// Returns the current bucket of a key. A new or dropped bucket is full.
    fn bucket(&mut self, key: (Class, Key), rate: Rate, now_ms: i64) -> &mut Bucket {
        let full = Bucket {
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

    fn limits(enabled: bool) -> (Limits, Clock) {
        let clock = Clock::manual(1_000_000);
        let config = config::Limits {
            enabled,
            ..config::Limits::default()
        };
        (Limits::new(&config, clock.clone()), clock)
    }

    fn peer(address: &str) -> Peer {
        Peer(address.parse().expect("is an address"))
    }

    #[test]
    fn a_burst_passes_and_the_next_one_waits() {
        let (limits, clock) = limits(true);
        let peer = peer("192.0.2.1");
        for _ in 0..20 {
            limits
                .check(Class::Register, &peer)
                .expect("is within the burst");
        }

        let refused = limits.check(Class::Register, &peer);
        clock.advance(Duration::from_secs(30));
        let later = limits.check(Class::Register, &peer);

        let Err(Error::LimitExceeded { retry_after }) = refused else {
            panic!("the one after the burst passed");
        };
        assert_eq!(retry_after, Duration::from_secs(30));
        assert!(later.is_ok());
        assert!(limits.check(Class::Register, &peer).is_err());
    }

    #[test]
    fn a_charge_that_is_not_kept_costs_nothing() {
        let (limits, _) = limits(true);
        let peer = peer("192.0.2.1");

        for _ in 0..100 {
            drop(
                limits
                    .charge(Class::Register, &peer)
                    .expect("was given back"),
            );
        }
        let charges: Vec<_> = (0..20)
            .map(|_| limits.charge(Class::Register, &peer))
            .collect();
        assert!(limits.charge(Class::Register, &peer).is_err());

        for charge in charges {
            charge.expect("is within the burst").keep();
        }
        assert!(limits.charge(Class::Register, &peer).is_err());
    }

    #[test]
    fn what_does_much_at_once_passes_and_the_next_one_waits_for_it() {
        let (limits, clock) = limits(true);
        let user_id = user_id!("@a:b");
        let change = || limits.charge_times(Class::ShowName, user_id, 150);

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
        let config = config::Limits {
            login_burst: 2,
            login_per_minute: 60,
            ..config::Limits::default()
        };
        let limits = Limits::new(&config, clock.clone());
        let peer = peer("192.0.2.1");

        let passed = (0..5).filter(|_| limits.check(Class::Login, &peer).is_ok());
        assert_eq!(passed.count(), 2);
        clock.advance(Duration::from_secs(1));

        assert!(limits.check(Class::Login, &peer).is_ok());
        assert!(limits.check(Class::Login, &peer).is_err());
    }

    #[test]
    fn each_class_and_each_key_has_its_own_bucket() {
        let (limits, _) = limits(true);
        let (one, other) = (peer("192.0.2.1"), peer("192.0.2.2"));
        while limits.check(Class::Register, &one).is_ok() {}

        assert!(limits.check(Class::Register, &other).is_ok());
        assert!(limits.check(Class::Login, &one).is_ok());
        assert!(limits.check(Class::Send, user_id!("@a:b")).is_ok());
    }

    #[test]
    fn one_subscriber_of_ipv6_is_one_address() {
        let (limits, _) = limits(true);
        while limits.check(Class::Login, &peer("2001:db8::1")).is_ok() {}

        assert!(limits.check(Class::Login, &peer("2001:db8::2")).is_err());
        assert!(limits.check(Class::Login, &peer("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn nothing_is_limited_when_limits_are_off() {
        let (limits, _) = limits(false);
        let peer = peer("192.0.2.1");

        let refused = (0..1000).find(|_| limits.check(Class::Login, &peer).is_err());

        assert_eq!(refused, None);
    }

    #[test]
    fn the_memory_of_buckets_is_bounded() {
        let (limits, _) = limits(true);

        for host in 0..250_000_u32 {
            let peer = Peer(Ipv4Addr::from_bits(host).into());
            limits.check(Class::Login, &peer).expect("is the first");
        }

        let buckets = limits.buckets.lock().expect("is not poisoned");
        assert!(buckets.current.len() + buckets.previous.len() <= 2 * MAX_BUCKETS);
    }
}
