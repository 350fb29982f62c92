//! Sending digests of unread messages by e-mail.

use std::{fmt::Write, sync::Arc, time::Duration};

use ruma::events::StateEventType;
use tokio::time::sleep;

use super::{PushSender, email_digest::EmailDigest, unread_total::UnreadRoom};
use crate::{
    error::Result,
    mail::{EmailAddress, MailMessage},
    numbers::UserNum,
    rooms::Room,
};

/// The pause after a digest could not be written or put into the queue.
const RETRY_INTERVAL: Duration = Duration::from_mins(1);
/// The largest number of rooms that a digest names.
const MAX_LISTED_ROOMS: usize = 20;
/// The largest number of letters of a room's name that a digest shows.
const MAX_NAME_LETTERS: usize = 80;
/// The path of the page on which users unsubscribe.
const UNSUBSCRIBE_PATH: &str = "/_parlour/email/unsubscribe";

impl PushSender {
    /// Starts the task that waits until a digest is due.
    pub(super) fn start_waiting(self: &Arc<Self>, digest: Arc<EmailDigest>) {
        drop(self.tasks.spawn(self.clone().wait_for_digest(digest)));
    }

    /// Waits for the digests that were due after the last stop.
    pub(super) fn resume_digests(self: &Arc<Self>) {
        for recipient in self.recipients.all() {
            let waiting = recipient.digests.iter().filter(|digest| digest.resume());
            waiting.for_each(|digest| self.start_waiting(digest.clone()));
        }
    }

    async fn wait_for_digest(self: Arc<Self>, digest: Arc<EmailDigest>) {
        let stopping = self.tasks.stopping().clone();
        while let Some(due_ts) = digest.due_ts() {
            tokio::select! {
                () = self.clock.sleep_until(due_ts) => {}
                () = stopping.cancelled() => return,
            }
            // It may have been removed meanwhile.
            if !digest.begin_sending() {
                return;
            }
            match self.send_digest(&digest).await {
                Ok(sent_ts) => {
                    digest.finish(sent_ts, self.clock.now_ms());
                    self.progress_changed.notify_one();
                }
                Err(error) => {
                    tracing::warn!(%error, "a digest of unread messages is delayed");
                    tokio::select! {
                        () = sleep(RETRY_INTERVAL) => {}
                        () = stopping.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Puts a digest into the queue of e-mails, and returns the time. Returns `None` if everything was read.
    async fn send_digest(&self, digest: &EmailDigest) -> Result<Option<i64>> {
        // The SMTP server may have been removed from the configuration.
        if !self.mail.is_enabled() {
            return Ok(None);
        }
        let rooms = self.unread_rooms(digest.user).await?;
        if rooms.is_empty() {
            return Ok(None);
        }
        let place = self.mail.reserve_place()?;
        let to = EmailAddress::parse(&digest.pushkey)?;
        let subscriptions = &self.users.pushers;
        let token = subscriptions
            .issue_unsubscribe_token(digest.user, &digest.app_id, &digest.pushkey)
            .await?;
        let unsubscribe_url = format!("{}{UNSUBSCRIBE_PATH}?token={token}", self.public_url);
        place.send(MailMessage {
            to,
            subject: format!("Unread messages on {}", self.server_name),
            text: self.digest_text(digest.user, &rooms, &unsubscribe_url),
            unsubscribe_url: Some(unsubscribe_url),
        });
        Ok(Some(self.clock.now_ms()))
    }

    /// Returns the text of a digest. It has no message: e-mail can be read on its way.
    fn digest_text(&self, user: UserNum, rooms: &[UnreadRoom], unsubscribe_url: &str) -> String {
        let mut text = format!("There are unread messages on {}:\n\n", self.server_name);
        for UnreadRoom { room, count } in rooms.iter().take(MAX_LISTED_ROOMS) {
            let name = room_name(room, user);
            let messages = if *count == 1 { "message" } else { "messages" };
            // Writing to a text cannot fail.
            let _ = writeln!(text, "- {name}: {count} {messages}");
        }
        if rooms.len() > MAX_LISTED_ROOMS {
            let _ = writeln!(text, "- and {} more rooms", rooms.len() - MAX_LISTED_ROOMS);
        }
        let _ = write!(
            text,
            "\nRead them at {}\n\nTo get no more messages like this, open\n{unsubscribe_url}\n",
            self.public_url
        );
        text
    }
}

/// Returns the name of a room in one line: the one that it has, or those of its other members.
fn room_name(room: &Room, user: UserNum) -> String {
    let view = room.view();
    let named = view.state.get(&StateEventType::RoomName, "");
    let name = named.and_then(|event| event.content_str("name"));
    let name = name.filter(|name| !name.trim().is_empty());
    let name = name.unwrap_or_else(|| {
        let members = view.local_members.iter();
        let others = members.filter(|(member, _)| **member != user);
        let some: Vec<&str> = others.take(3).map(|(_, id)| id.localpart()).collect();
        if some.is_empty() {
            "a room without a name".to_owned()
        } else {
            some.join(", ")
        }
    });
    let is_plain = |letter: &char| !letter.is_control();
    name.chars()
        .filter(is_plain)
        .take(MAX_NAME_LETTERS)
        .collect()
}
