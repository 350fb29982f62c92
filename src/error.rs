//! The errors of the layers below `api`.
//!
//! [`Error`] has a variant for each case on which a caller acts, and [`Error::Refused`] for all others. `api/error.rs`
//! alone turns them into a status, an `errcode` and a text; nothing here knows HTTP. Normal outcomes are not errors: they
//! are an `Option` or an enum.

use std::time::Duration;

use ruma::{RoomVersionId, api::client::uiaa::UiaaInfo};

/// The result of every fallible function below `api`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a refusal on which no caller acts: it only chooses the status and the `errcode` of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The request does not prove that it is from the server that it names.
    Unauthorized,
    /// The body is not JSON.
    NotJson,
    /// The request breaks a rule for which the specification has no error code.
    Unspecified,
    /// The event with which the user subscribes to a thread is not in that thread.
    NotInThread,
    /// A parameter is missing.
    MissingParam,
    /// The endpoint, method or login type is not known.
    Unrecognized,
    /// The endpoint exists, but not for this method.
    MethodNotAllowed,
    /// The server alone may set this value; clients may only read it.
    ReadOnly,
    /// The change would make the profile too large.
    ProfileTooLarge,
    /// The name of the profile field is too long.
    KeyTooLarge,
    /// The user name has a form that is not allowed.
    InvalidUsername,
    /// The password is too weak.
    WeakPassword,
    /// The registration of the application service has no URL.
    UrlNotSet,
    /// The user has no device with this id.
    UnknownDevice,
    /// This server does not support third-party identifiers.
    ThreepidDenied,
    /// Another account has the third-party identifier.
    ThreepidInUse,
    /// The third-party identifier is unknown.
    ThreepidNotFound,
    /// The user has not shown that the third-party identifier is theirs.
    ThreepidAuthFailed,
    /// The token does not activate a pusher of the user.
    UnknownActivationToken,
    /// The token that activates a pusher has expired.
    ExpiredActivationToken,
    /// The room alias is taken.
    RoomInUse,
    /// The requested initial state of a room is not allowed.
    InvalidRoomState,
    /// The user cannot forget the room, because they are in it.
    NotLeft,
    /// The new alias already points to a room.
    AliasInUse,
    /// The alias does not point to this room, or does not exist.
    BadAlias,
    /// The media ID was reserved, but the media has not been uploaded yet.
    NotYetUploaded,
    /// Media with this ID already exists.
    CannotOverwriteMedia,
    /// The server cannot make a thumbnail of this media.
    CannotThumbnail,
}

/// The reason why a request cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The thing does not exist, or the caller may not know that it does.
    #[error("{0}")]
    NotFound(String),
    /// The endpoint needs an access token, and the request has none.
    #[error("missing access token")]
    MissingToken,
    /// The access token is unknown or no longer valid. With `soft_logout`, a refresh or a new login keeps the device.
    #[error("unknown access token")]
    UnknownToken {
        /// Whether the client may keep its data and log in again to the same device.
        soft_logout: bool,
    },
    /// The client must continue user-interactive authentication first.
    #[error("authentication is required")]
    Uia(Box<UiaaInfo>),
    /// The body is JSON, but not in the form that this endpoint accepts.
    #[error("{0}")]
    BadJson(String),
    /// A parameter has a value that is not allowed.
    #[error("{0}")]
    InvalidParam(String),
    /// The request is refused, and no caller needs to know more than the code and the reason.
    #[error("{reason}")]
    Refused {
        /// The kind of the refusal.
        code: RefusalCode,
        /// The reason, which the caller may read.
        reason: String,
    },
    /// The user has already reacted to the event with this key.
    #[error("you have already annotated this event with this key")]
    DuplicateAnnotation,
    /// The user unsubscribed from the thread after the event that would subscribe them.
    #[error("you have unsubscribed from this thread after this event")]
    ConflictingUnsubscription,
    /// The position in a sliding sync is unknown or no longer known: the client must start the connection again.
    #[error("this position is unknown or has expired; start the sync again without a position")]
    UnknownPos,
    /// A signature is missing or wrong.
    #[error("{0}")]
    InvalidSignature(String),
    /// The version of the key backup is not the current one.
    #[error("this is not the current version of the backup")]
    WrongRoomKeysVersion {
        /// The version that is the current one.
        current: String,
    },
    /// The body, event or file is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// The caller has to wait.
    #[error("too many requests")]
    LimitExceeded {
        /// The time after which the next attempt may succeed.
        retry_after: Duration,
    },
    /// Only an application service may create, or log in as, this user, or create this alias.
    #[error("{0}")]
    Exclusive(&'static str),
    /// The user name is taken.
    #[error("the user name is taken")]
    UserInUse,
    /// Guests may not do this.
    #[error("guests may not do this")]
    GuestAccessForbidden,
    /// An administrator has suspended the account.
    #[error("you cannot do this while your account is suspended")]
    UserSuspended,
    /// An administrator has locked the account.
    #[error("this account has been locked")]
    UserLocked,
    /// A user must not decline the invite to the server notices room.
    #[error("the invitation to the server notices room cannot be declined")]
    CannotLeaveServerNoticeRoom,
    /// The account was deactivated.
    #[error("this account has been deactivated")]
    UserDeactivated,
    /// The server does not support the room version.
    #[error("{0}")]
    UnsupportedRoomVersion(String),
    /// The server does not support the version of the room to be joined.
    #[error("the room has version {0}, which this server does not support")]
    IncompatibleRoomVersion(RoomVersionId),
    /// This server does not know whether the user may join the restricted room.
    #[error("{0}")]
    UnableToAuthoriseJoin(String),
    /// The user may join the restricted room, but no user of this server has the power to let them in.
    #[error("{0}")]
    UnableToGrantJoin(String),
    /// Another server could not be reached, or its response cannot be used.
    #[error("{0}")]
    Unreachable(String),
    /// Another server refused the request, for a reason that concerns the caller.
    #[error("{text}")]
    RefusedElsewhere {
        /// The error code that it sent.
        errcode: &'static str,
        /// The part of its text that users may read.
        text: String,
    },
    /// A delayed event or an expiring invite has already been settled in another way.
    #[error("{0}")]
    Finalised(String),
    /// The requested delay is longer than this maximum.
    #[error("the delay is longer than this server allows")]
    MaxDelayExceeded(Duration),
    /// The user accepts no invites.
    #[error("the user does not accept invitations")]
    InviteBlocked,
    /// A rule in the user's settings refuses the invite.
    #[error("the user's settings do not allow this invitation")]
    InviteFiltered,
    /// The disk is full, so nothing can be stored.
    #[error("the server cannot store anything at the moment: its disk is full")]
    StorageFull,
    /// The server is stopping or too busy.
    #[error("{0}")]
    Unavailable(String),
    /// Something failed inside this server. The caller learns no details.
    #[error("could not {doing}: {source}")]
    Internal {
        /// The action that failed, in the infinitive.
        doing: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Returns an internal error. `doing` names the action that failed, in the infinitive.
    pub fn internal(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal {
            doing,
            source: source.into(),
        }
    }

    /// Returns a refusal with a reason that the caller may read.
    pub fn forbidden(reason: impl Into<String>) -> Self {
        Self::Forbidden(reason.into())
    }

    /// Returns a refusal on which no caller acts, with a reason that the caller may read.
    pub fn refused(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self::Refused {
            code,
            reason: reason.into(),
        }
    }

    /// Returns the error for a thing that does not exist.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound(what.into())
    }

    /// Returns the error for a parameter whose value is not allowed.
    pub fn invalid_param(what: impl Into<String>) -> Self {
        Self::InvalidParam(what.into())
    }
}

impl From<serde_json::Error> for Error {
    fn from(source: serde_json::Error) -> Self {
        Self::internal("read or write JSON", source)
    }
}
