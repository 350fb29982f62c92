//! Reads the response to a join, which can hold tens of thousands of events.
//!
//! The response is never in memory as a whole. A thread parses it as it arrives, and passes the events on one by one.
//! They are verified in batches. While a batch is verified the parsing waits, and so does the other server.
//!
//! See [`PUT /send_join`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid);
//! its first version puts the response into a list, after the status:
//! [`PUT /v1/send_join`](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_joinroomideventid).

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    io::{self, Read},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use ruma::{ServerName, room_version_rules::RoomVersionRules};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::timeout,
};

use super::{Federation, KeyRing, RequestFailure};
use crate::matrix::VerifiedEvent;

/// The longest time in which no data arrives, and the longest time for the whole response.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
const RESPONSE_TIMEOUT: Duration = Duration::from_mins(20);
/// The largest response; the largest existing rooms come close to it.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// The largest number of events in a response.
const MAX_EVENTS: usize = 400_000;
/// The largest part of the body that is parsed as one event. An event may have 64 KiB.
const MAX_EVENT_BYTES: usize = 4 * 1024 * 1024;
/// The number of events that are verified together.
const EVENTS_PER_BATCH: usize = 500;
/// The number of chunks of the body, and of events, that can wait in the queues.
const MAX_QUEUED_CHUNKS: usize = 4;
const MAX_QUEUED_EVENTS: usize = 64;

/// The response to a join, without the events that must be dropped.
#[derive(Debug, Default)]
pub struct JoinAnswer {
    /// The join event, with that server's signature.
    pub event: Option<Box<RawValue>>,
    /// Whether members are missing, although this server did not ask for that.
    pub members_omitted: bool,
    /// The state before the join.
    pub state: Vec<VerifiedEvent>,
    /// The auth chain of that state and of the join, without the state itself.
    pub auth_chain: Vec<VerifiedEvent>,
}

/// An event of the response.
enum JoinResponseEvent {
    State(Box<RawValue>),
    AuthChain(Box<RawValue>),
}

/// The fields of the response other than the lists of events.
#[derive(Default)]
struct JoinResponseFields {
    event: Option<Box<RawValue>>,
    members_omitted: bool,
}

impl Federation {
    /// Reads the response of a server to a join.
    pub(super) async fn read_join_answer(
        &self,
        server: &ServerName,
        response: reqwest::Response,
        rules: &Arc<RoomVersionRules>,
    ) -> Result<JoinAnswer, RequestFailure> {
        let failed = |what: &str| RequestFailure::Unreachable(format!("{server}: {what}"));
        let (chunks, body) = channel(MAX_QUEUED_CHUNKS);
        let (parts, events) = channel(MAX_QUEUED_EVENTS);
        let reading = tokio::task::spawn_blocking(move || parse_response(body, &parts));
        let ring = self.key_ring(server.to_owned()).trusting_source();
        let verifying = verify_received_events(ring, events, rules);
        let all = async { tokio::join!(forward_chunks(response, chunks), reading, verifying) };
        let Ok((pumped, parsed, gathered)) = timeout(RESPONSE_TIMEOUT, Box::pin(all)).await else {
            return Err(failed("the answer takes too long"));
        };
        let gathered = gathered.map_err(|error| failed(&error))?;
        pumped.map_err(|error| failed(&error))?;
        let parsed = parsed.map_err(|error| failed(&error.to_string()))?;
        let parsed = parsed.map_err(|error| failed(&format!("the answer is invalid: {error}")))?;
        Ok(JoinAnswer {
            event: parsed.event,
            members_omitted: parsed.members_omitted,
            ..gathered
        })
    }
}

/// Passes the chunks of a body on as they arrive.
async fn forward_chunks(
    mut response: reqwest::Response,
    chunks: Sender<Bytes>,
) -> Result<(), String> {
    let mut size = 0_usize;
    loop {
        let chunk = timeout(IDLE_TIMEOUT, response.chunk()).await;
        let chunk = chunk.map_err(|_| "the answer stopped before its end".to_owned())?;
        let chunk = chunk.map_err(|error| error.without_url().to_string())?;
        let Some(chunk) = chunk else { return Ok(()) };
        size = size.saturating_add(chunk.len());
        if size > MAX_BYTES {
            return Err("the answer is too large".to_owned());
        }
        if chunks.send(chunk).await.is_err() {
            // The parser stopped early, and reports why.
            return Ok(());
        }
    }
}

/// Verifies events as they arrive. Duplicates are verified once.
async fn verify_received_events(
    mut ring: KeyRing,
    mut events: Receiver<JoinResponseEvent>,
    rules: &Arc<RoomVersionRules>,
) -> Result<JoinAnswer, String> {
    let hasher = RandomState::new();
    let mut seen: HashMap<u64, usize> = HashMap::new();
    let mut is_state: Vec<bool> = Vec::new();
    let mut verified = Vec::new();
    let mut batch = Vec::new();
    loop {
        let part = events.recv().await;
        let is_last = part.is_none();
        if let Some(part) = part {
            let (event, of_state) = match part {
                JoinResponseEvent::State(event) => (event, true),
                JoinResponseEvent::AuthChain(event) => (event, false),
            };
            let index = *seen.entry(hasher.hash_one(event.get())).or_insert_with(|| {
                batch.push(event);
                is_state.push(false);
                is_state.len() - 1
            });
            if let Some(known) = is_state.get_mut(index) {
                *known |= of_state;
            }
        }
        if batch.len() >= EVENTS_PER_BATCH || (is_last && !batch.is_empty()) {
            let checked = ring.verify_events(std::mem::take(&mut batch), rules).await;
            verified.extend(checked.map_err(|error| error.to_string())?);
        }
        if is_last {
            break;
        }
        if is_state.len() > MAX_EVENTS {
            return Err("the room has too many events".to_owned());
        }
    }
    let mut answer = JoinAnswer::default();
    for (event, is_state) in verified.into_iter().zip(is_state) {
        let list = if is_state {
            &mut answer.state
        } else {
            &mut answer.auth_chain
        };
        list.extend(event);
    }
    Ok(answer)
}

/// Parses a response as it arrives; runs on a thread that may block.
fn parse_response(
    body: Receiver<Bytes>,
    parts: &Sender<JoinResponseEvent>,
) -> serde_json::Result<JoinResponseFields> {
    let left = Rc::new(Cell::new(MAX_EVENT_BYTES));
    let body = ChunkedBody {
        chunks: body,
        chunk: Bytes::new(),
        bytes_left: left.clone(),
    };
    let mut deserializer = serde_json::Deserializer::from_reader(body);
    let parsed = JoinResponseParser {
        parts,
        bytes_left: left,
    }
    .deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(parsed)
}

/// A body that arrives in chunks.
struct ChunkedBody {
    chunks: Receiver<Bytes>,
    chunk: Bytes,
    /// The number of bytes that may be read before the next event has to begin.
    bytes_left: Rc<Cell<usize>>,
}

impl Read for ChunkedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.chunk.has_remaining() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let size = buffer.len().min(self.chunk.remaining());
        let Some(left) = self.bytes_left.get().checked_sub(size) else {
            return Err(io::Error::other("an event is too large"));
        };
        self.bytes_left.set(left);
        self.chunk.copy_to_slice(buffer.split_at_mut(size).0);
        Ok(size)
    }
}

/// Parses the response object, or the list of the first version, in which the object follows the status.
struct JoinResponseParser<'a> {
    parts: &'a Sender<JoinResponseEvent>,
    bytes_left: Rc<Cell<usize>>,
}

impl<'de> DeserializeSeed<'de> for JoinResponseParser<'_> {
    type Value = JoinResponseFields;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<JoinResponseFields, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JoinResponseParser<'_> {
    type Value = JoinResponseFields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the state of a room")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JoinResponseFields, A::Error> {
        let mut parsed = JoinResponseFields::default();
        while let Some(key) = map.next_key::<String>()? {
            self.bytes_left.set(MAX_EVENT_BYTES);
            let list = |wrap| EventListParser {
                parts: self.parts,
                bytes_left: &self.bytes_left,
                wrap,
            };
            match &*key {
                "state" => map.next_value_seed(list(JoinResponseEvent::State))?,
                "auth_chain" => map.next_value_seed(list(JoinResponseEvent::AuthChain))?,
                "event" => parsed.event = map.next_value()?,
                "members_omitted" => parsed.members_omitted = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(parsed)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<JoinResponseFields, A::Error> {
        if list.next_element::<u16>()? != Some(200) {
            return Err(A::Error::custom("the list does not begin with 200"));
        }
        let parsed = list.next_element_seed(self)?;
        let parsed = parsed.ok_or_else(|| A::Error::custom("the list has no answer"))?;
        match list.next_element::<IgnoredAny>()? {
            None => Ok(parsed),
            Some(_) => Err(A::Error::custom("the list has more than one answer")),
        }
    }
}

/// Parses a list of events, and passes each one on.
struct EventListParser<'a> {
    parts: &'a Sender<JoinResponseEvent>,
    bytes_left: &'a Cell<usize>,
    wrap: fn(Box<RawValue>) -> JoinResponseEvent,
}

impl<'de> DeserializeSeed<'de> for EventListParser<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EventListParser<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(event) = list.next_element::<Box<RawValue>>()? {
            self.bytes_left.set(MAX_EVENT_BYTES);
            let taken = self.parts.blocking_send((self.wrap)(event));
            taken.map_err(|_| A::Error::custom("the receiver has stopped"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a response that arrives in these chunks; returns its fields, and the number of state and auth chain
    /// events.
    async fn read_chunks(
        chunks: Vec<Bytes>,
    ) -> (Result<JoinResponseFields, String>, (usize, usize)) {
        let (sender, body) = channel(1);
        let (parts, mut events) = channel(1);
        let reading = tokio::task::spawn_blocking(move || parse_response(body, &parts));
        let counting = async {
            let (mut state, mut chain) = (0, 0);
            while let Some(part) = events.recv().await {
                match part {
                    JoinResponseEvent::State(_) => state += 1,
                    JoinResponseEvent::AuthChain(_) => chain += 1,
                }
            }
            (state, chain)
        };
        let ((), counted, parsed) = tokio::join!(send_chunks(sender, chunks), counting, reading);
        (parsed.unwrap().map_err(|error| error.to_string()), counted)
    }

    async fn send_chunks(sender: Sender<Bytes>, chunks: Vec<Bytes>) {
        for chunk in chunks {
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    }

    fn bytes_of(text: &str) -> Vec<Bytes> {
        let byte = |byte: u8| Bytes::copy_from_slice(&[byte]);
        text.bytes().map(byte).collect()
    }

    #[tokio::test]
    async fn an_answer_with_unknown_fields_is_read_byte_by_byte() {
        let text = r#"{"origin":"x","state":[{"a":1},{"b":[2,{}]}],"other":{"x":[]},"event":{"e":1},
            "members_omitted":false,"auth_chain":[{"c":"\u0041"}]}"#;

        let (parsed, counted) = read_chunks(bytes_of(text)).await;

        assert_eq!(parsed.unwrap().event.unwrap().get(), r#"{"e":1}"#);
        assert_eq!(counted, (2, 1));
    }

    #[tokio::test]
    async fn an_answer_of_the_v1_endpoint_is_read() {
        let text = r#"[200,{"state":[{"a":1}],"auth_chain":[],"event":{"e":1}}]"#;

        let (parsed, counted) = read_chunks(bytes_of(text)).await;

        assert_eq!(parsed.unwrap().event.unwrap().get(), r#"{"e":1}"#);
        assert_eq!(counted, (1, 0));
    }

    #[tokio::test]
    async fn an_incomplete_or_malformed_answer_is_an_error() {
        for text in [
            "",
            "[]",
            "[200]",
            "[403,{}]",
            "[200,{},{}]",
            r#"{"state":[{"a":1}"#,
            r#"{"state":{}}"#,
            r#"{"state":[]} x"#,
            r#"{"event""#,
        ] {
            assert!(read_chunks(bytes_of(text)).await.0.is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn an_event_that_is_too_large_is_refused() {
        let long = Bytes::from("x".repeat(1024 * 1024));
        let start = Bytes::from_static(br#"{"state":[{"a":""#);
        let endless = std::iter::once(start).chain(std::iter::repeat_n(long, 100));

        let (parsed, counted) = read_chunks(endless.collect()).await;

        assert!(parsed.err().unwrap().contains("too large"));
        assert_eq!(counted, (0, 0));
    }

    #[tokio::test]
    async fn small_events_together_may_exceed_the_limit_of_one() {
        let event = format!(r#"{{"a":"{}"}}"#, "x".repeat(60_000));
        let list = vec![event; 100].join(",");

        let (parsed, counted) =
            read_chunks(vec![Bytes::from(format!(r#"{{"state":[{list}]}}"#))]).await;

        assert!(parsed.is_ok());
        assert_eq!(counted, (100, 0));
    }
}
