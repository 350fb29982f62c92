//! Searching the texts of messages, room names and room topics.
//!
//! Texts are indexed in batches after their events are stored: by a background task, and by a
//! search for events that the task has not reached yet. So sending a message does not wait for its
//! trigrams.
//!
//! See the specification on
//! [server side search](https://spec.matrix.org/v1.19/client-server-api/#server-side-search).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    UserId,
    api::client::filter::RoomEventFilter,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::{Map, Value};

use super::EventSearch;
use crate::{
    error::{Error, Result},
    matrix::{Pdu, TimelineEvent, wants_event, wants_type_of},
    numbers::{Position, RoomNum, StringNum, UserNum},
    rooms::{
        UserAccess,
        memory::{room::Room, stored_events::parse_event_id},
    },
    storage::{
        WriteTx, backfilled_tables,
        rooms::text_index::{self, FoundText, MAX_SEARCH_PATTERNS},
    },
};

/// The name under which the progress of indexing is stored.
const SEARCH_BACKFILL: &str = "search";
/// The number of events that are indexed in one transaction.
const EVENTS_PER_BATCH: i64 = 200;
/// The most batches that a search indexes before it searches: after an update of the server, very
/// many events may not be indexed yet.
const MAX_AWAITED_BATCHES: usize = 50;
/// The pause of the indexing task when no events are left to index.
const INDEXING_INTERVAL: Duration = Duration::from_secs(10);
/// The longest indexed part of a text, in bytes.
const MAX_INDEXED_BYTES: usize = 8 * 1024;
/// The most texts that one search finds, newest first.
const MAX_FOUND_TEXTS: i64 = 2_000;
/// The most words of one search.
const MAX_SEARCH_WORDS: usize = 16;
/// The longest term of a search, in bytes.
const MAX_TERM_BYTES: usize = 1_000;
/// The most letters of a word that are looked up in the index, since each one costs a look-up. The
/// texts found must contain the whole word.
const MAX_LOOKUP_LETTERS: usize = 32;
/// The time after which a user with too many concurrent searches may search again.
const SEARCH_RETRY_AFTER: Duration = Duration::from_secs(2);
/// The most rooms that one search covers.
const MAX_SEARCHED_ROOMS: usize = 5_000;

/// A kind of text that a search covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchKey {
    /// The texts of messages.
    Body,
    /// Room names.
    Name,
    /// Room topics.
    Topic,
}

/// A search request.
#[derive(Clone, Debug)]
pub struct SearchQuery<'a> {
    /// The words, all of which a text must contain.
    pub term: &'a str,
    /// The kinds of text that are searched.
    pub keys: Vec<SearchKey>,
    /// The filter that events must match.
    pub filter: &'a RoomEventFilter,
    /// Whether the best matches come first; otherwise the newest come first.
    pub by_rank: bool,
    /// The start of a later page: the position up to which events are searched, and the number of
    /// results before the page.
    pub from: Option<(Position, usize)>,
    /// The greatest number of results.
    pub limit: usize,
}

/// An event that a search found.
#[derive(Debug)]
pub struct SearchHit {
    /// The room of the event, and the user's access to it.
    pub room_access: Arc<(Arc<Room>, UserAccess)>,
    /// The event.
    pub event: Arc<TimelineEvent>,
    /// The rank of the match: higher is better.
    pub rank: f64,
}

/// A page of search results.
#[derive(Debug, Default)]
pub struct SearchPage {
    /// The number of results on all pages.
    pub count: usize,
    /// The results on this page.
    pub hits: Vec<SearchHit>,
    /// The start of the next page.
    pub next: Option<(Position, usize)>,
    /// The words of the search.
    pub words: Vec<String>,
}

/// A text that a search found, with the rank of the match.
struct RankedText {
    rank: f64,
    found: FoundText,
}

type AccessibleRooms = HashMap<RoomNum, Arc<(Arc<Room>, UserAccess)>>;

impl EventSearch {
    /// Searches the rooms that a user is or was in, limited to events that the user may see.
    pub async fn find_events(
        &self,
        user: UserNum,
        user_id: &UserId,
        query: &SearchQuery<'_>,
    ) -> Result<SearchPage> {
        if query.term.len() > MAX_TERM_BYTES {
            return Err(Error::invalid_param(format!(
                "search_term is longer than {MAX_TERM_BYTES} bytes"
            )));
        }
        self.index_texts(MAX_AWAITED_BATCHES).await?;
        let words = split_words(query.term);
        let rooms = self.find_searched_rooms(user, query.filter).await?;
        if words.is_empty() || rooms.is_empty() {
            return Ok(SearchPage {
                words,
                ..SearchPage::default()
            });
        }
        let published = self.db.journal().published_position();
        let (up_to, skipped) = query.from.unwrap_or((published, 0));
        let mut parts: Vec<&str> = words.iter().map(|word| lookup_prefix(word)).collect();
        parts.sort_by_key(|word| std::cmp::Reverse(word.chars().count()));
        parts.truncate(MAX_SEARCH_PATTERNS);
        let mut found = {
            // Each user has one search at a time, so that no user blocks the searches of others.
            let queue_place = self.permits_by_user.enqueue(&user);
            let _own_turn = queue_place.ok_or_else(too_many_searches)?.acquire().await;
            let turn = self.search_permits.acquire().await;
            let _turn = turn.map_err(|source| Error::internal("wait to search", source))?;
            let mut conn = self.db.read().await?;
            text_index::find(&mut conn, rooms, &parts, up_to, MAX_FOUND_TEXTS).await?
        };
        found.retain(|found| words.iter().all(|word| found.text.contains(word)));
        self.keep_wanted(user, query, &mut found).await?;
        let accessible_rooms = self.keep_visible(user, user_id, &mut found).await?;
        let ranked = found.into_iter().map(|found| RankedText {
            rank: rank(&found.text, &words),
            found,
        });
        let mut ranked: Vec<RankedText> = ranked.collect();
        if query.by_rank {
            // The sort is stable: of results with equal rank, the newest comes first.
            ranked.sort_by(|one, other| other.rank.total_cmp(&one.rank));
        }
        let count = ranked.len();
        let page = ranked.into_iter().skip(skipped).take(query.limit);
        let page: Vec<RankedText> = page.collect();
        let next = (page.len() == query.limit).then_some((up_to, skipped + query.limit));
        Ok(SearchPage {
            count,
            hits: self
                .load_hits(page, &accessible_rooms, query.filter)
                .await?,
            next,
            words,
        })
    }

    /// Returns the rooms to search.
    async fn find_searched_rooms(
        &self,
        user: UserNum,
        filter: &RoomEventFilter,
    ) -> Result<HashSet<RoomNum>> {
        let mine = self.memory.rooms_of_user(user).await?;
        let was_in = |membership: &MembershipState| {
            matches!(
                membership,
                MembershipState::Join | MembershipState::Leave | MembershipState::Ban
            )
        };
        let mut rooms: HashSet<RoomNum> = mine
            .all()
            .iter()
            .filter(|(_, room)| was_in(&room.membership) && !room.forgotten)
            .map(|(num, _)| *num)
            .take(MAX_SEARCHED_ROOMS)
            .collect();
        if let Some(wanted) = &filter.rooms {
            let mut numbers = HashSet::new();
            for room_id in wanted.iter().take(MAX_SEARCHED_ROOMS) {
                numbers.extend(self.memory.room_number(room_id).await.ok());
            }
            rooms.retain(|room| numbers.contains(room));
        }
        for room_id in filter.not_rooms.iter().take(MAX_SEARCHED_ROOMS) {
            if let Ok(number) = self.memory.room_number(room_id).await {
                rooms.remove(&number);
            }
        }
        Ok(rooms)
    }

    /// Keeps results of the requested kinds whose type and sender match the filter. Messages of
    /// ignored users are removed, but not their state events, which are never hidden.
    async fn keep_wanted(
        &self,
        user: UserNum,
        query: &SearchQuery<'_>,
        found: &mut Vec<FoundText>,
    ) -> Result<()> {
        let numbers: HashSet<StringNum> = found
            .iter()
            .flat_map(|found| [found.kind, found.sender.string()])
            .collect();
        let numbers: Vec<StringNum> = numbers.into_iter().collect();
        let mut conn = self.db.read().await?;
        let texts = self.db.strings.find_texts(&mut conn, &numbers).await?;
        let settings = self.access.find_ignore_settings(user);
        let ignores = |sender: &UserId| {
            let settings = settings.as_ref();
            settings.is_some_and(|settings| settings.ignores_user(sender))
        };
        found.retain(|found| {
            let (Some(kind), Some(sender)) =
                (texts.get(&found.kind), texts.get(&found.sender.string()))
            else {
                return false;
            };
            let key = match &**kind {
                "m.room.name" => SearchKey::Name,
                "m.room.topic" => SearchKey::Topic,
                _ => SearchKey::Body,
            };
            let Ok(sender) = <&UserId>::try_from(&**sender) else {
                return false;
            };
            let is_hidden = key == SearchKey::Body && ignores(sender);
            query.keys.contains(&key) && !is_hidden && wants_type_of(query.filter, kind, sender)
        });
        Ok(())
    }

    /// Keeps results that the user may see; returns the rooms they are in.
    async fn keep_visible(
        &self,
        user: UserNum,
        user_id: &UserId,
        found: &mut Vec<FoundText>,
    ) -> Result<AccessibleRooms> {
        let mut accessible_rooms = AccessibleRooms::new();
        for room in found.iter().map(|found| found.room).collect::<HashSet<_>>() {
            let in_memory = match self.memory.room_by_number(room).await {
                // The room was deleted meanwhile.
                Err(Error::NotFound(_)) => continue,
                room => room?,
            };
            let access = self.access.load_access(&in_memory, user, user_id).await?;
            if access.has_ever_joined() {
                accessible_rooms.insert(room, Arc::new((in_memory, access)));
            }
        }
        found.retain(|found| {
            accessible_rooms
                .get(&found.room)
                .is_some_and(|room_access| {
                    room_access.1.may_see_at(found.visibility, found.timeline)
                })
        });
        Ok(accessible_rooms)
    }

    async fn load_hits(
        &self,
        page: Vec<RankedText>,
        accessible_rooms: &AccessibleRooms,
        filter: &RoomEventFilter,
    ) -> Result<Vec<SearchHit>> {
        let mut by_room: HashMap<RoomNum, Vec<Position>> = HashMap::new();
        for RankedText { found, .. } in &page {
            by_room.entry(found.room).or_default().push(found.timeline);
        }
        let mut events = HashMap::new();
        for (room, timelines) in by_room {
            if let Some(room_access) = accessible_rooms.get(&room) {
                events.extend(
                    self.timeline
                        .load_events_at(&room_access.0, &timelines)
                        .await?,
                );
            }
        }
        let mut hits = Vec::with_capacity(page.len());
        for RankedText { rank, found } in page {
            let event = events.get(&found.timeline).cloned();
            let Some((room_access, event)) = accessible_rooms.get(&found.room).zip(event) else {
                continue;
            };
            // The event may have been redacted meanwhile, its sender may have been erased, or it
            // may be a message of an ignored user with the type of a state event.
            let event = room_access.1.redact_if_erased(event, &room_access.0.rules);
            let is_there =
                searchable_text(&event.pdu).is_some() && !room_access.1.hides_event(&event.pdu);
            if is_there && wants_event(filter, &event.pdu) {
                hits.push(SearchHit {
                    room_access: room_access.clone(),
                    event,
                    rank,
                });
            }
        }
        Ok(hits)
    }

    /// Indexes events that are not indexed yet, in at most `turns` batches; returns whether none
    /// are left.
    async fn index_texts(&self, turns: usize) -> Result<bool> {
        let db = &self.db;
        for _ in 0..turns {
            let up_to = db.journal().published_position();
            let mut conn = db.read().await?;
            let done = backfilled_tables::progress(&mut conn, SEARCH_BACKFILL).await?;
            let done = done.map_or(up_to, |progress| progress.done);
            if backfilled_tables::next_events(&mut conn, done, up_to, 1)
                .await?
                .is_empty()
            {
                return Ok(true);
            }
            drop(conn);
            let mut tx = db.write().await?;
            index_batch(&mut tx, up_to).await?;
            tx.commit().await?;
        }
        Ok(false)
    }

    /// Starts the task that indexes texts until the server stops.
    pub(crate) fn start_indexing(&self) {
        drop(self.tasks.spawn(self.clone().index_until_stopped()));
    }

    async fn index_until_stopped(self) {
        let stopping = self.tasks.stopping().clone();
        let mut indexed = Position::ZERO;
        while !stopping.is_cancelled() {
            let published = self.db.journal().published_position();
            if published > indexed {
                match self.index_texts(1).await {
                    Ok(true) => indexed = published,
                    Ok(false) => continue,
                    Err(error) => tracing::warn!(%error, "indexing texts for search failed"),
                }
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(INDEXING_INTERVAL) => {}
            }
        }
    }
}

/// Indexes the next events. They are read in the same write transaction, so that none of them is
/// redacted in between.
async fn index_batch(tx: &mut WriteTx, up_to: Position) -> Result<()> {
    let Some(progress) = backfilled_tables::progress(tx, SEARCH_BACKFILL).await? else {
        return Ok(());
    };
    let events = backfilled_tables::next_events(tx, progress.done, up_to, EVENTS_PER_BATCH).await?;
    let Some(last) = events.last() else {
        return Ok(());
    };
    for event in events.iter().filter(|event| event.timeline.is_some()) {
        let pdu = Pdu::parse(parse_event_id(&event.event_id)?, &event.json).ok();
        if let Some(text) = pdu.as_ref().and_then(searchable_text) {
            text_index::insert(tx, event.position, &text).await?;
        }
    }
    backfilled_tables::set_progress(tx, SEARCH_BACKFILL, last.position).await
}

/// Returns the searchable text of an event in lower case; for an edit, its new text.
fn searchable_text(pdu: &Pdu) -> Option<String> {
    let content: Map<String, Value> = pdu.content_as()?;
    let text = match (&pdu.kind, &pdu.state_key) {
        (TimelineEventType::RoomName, Some(_)) => content.get("name"),
        (TimelineEventType::RoomTopic, Some(_)) => content.get("topic"),
        (_, None) if pdu.is_edit() => content.get("m.new_content")?.get("body"),
        (_, None) => content.get("body"),
        _ => None,
    };
    let text = text?.as_str()?;
    let text = text.get(..text.floor_char_boundary(MAX_INDEXED_BYTES))?;
    let text = text.to_lowercase().replace('\0', " ");
    (!text.trim().is_empty()).then_some(text)
}

/// Splits a search term into distinct words in lower case.
fn split_words(term: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in term.to_lowercase().replace('\0', " ").split_whitespace() {
        if words.len() < MAX_SEARCH_WORDS && !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    words
}

/// Returns the part of a word that is looked up in the index.
fn lookup_prefix(word: &str) -> &str {
    let end = word.char_indices().nth(MAX_LOOKUP_LETTERS);
    end.and_then(|(end, _)| word.get(..end)).unwrap_or(word)
}

fn too_many_searches() -> Error {
    Error::LimitExceeded {
        retry_after: SEARCH_RETRY_AFTER,
    }
}

/// Returns the rank of a text: the share of it that consists of the words of the search.
fn rank(text: &str, words: &[String]) -> f64 {
    let found: usize = words
        .iter()
        .map(|word| text.matches(word.as_str()).count() * word.len())
        .sum();
    let share = |part: usize| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    share(found) / share(text.len().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_at_spaces_without_duplicates() {
        assert_eq!(
            split_words("  Ärger an\0an  DER 咖啡 "),
            ["ärger", "an", "der", "咖啡"]
        );
        assert_eq!(split_words(" "), Vec::<String>::new());
    }

    #[test]
    fn long_words_are_looked_up_by_their_beginning() {
        assert_eq!(lookup_prefix("cake"), "cake");
        assert_eq!(lookup_prefix(&"ä".repeat(900)), "ä".repeat(32));
    }

    #[test]
    fn texts_rank_by_their_share_of_search_words() {
        let words = split_words("cake");

        assert!(rank("cake", &words) > rank("a cake", &words));
        assert!(rank("cake and cake", &words) > rank("cake and pies", &words));
    }
}
