//! The WebSocket push channel. The server pushes the responses of `/sync`, and the client sends requests.
//!
//! `docs/websocket.md` describes it for clients. `requests` performs the requests of a client; this module handles the
//! connection and its lifetime.

mod requests;

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{
        FromRequestParts, Request, State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    response::Response,
    routing::get,
};
use futures_util::{
    FutureExt, SinkExt, StreamExt,
    future::BoxFuture,
    stream::{FuturesUnordered, SplitSink, SplitStream},
};
use ruma::presence::PresenceState;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use self::requests::{ClientRequest, RequestOutcome};
use super::{App, KeepOpen, auth, client, endpoint::read_query};
use crate::{
    ephemeral::PresenceUpdate,
    error::{Error, Result},
    sync::{StateAfterName, SyncRequest, SyncToken, write_response},
    users::{Session, SyncFilter},
};

/// The sub-protocol: JSON in text frames.
const SUB_PROTOCOL: &str = "m.json";
/// The largest message of a client: an event of the maximum size and the frame around it.
const MAX_MESSAGE_BYTES: usize = 128 * 1024;
/// The time in which a client must authenticate.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval between pings of the server.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// The time without a sign of life after which a client is disconnected.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(50);
/// The number of requests of one client that run at the same time. At the limit, no more are read.
const MAX_CONCURRENT_REQUESTS: usize = 32;
/// The close code for an access token that is unknown or no longer valid.
const CLOSE_UNAUTHORIZED: u16 = 4401;

pub(super) fn routes() -> Router<App> {
    Router::new().route("/_matrix/client/unstable/stream", get(stream))
}

/// The query parameters of a connection.
#[derive(Debug, Default, Deserialize)]
struct ConnectionParams {
    since: Option<String>,
    filter: Option<String>,
    set_presence: Option<PresenceState>,
}

/// `GET /_matrix/client/unstable/stream`: `docs/websocket.md`
async fn stream(State(app): State<App>, request: Request) -> Result<Response> {
    let (mut parts, _) = request.into_parts();
    let params: ConnectionParams = read_query(&parts.uri)?;
    if let Some(presence) = &params.set_presence {
        PresenceUpdate::set_by_sync(presence.clone())?;
    }
    let since = params
        .since
        .as_deref()
        .map(str::parse::<SyncToken>)
        .transpose()?;
    let known = match auth::access_token(&parts) {
        Some(token) => {
            let session = auth::authenticate_session(&app, &parts, &token).await?;
            Some(ClientIdentity {
                filter: client::sync_filter(&app.users, &session, params.filter.as_deref()).await?,
                session,
                token,
            })
        }
        None => None,
    };
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &app)
        .await
        .map_err(|_| {
            Error::invalid_param(
                "this endpoint accepts only WebSocket connections; use /sync instead",
            )
        })?;
    let tasks = app.tasks.clone();
    let keep_open = parts.extensions.get::<KeepOpen>().cloned();
    let connection = PendingConnection {
        app,
        since,
        params,
        parts: Arc::new(parts),
    };
    Ok(upgrade
        .protocols([SUB_PROTOCOL])
        .max_message_size(MAX_MESSAGE_BYTES)
        .max_frame_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| {
            tasks.track(async move {
                connection.run(socket, known).await;
                drop(keep_open);
            })
        }))
}

/// The authenticated client of a connection.
struct ClientIdentity {
    session: Arc<Session>,
    token: String,
    filter: Arc<SyncFilter>,
}

/// The running requests of a client.
type RunningCalls = FuturesUnordered<BoxFuture<'static, requests::AnswerFrame>>;

/// The reason why a connection ends.
enum ConnectionEnd {
    /// The client closed the connection, or the network failed.
    Gone,
    /// The server closes the connection with this code and reason.
    Close(u16, &'static str),
}

/// A connection whose client is not authenticated yet.
struct PendingConnection {
    app: App,
    since: Option<SyncToken>,
    params: ConnectionParams,
    parts: Arc<axum::http::request::Parts>,
}

impl PendingConnection {
    async fn run(self, mut socket: WebSocket, known: Option<ClientIdentity>) {
        let stopping = self.app.tasks.stopping().clone();
        let identity = if let Some(identity) = known {
            Ok(identity)
        } else {
            let authenticating = timeout(AUTHENTICATION_TIMEOUT, self.authenticate(&mut socket));
            let late = ConnectionEnd::Close(CLOSE_UNAUTHORIZED, "authenticate within 10 s");
            tokio::select! {
                () = stopping.cancelled() => Err(ConnectionEnd::Close(close_code::AWAY, "the server stops")),
                identity = authenticating => identity.unwrap_or(Err(late)),
            }
        };
        match identity {
            Ok(identity) => self.serve(socket, identity).await,
            Err(ConnectionEnd::Close(code, reason)) => {
                let frame = CloseFrame {
                    code,
                    reason: reason.into(),
                };
                let _ = timeout(PING_INTERVAL, socket.send(Message::Close(Some(frame)))).await;
            }
            Err(ConnectionEnd::Gone) => {}
        }
    }

    /// Waits for the first frame of a client that cannot send headers.
    async fn authenticate(&self, socket: &mut WebSocket) -> Result<ClientIdentity, ConnectionEnd> {
        loop {
            let text = match socket.recv().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                _ => return Err(ConnectionEnd::Gone),
            };
            let call = ClientRequest::parse(&text);
            let outcome = match &call {
                Ok(call) => self.identify(call).await,
                Err(_) => Err(Error::MissingToken),
            };
            let id = call.as_ref().map_or(Value::Null, |call| call.id.clone());
            let (answer, identity) = match outcome {
                Ok(identity) => (RequestOutcome::done(id).into_text(), Ok(identity)),
                Err(error) => {
                    let refused =
                        ConnectionEnd::Close(CLOSE_UNAUTHORIZED, "the access token is not valid");
                    (RequestOutcome::failed(id, &error).into_text(), Err(refused))
                }
            };
            socket
                .send(Message::Text(answer.into()))
                .await
                .map_err(|_| ConnectionEnd::Gone)?;
            return identity;
        }
    }

    async fn identify(&self, call: &ClientRequest) -> Result<ClientIdentity> {
        let token = call.access_token().ok_or(Error::MissingToken)?;
        let session = auth::authenticate_session(&self.app, &self.parts, &token).await?;
        let text = self.params.filter.as_deref();
        let filter = client::sync_filter(&self.app.users, &session, text).await?;
        Ok(ClientIdentity {
            session,
            token,
            filter,
        })
    }

    async fn serve(self, socket: WebSocket, identity: ClientIdentity) {
        let ClientIdentity {
            session,
            token,
            filter,
        } = identity;
        let (sink, stream) = socket.split();
        let request = SyncRequest {
            since: self.since,
            filter,
            full_state: false,
            timeout: Duration::ZERO,
            set_presence: self.params.set_presence.unwrap_or(PresenceState::Online),
            use_state_after: false,
        };
        let presence = self.app.ephemeral.presence.clone();
        let update = PresenceUpdate::Sync(request.set_presence.clone());
        presence.update(session.user, &session.user_id, update);
        let _waiting = presence.keep_online(session.user);
        let channel = WebSocketChannel {
            app: self.app,
            session,
            token,
            request,
            sink,
        };
        channel.run(stream).await;
    }
}

/// A connection with an authenticated client.
struct WebSocketChannel {
    app: App,
    session: Arc<Session>,
    token: String,
    /// The next update to push; its `since` moves with every push.
    request: SyncRequest,
    sink: SplitSink<WebSocket, Message>,
}

impl WebSocketChannel {
    async fn run(mut self, stream: SplitStream<WebSocket>) {
        if let Err(error) = self.acknowledge_start().await {
            tracing::debug!(%error, "the position of a new WebSocket channel could not be acknowledged");
        }
        if let ConnectionEnd::Close(code, reason) = self.exchange_messages(stream).await {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            let _ = timeout(
                Duration::from_secs(2),
                self.sink.send(Message::Close(Some(frame))),
            )
            .await;
        }
    }

    /// A client that reconnects with a token has received everything before it.
    async fn acknowledge_start(&self) -> Result<()> {
        match &self.request.since {
            Some(since) => self.app.sync.acknowledge(&self.session, since).await,
            None => Ok(()),
        }
    }

    /// Pushes updates and answers requests until the connection ends.
    ///
    /// The next update is made only after the socket has taken the previous one. So a slow client gets one bigger
    /// update instead of a queue.
    async fn exchange_messages(&mut self, mut stream: SplitStream<WebSocket>) -> ConnectionEnd {
        let stopping = self.app.tasks.stopping().clone();
        let (mut pings, mut heard) = (ping_interval(), Instant::now());
        let mut working = RunningCalls::new();
        let mut news = self.app.sync.waiters().register(self.session.user);
        let mut step = self.push_changes(&mut working).await;
        loop {
            if let Err(end) = step {
                return end;
            }
            step = tokio::select! {
                () = stopping.cancelled() => return ConnectionEnd::Close(close_code::AWAY, "the server stops"),
                () = news.wait_for_change() => {
                    news = self.app.sync.waiters().register(self.session.user);
                    self.push_changes(&mut working).await
                }
                Some(answer) = working.next() => self.send_answer(answer).await,
                frame = stream.next(), if working.len() < MAX_CONCURRENT_REQUESTS => {
                    heard = Instant::now();
                    match read_frame(frame) {
                        Ok(Some(text)) => {
                            working.push(requests::answer_request(self.app.clone(), self.session.clone(), text).boxed());
                            Ok(())
                        }
                        Ok(None) => Ok(()),
                        Err(end) => Err(end),
                    }
                }
                _ = pings.tick() => self.send_ping(heard).await,
            };
        }
    }

    /// Sends the response to a request, which is in flight until the socket has taken it.
    async fn send_answer(&mut self, answer: requests::AnswerFrame) -> Result<(), ConnectionEnd> {
        let requests::AnswerFrame { text, sending } = answer;
        let sent = self.send(text).await;
        drop(sending);
        sent
    }

    /// Delays an update that shows the user's own events until the device has the responses to the requests that sent
    /// them.
    async fn wait_for_send_responses(
        &mut self,
        working: &mut RunningCalls,
    ) -> Result<(), ConnectionEnd> {
        let sync = self.app.sync.clone();
        let session = self.session.clone();
        let mut holding = pin!(sync.wait_for_send_responses(&session, true));
        loop {
            tokio::select! {
                () = &mut holding => return Ok(()),
                Some(answer) = working.next() => self.send_answer(answer).await?,
            }
        }
    }

    /// Pushes the changes since the last push, if there are any.
    async fn push_changes(&mut self, working: &mut RunningCalls) -> Result<(), ConnectionEnd> {
        self.check_token().await?;
        let changes = self.app.sync.changes(&self.session, &self.request).await;
        let answer = changes.map_err(|error| {
            tracing::warn!(%error, "an update for a WebSocket channel could not be made");
            ConnectionEnd::Close(close_code::ERROR, "internal server error")
        })?;
        let is_first = self.request.since.is_none();
        self.request.since = Some(answer.token);
        if !answer.has_changes && !is_first {
            return Ok(());
        }
        if answer.has_own_events {
            self.wait_for_send_responses(working).await?;
        }
        let text = write_response(
            &answer.response,
            &answer.profile_updates,
            StateAfterName::Stable,
        );
        self.send(
            text.map_err(|_| ConnectionEnd::Close(close_code::ERROR, "internal server error"))?,
        )
        .await
    }

    /// Sends a text. Meanwhile it disconnects a client that takes no data or whose token is no longer valid.
    async fn send(&mut self, text: String) -> Result<(), ConnectionEnd> {
        let stopping = self.app.tasks.stopping().clone();
        let (app, session, token) = (self.app.clone(), self.session.clone(), self.token.clone());
        let sending = timeout(SILENCE_TIMEOUT, self.sink.send(Message::Text(text.into())));
        tokio::pin!(sending);
        loop {
            let mut news = app.sync.waiters().register(session.user);
            tokio::select! {
                biased;
                sent = &mut sending => {
                    return match sent {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(_)) | Err(_) => Err(ConnectionEnd::Gone),
                    };
                }
                () = stopping.cancelled() => return Err(ConnectionEnd::Gone),
                () = news.wait_for_change() => {
                    let session = app.users.sessions.authenticate(&token).await;
                    if !session.is_ok_and(|session| !session.is_locked) {
                        return Err(ConnectionEnd::Gone);
                    }
                }
            }
        }
    }

    async fn send_ping(&mut self, heard: Instant) -> Result<(), ConnectionEnd> {
        if heard.elapsed() > SILENCE_TIMEOUT {
            return Err(ConnectionEnd::Gone);
        }
        self.check_token().await?;
        let sent = timeout(
            SILENCE_TIMEOUT,
            self.sink.send(Message::Ping(Vec::new().into())),
        )
        .await;
        sent.ok().and_then(Result::ok).ok_or(ConnectionEnd::Gone)
    }

    /// Closes the connection when the token was revoked or has expired, or when the account was locked.
    async fn check_token(&mut self) -> Result<(), ConnectionEnd> {
        match self.app.users.sessions.authenticate(&self.token).await {
            Ok(session) if session.is_locked => Err(ConnectionEnd::Close(
                CLOSE_UNAUTHORIZED,
                "the account is locked",
            )),
            Ok(session) => {
                // The restrictions of the account may have changed.
                self.session = session;
                Ok(())
            }
            Err(Error::UnknownToken { .. }) => Err(ConnectionEnd::Close(
                CLOSE_UNAUTHORIZED,
                "the access token is not valid",
            )),
            Err(error) => {
                tracing::warn!(%error, "the access token of a WebSocket channel could not be checked");
                Err(ConnectionEnd::Close(
                    close_code::ERROR,
                    "internal server error",
                ))
            }
        }
    }
}

fn ping_interval() -> Interval {
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

/// Returns the text of a frame, or `None` for a ping or pong.
fn read_frame(
    frame: Option<Result<Message, axum::Error>>,
) -> Result<Option<String>, ConnectionEnd> {
    match frame {
        Some(Ok(Message::Text(text))) => Ok(Some(text.to_string())),
        Some(Ok(Message::Binary(_))) => Err(ConnectionEnd::Close(
            close_code::UNSUPPORTED,
            "m.json needs text frames",
        )),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(ConnectionEnd::Gone),
    }
}
