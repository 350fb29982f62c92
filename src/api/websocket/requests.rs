//! Performs the requests that a client sends through the channel.

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedEventId, OwnedRoomId,
    events::{StateEventType, TimelineEventType, receipt::ReceiptThread, sticky::StickyDurationMs},
    presence::PresenceState,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::{
        App, RequestClass, client::DEFAULT_TYPING_TIMEOUT, endpoint::object_text,
        endpoint_policies::EndpointPolicy, error::error_body,
    },
    ephemeral::PresenceUpdate,
    error::{Error, RefusalCode, Result},
    matrix::MAX_JSON_DEPTH,
    rooms::{ClientTransaction, EventToSend},
    sync::{SendInFlight, SyncToken},
    users::Session,
    workflows::{ReadReceipt, StateEventRequest},
};

/// The maximum length of a request id, which is also a transaction id.
const MAX_REQUEST_ID_BYTES: usize = 255;

/// A request of a client.
#[derive(Debug, Deserialize)]
pub(super) struct ClientRequest {
    /// The id that the response repeats.
    #[serde(default)]
    pub(super) id: Value,
    #[serde(default)]
    method: String,
    #[serde(default)]
    params: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct AuthenticateParams {
    access_token: String,
}

#[derive(Deserialize)]
struct SendParams {
    room_id: OwnedRoomId,
    event_type: TimelineEventType,
    content: Box<RawValue>,
    sticky_duration_ms: Option<StickyDurationMs>,
}

#[derive(Deserialize)]
struct StateParams {
    room_id: OwnedRoomId,
    event_type: StateEventType,
    #[serde(default)]
    state_key: String,
    content: Box<RawValue>,
    sticky_duration_ms: Option<StickyDurationMs>,
}

#[derive(Deserialize)]
struct TypingParams {
    room_id: OwnedRoomId,
    typing: bool,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
struct ReceiptParams {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    #[serde(default = "read")]
    receipt_type: String,
    #[serde(default)]
    thread_id: ReceiptThread,
}

fn read() -> String {
    "m.read".to_owned()
}

#[derive(Deserialize)]
struct PresenceParams {
    presence: PresenceState,
    status_msg: Option<String>,
}

#[derive(Deserialize)]
struct AckParams {
    since: String,
}

/// The response to a request.
pub(super) struct RequestOutcome {
    id: Value,
    result: Result<Value, Value>,
}

impl RequestOutcome {
    /// Returns the response to a completed request.
    pub(super) fn done(id: Value) -> Self {
        Self {
            id,
            result: Ok(json!({})),
        }
    }

    /// Returns the response to a failed request.
    pub(super) fn failed(id: Value, error: &Error) -> Self {
        Self {
            id,
            result: Err(error_body(error)),
        }
    }

    /// Returns the text of the frame.
    pub(super) fn into_text(self) -> String {
        match self.result {
            Ok(result) => json!({ "id": self.id, "result": result }).to_string(),
            Err(error) => json!({ "id": self.id, "error": error }).to_string(),
        }
    }
}

impl ClientRequest {
    /// Parses a frame.
    ///
    /// # Errors
    ///
    /// `RefusalCode::NotJson` or [`Error::BadJson`] when it is not a request.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = object_text(text.as_bytes(), MAX_JSON_DEPTH)?;
        let call: Self = serde_json::from_str(&text).map_err(|_| {
            Error::BadJson("a request must be an object with id, method and params".to_owned())
        })?;
        match &call.id {
            Value::Null => Ok(call),
            Value::String(id) if id.len() <= MAX_REQUEST_ID_BYTES => Ok(call),
            _ => Err(Error::BadJson(format!(
                "the id must be a string of at most {MAX_REQUEST_ID_BYTES} bytes"
            ))),
        }
    }

    /// Returns the token of an `authenticate` request.
    pub(super) fn access_token(&self) -> Option<String> {
        let is_authenticate = self.method == "authenticate";
        let params = is_authenticate
            .then(|| self.params::<AuthenticateParams>().ok())
            .flatten();
        params.map(|params| params.access_token)
    }

    fn params<T: DeserializeOwned>(&self) -> Result<T> {
        let params = self.params.as_ref().map_or("{}", |params| params.get());
        serde_json::from_str(params).map_err(|e| Error::BadJson(format!("params: {e}")))
    }

    fn transaction(&self, session: &Session) -> Result<ClientTransaction> {
        match &self.id {
            Value::String(id) => Ok(ClientTransaction {
                device: session.device,
                txn_id: id.clone(),
            }),
            _ => Err(Error::refused(
                RefusalCode::MissingParam,
                "a request that sends needs an id".to_owned(),
            )),
        }
    }
}

/// The response frame to be sent.
pub(super) struct AnswerFrame {
    /// The text of the frame.
    pub(super) text: String,
    /// Keeps the request in flight until its response is sent.
    pub(super) sending: Option<SendInFlight>,
}

/// Performs the request in a frame, and returns the response.
pub(super) async fn answer_request(app: App, session: Arc<Session>, text: String) -> AnswerFrame {
    let call = match ClientRequest::parse(&text) {
        Ok(call) => call,
        Err(error) => {
            let text = RequestOutcome::failed(Value::Null, &error).into_text();
            return AnswerFrame {
                text,
                sending: None,
            };
        }
    };
    let is_send = matches!(call.method.as_str(), "send" | "state");
    let sending = is_send.then(|| app.sync.begin_send(session.device));
    let result = perform(&app, &session, &call)
        .await
        .map_err(|error| error_body(&error));
    let outcome = RequestOutcome {
        id: call.id,
        result,
    };
    AnswerFrame {
        text: outcome.into_text(),
        sending,
    }
}

async fn perform(app: &App, session: &Session, call: &ClientRequest) -> Result<Value> {
    app.limits.check(RequestClass::Write, session)?;
    if let Some(policy) = EndpointPolicy::of_channel_method(&call.method) {
        policy.check_channel_request(app, session)?;
    }
    match call.method.as_str() {
        "ping" => Ok(json!({})),
        "send" => send(app, session, call).await,
        "state" => state(app, session, call).await,
        "typing" => typing(app, session, call).await,
        "receipt" => receipt(app, session, call).await,
        "presence" => presence(app, session, call),
        "ack" => ack(app, session, call).await,
        "authenticate" => Err(Error::forbidden("you are already authenticated")),
        other => Err(Error::refused(
            RefusalCode::Unrecognized,
            format!("unknown method {other:?}"),
        )),
    }
}

async fn send(app: &App, session: &Session, call: &ClientRequest) -> Result<Value> {
    session.must_not_be_suspended()?;
    let transaction = call.transaction(session)?;
    let params: SendParams = call.params()?;
    app.workflows.activity.record_activity(session);
    let sender = session.user_id.clone();
    let event = EventToSend::message(sender, params.event_type, params.content, Some(transaction))
        .sticky_for(params.sticky_duration_ms.map(Into::into));
    let event_id = app.rooms.sender.send(&params.room_id, event).await?;
    Ok(json!({ "event_id": event_id }))
}

async fn state(app: &App, session: &Session, call: &ClientRequest) -> Result<Value> {
    session.must_not_be_suspended()?;
    let params: StateParams = call.params()?;
    app.workflows.activity.record_activity(session);
    let (kind, state_key) = (&params.event_type, params.state_key.as_str());
    app.limits
        .check_state(session, kind, state_key, &params.content)?;
    let request = StateEventRequest {
        room_id: params.room_id,
        kind: params.event_type,
        state_key: params.state_key,
        content: params.content,
        sticky: params.sticky_duration_ms.map(Into::into),
        timestamp: None,
    };
    let event_id = app
        .workflows
        .state_events
        .send_state_event(session, request)
        .await?;
    Ok(json!({ "event_id": event_id }))
}

async fn typing(app: &App, session: &Session, call: &ClientRequest) -> Result<Value> {
    let params: TypingParams = call.params()?;
    let lasting = params.typing.then(|| {
        params
            .timeout
            .map_or(DEFAULT_TYPING_TIMEOUT, Duration::from_millis)
    });
    app.workflows
        .activity
        .set_typing(session, &params.room_id, lasting)
        .await?;
    Ok(json!({}))
}

async fn receipt(app: &App, session: &Session, call: &ClientRequest) -> Result<Value> {
    let params: ReceiptParams = call.params()?;
    let receipt = ReadReceipt {
        kind: &params.receipt_type,
        event_id: &params.event_id,
        thread: &params.thread_id,
    };
    app.workflows
        .activity
        .mark_read(session, &params.room_id, receipt)
        .await?;
    Ok(json!({}))
}

fn presence(app: &App, session: &Session, call: &ClientRequest) -> Result<Value> {
    let params: PresenceParams = call.params()?;
    let update = PresenceUpdate::set_by_user(params.presence, params.status_msg)?;
    app.ephemeral
        .presence
        .update(session.user, &session.user_id, update);
    Ok(json!({}))
}

async fn ack(app: &App, session: &Session, call: &ClientRequest) -> Result<Value> {
    let params: AckParams = call.params()?;
    let token: SyncToken = params.since.parse()?;
    app.sync.acknowledge(session, &token).await?;
    Ok(json!({}))
}
