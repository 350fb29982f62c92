//! Rate limits: a token bucket for each kind of request and each sender.
//!
//! The buckets are kept in memory; a restart fills them. `classes` has the kinds of requests and their rates, and
//! `keys` the owners of buckets.

mod buckets;
mod classes;
mod keys;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ruma::{
    UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::{
    buckets::{BucketKey, TokenBuckets},
    classes::ConfiguredRates,
};
pub use self::{classes::RequestClass, keys::RateLimitKey};
use crate::{
    clock::Clock,
    config,
    error::{Error, Result},
    users::Session,
};

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
    taken: Option<TakenTokens>,
}

/// Tokens and the bucket from which they were taken.
struct TakenTokens {
    bucket: BucketKey,
    tokens: f64,
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
        sender: &Session,
        invited: impl IntoIterator<Item = &'a UserId>,
    ) -> Result<()> {
        if sender.is_exempt_from_limits() {
            return Ok(());
        }
        for user_id in invited {
            let pair = RateLimitKey::UserTo(sender.user_id.clone(), user_id.to_owned());
            let again = self.charge(RequestClass::InviteToSameUser, pair)?;
            let sent = self.charge(RequestClass::Invite, sender)?;
            self.check(RequestClass::InviteReceived, user_id)?;
            again.keep();
            sent.keep();
        }
        Ok(())
    }

    /// Takes the token for an invitation to an e-mail address or a telephone number.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] when the user sends too many.
    pub fn check_third_party_invitation(&self, sender: &Session) -> Result<()> {
        self.check(RequestClass::Invite, sender)
    }

    /// Takes the tokens for a state event if it is an invite. The token for sending is separate.
    ///
    /// # Errors
    ///
    /// As [`RateLimits::check_invitations`].
    pub fn check_state(
        &self,
        sender: &Session,
        kind: &StateEventType,
        state_key: &str,
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
        let subject = key.into();
        if !self.enabled || times == 0 || subject == RateLimitKey::Exempt {
            return Ok(RateLimitCharge {
                limits: self.clone(),
                taken: None,
            });
        }
        let key = BucketKey { class, subject };
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
            taken: Some(TakenTokens {
                bucket: key,
                tokens,
            }),
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
        let Some(taken) = self.taken.take() else {
            return;
        };
        let rate = self.limits.rates.rate_of(taken.bucket.class);
        let now_ms = self.limits.clock.now_ms();
        let mut buckets = self.limits.lock();
        let bucket = buckets.bucket(taken.bucket, rate, now_ms);
        bucket.tokens = (bucket.tokens + taken.tokens).min(rate.burst);
    }
}

#[cfg(test)]
mod tests;
