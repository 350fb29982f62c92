//! What can go wrong, as the layers below `api` say it.
//!
//! A variant for each thing that a caller can act on. `api/error.rs` alone turns them into a status, an
//! `errcode` and a text; nothing here knows HTTP. Outcomes that are normal are no errors: `Option`, or an enum.

use std::time::Duration;

use ruma::{RoomVersionId, api::client::uiaa::UiaaInfo};

/// The result of everything below `api`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The thing does not exist, or the caller may not know that it does.
    #[error("{0}")]
    NotFound(String),
    /// No access token was given where one is needed.
    #[error("missing access token")]
    MissingToken,
    /// The access token is not, or no longer, valid; with `soft_logout` a refresh or new login keeps the device.
    #[error("unknown access token")]
    UnknownToken {
        /// Whether the client may keep its data and log in again to the same device.
        soft_logout: bool,
    },
    /// The request is not proven to be of the server that it says.
    #[error("{0}")]
    Unauthorized(String),
    /// User-interactive authentication has to go on before this is done.
    #[error("authentication is required")]
    Uia(Box<UiaaInfo>),
    /// The body is not JSON.
    #[error("{0}")]
    NotJson(String),
    /// The body is JSON, but not what this endpoint takes.
    #[error("{0}")]
    BadJson(String),
    /// A parameter has a value that is not allowed.
    #[error("{0}")]
    InvalidParam(String),
    /// The request breaks a rule for which the specification has no code.
    #[error("{0}")]
    Refused(String),
    /// The user has reacted to the event with this key already.
    #[error("you have annotated this event with this key already")]
    DuplicateAnnotation,
    /// The event that shall subscribe the user to a thread is not in that thread.
    #[error("{0}")]
    NotInThread(String),
    /// The user unsubscribed from the thread after the event that would subscribe them.
    #[error("you have unsubscribed from this thread since")]
    ConflictingUnsubscription,
    /// The place in a sliding sync is unknown, or known no more: the client has to begin anew.
    #[error("this position is not known, or known no more")]
    UnknownPos,
    /// A parameter is missing.
    #[error("{0}")]
    MissingParam(String),
    /// A signature is missing or wrong.
    #[error("{0}")]
    InvalidSignature(String),
    /// The version of the key backup is not the current one.
    #[error("this is not the current version of the backup")]
    WrongRoomKeysVersion {
        /// The one that is.
        current: String,
    },
    /// The body, event or file is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The endpoint, method or login type is not known.
    #[error("{0}")]
    Unrecognized(String),
    /// The endpoint exists, but not for this method.
    #[error("{0}")]
    MethodNotAllowed(String),
    /// The thing is the server's own: clients may read it, not set it.
    #[error("{0}")]
    ReadOnly(String),
    /// The profile would become too large.
    #[error("{0}")]
    ProfileTooLarge(String),
    /// The name of the profile field is too long.
    #[error("{0}")]
    KeyTooLarge(String),
    /// The caller has to wait.
    #[error("too many requests")]
    LimitExceeded {
        /// How long until the next attempt may succeed.
        retry_after: Duration,
    },
    /// The user name is taken.
    #[error("the user name is taken")]
    UserInUse,
    /// The user name has a form that is not allowed.
    #[error("{0}")]
    InvalidUsername(String),
    /// The password is too weak.
    #[error("{0}")]
    WeakPassword(String),
    /// Guests may not do this.
    #[error("guests may not do this")]
    GuestAccessForbidden,
    /// An administrator has suspended the account.
    #[error("you cannot do this while your account is suspended")]
    UserSuspended,
    /// An administrator has locked the account.
    #[error("this account has been locked")]
    UserLocked,
    /// Whoever is invited to the notices of the server must read them first.
    #[error("the invitation to the notices of the server cannot be declined")]
    CannotLeaveServerNoticeRoom,
    /// Third-party ids are not for this server.
    #[error("{0}")]
    ThreepidDenied(String),
    /// The account was deactivated.
    #[error("this account has been deactivated")]
    UserDeactivated,
    /// The room alias is taken.
    #[error("{0}")]
    RoomInUse(String),
    /// The state that a room should begin with is not allowed.
    #[error("{0}")]
    InvalidRoomState(String),
    /// The server does not support the room version.
    #[error("{0}")]
    UnsupportedRoomVersion(String),
    /// The server does not support the version of the room to be joined.
    #[error("the room has version {0}, which this server does not support")]
    IncompatibleRoomVersion(RoomVersionId),
    /// This server cannot tell whether the user may join the restricted room.
    #[error("{0}")]
    UnableToAuthoriseJoin(String),
    /// The user may join the restricted room, but nobody of this server may let them in.
    #[error("{0}")]
    UnableToGrantJoin(String),
    /// The room cannot be forgotten: the user is in it.
    #[error("{0}")]
    NotLeft(String),
    /// The alias that shall point to a room points to one already.
    #[error("{0}")]
    AliasInUse(String),
    /// The change cannot be made to the present state.
    #[error("{0}")]
    BadState(String),
    /// The alias does not point to this room, or does not exist.
    #[error("{0}")]
    BadAlias(String),
    /// The media has been promised, but not arrived.
    #[error("{0}")]
    NotYetUploaded(String),
    /// The media exists already.
    #[error("{0}")]
    CannotOverwriteMedia(String),
    /// No thumbnail can be made of the media.
    #[error("{0}")]
    CannotThumbnail(String),
    /// Another server could not be reached, or answered badly.
    #[error("{0}")]
    Unreachable(String),
    /// Another server refused what it was asked, for a reason that concerns the caller.
    #[error("{text}")]
    RefusedElsewhere {
        /// The code that it gave.
        errcode: &'static str,
        /// What people may read of it.
        text: String,
    },
    /// Something else has become of the delayed event.
    #[error("{0}")]
    Finalised(String),
    /// The event shall be delayed for longer than this.
    #[error("events cannot be delayed for so long")]
    MaxDelayExceeded(Duration),
    /// The user takes no invitations.
    #[error("the user does not take invitations")]
    InviteBlocked,
    /// A rule of the user refuses the invitation.
    #[error("the user does not take this invitation")]
    InviteFiltered,
    /// The disk is full: nothing can be stored.
    #[error("the server cannot store anything at the moment: its disk is full")]
    StorageFull,
    /// The server is stopping, or too busy for this.
    #[error("{0}")]
    Unavailable(String),
    /// Something broke here; the caller learns no more than that.
    #[error("could not {doing}: {source}")]
    Internal {
        /// What was being done, in the infinitive.
        doing: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Returns an internal error: `doing` is what could not be done, in the infinitive.
    pub fn internal(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal {
            doing,
            source: source.into(),
        }
    }

    /// Returns a refusal with its reason, which the caller may read.
    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self::Forbidden(reason.into())
    }

    /// Returns that a thing does not exist.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound(what.into())
    }

    /// Returns that a parameter has a value that is not allowed.
    pub fn invalid_param(what: impl Into<String>) -> Self {
        Self::InvalidParam(what.into())
    }
}

impl From<serde_json::Error> for Error {
    fn from(source: serde_json::Error) -> Self {
        Self::internal("read or write JSON", source)
    }
}
