//! The kinds of requests that have a rate limit, and their rates.

use std::time::Duration;

use crate::config;

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
    /// A message between two devices, one of which signs the other in. Both ask for new messages all the time.
    Rendezvous,
    /// A request for a token for a call. It can name any server, which this server then contacts.
    CallToken,
    /// A request to send an e-mail. It makes this server write to anyone whom the client names.
    EmailRequest,
    /// An e-mail to one address, no matter who requests it.
    EmailToAddress,
    /// The registration of an account.
    Register,
    Send,
    /// The restart or the cancellation of a delayed event. Clients that are in a call restart one every few seconds, and
    /// the others think that they left when a restart fails. So it has a limit of its own.
    DelayedEventUpdate,
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
pub(super) struct RateLimit {
    pub(super) burst: f64,
    pub(super) period: Duration,
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
pub(super) struct ConfiguredRates {
    login: RateLimit,
    wrong_password: RateLimit,
    registration: RateLimit,
    sending: RateLimit,
}

impl ConfiguredRates {
    pub(super) fn new(config: &config::LimitsSection) -> Self {
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

    /// Returns the rate of a kind of request.
    pub(super) fn rate_of(&self, class: RequestClass) -> RateLimit {
        match class {
            RequestClass::Login => self.login,
            RequestClass::WrongPassword => self.wrong_password,
            RequestClass::Register => self.registration,
            RequestClass::Send
            | RequestClass::SendToDevice
            | RequestClass::DisplayNameChange
            | RequestClass::AvatarChange => self.sending,
            RequestClass::DelayedEventUpdate => RateLimit::new(300.0, Duration::from_millis(100)),
            RequestClass::WrongToken
            | RequestClass::WrongRefreshToken
            | RequestClass::SharedSecret => RateLimit::new(20.0, Duration::from_secs(30)),
            RequestClass::EmailRequest => RateLimit::new(20.0, Duration::from_mins(1)),
            RequestClass::EmailToAddress => RateLimit::new(6.0, Duration::from_mins(10)),
            RequestClass::Lookup => RateLimit::new(100.0, Duration::from_millis(500)),
            RequestClass::Rendezvous => RateLimit::new(200.0, Duration::from_millis(100)),
            // The people behind one address may join a call at the same time.
            RequestClass::CallToken => RateLimit::new(200.0, Duration::from_millis(200)),
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
