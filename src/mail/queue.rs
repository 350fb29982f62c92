//! The queue of messages that wait for the SMTP server.
//!
//! It is in memory: the messages contain tokens, which are stored only as hashes. A message that is lost when the server
//! stops can be requested again.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use super::{
    MailMessage,
    smtp::{SmtpClient, SmtpFailure},
};
use crate::{
    clock::Clock,
    config::Config,
    error::{Error, Result},
    tasks::Tasks,
};

/// The largest number of messages in the queue. Beyond it, requests that need one are refused.
const MAX_QUEUED_MESSAGES: usize = 1_000;
/// The number of simultaneous connections to the SMTP server.
const MAX_SMTP_CONNECTIONS: usize = 4;
/// The first pause after a failure. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The number of attempts for one message: the last one is about an hour after the first.
const MAX_ATTEMPTS: u32 = 13;
/// The time that a stopping server leaves a message that is being sent.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends messages in the background.
#[derive(Clone)]
pub struct MailQueue {
    /// `None` if no SMTP server is configured.
    sender: Option<Arc<QueueSender>>,
}

/// A place in the queue, which is free again when the message is sent or this is dropped.
pub struct QueuePlace {
    sender: Arc<QueueSender>,
    permit: OwnedSemaphorePermit,
}

struct QueueSender {
    client: SmtpClient,
    clock: Clock,
    tasks: Tasks,
    /// One permit for each message in the queue.
    places: Arc<Semaphore>,
    connections: Semaphore,
}

impl MailQueue {
    /// Sets up the queue. Without an SMTP server in the configuration it accepts no messages.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub fn new(config: &Config, clock: &Clock, tasks: &Tasks) -> Result<Self> {
        let sender = SmtpClient::from_config(config)?.map(|client| {
            Arc::new(QueueSender {
                client,
                clock: clock.clone(),
                tasks: tasks.clone(),
                places: Arc::new(Semaphore::new(MAX_QUEUED_MESSAGES)),
                connections: Semaphore::new(MAX_SMTP_CONNECTIONS),
            })
        });
        Ok(Self { sender })
    }

    /// Returns whether an SMTP server is configured.
    pub fn is_enabled(&self) -> bool {
        self.sender.is_some()
    }

    /// Returns a place in the queue for one message.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when the queue is full, or no SMTP server is configured.
    pub fn reserve_place(&self) -> Result<QueuePlace> {
        let Some(sender) = &self.sender else {
            let text = "this server sends no e-mail".to_owned();
            return Err(Error::Unavailable(text));
        };
        let Ok(permit) = sender.places.clone().try_acquire_owned() else {
            tracing::warn!("an e-mail was not sent, because too many wait for the SMTP server");
            let text = "too many e-mails wait to be sent".to_owned();
            return Err(Error::Unavailable(text));
        };
        Ok(QueuePlace {
            sender: sender.clone(),
            permit,
        })
    }
}

impl QueuePlace {
    /// Adds a message to the queue.
    pub fn send(self, message: MailMessage) {
        let Self { sender, permit } = self;
        let tasks = sender.tasks.clone();
        drop(tasks.spawn(sender.deliver(message, permit)));
    }
}

impl QueueSender {
    /// Sends a message, again and again until the server accepts it.
    async fn deliver(self: Arc<Self>, message: MailMessage, _permit: OwnedSemaphorePermit) {
        let stopping = self.tasks.stopping().clone();
        let mut pause = FIRST_PAUSE;
        for _ in 0..MAX_ATTEMPTS {
            let sent = tokio::select! {
                sent = self.send_once(&message) => sent,
                () = async { stopping.cancelled().await; sleep(STOP_TIMEOUT).await } => break,
            };
            match sent {
                Ok(()) => return,
                Err(SmtpFailure::Permanent(error)) => {
                    tracing::warn!(error, "the SMTP server refused an e-mail");
                    return;
                }
                Err(SmtpFailure::Temporary(error)) => {
                    tracing::warn!(
                        error,
                        "an e-mail could not be sent, and is sent again later"
                    );
                }
            }
            tokio::select! {
                () = sleep(pause) => pause = pause.saturating_mul(2),
                () = stopping.cancelled() => break,
            }
        }
        tracing::warn!("an e-mail was not sent");
    }

    async fn send_once(&self, message: &MailMessage) -> Result<(), SmtpFailure> {
        // The semaphore is never closed.
        let _connection = self.connections.acquire().await.ok();
        self.client.send(message, self.clock.now_ms()).await
    }
}
