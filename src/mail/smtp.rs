//! The connection to the SMTP server.

use std::time::{Duration, UNIX_EPOCH};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};

use super::MailMessage;
use crate::{
    config::{Config, MailSection, SmtpEncryption},
    error::{Error, Result},
};

/// The time limit for the response to one SMTP command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The headers that mark messages from programs, so that nobody's automatic reply is sent to them.
const AUTOMATIC_HEADERS: [(&str, &str); 2] = [
    ("Auto-Submitted", "auto-generated"),
    ("X-Auto-Response-Suppress", "All"),
];

/// Sends messages to the SMTP server.
pub(super) struct SmtpClient {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

/// The reason why a message was not sent.
pub(super) enum SmtpFailure {
    /// The server may accept the message later.
    Temporary(String),
    /// The server will never accept the message.
    Permanent(String),
}

impl SmtpClient {
    /// Returns the client for the configured server, or `None` if there is none.
    pub(super) fn from_config(config: &Config) -> Result<Option<Self>> {
        let mail = &config.mail;
        let (Some(host), Some(from)) = (&mail.smtp_host, &mail.from) else {
            return Ok(None);
        };
        let name = config.server.name.host().to_owned();
        let address: Address = from
            .parse()
            .map_err(|error| Error::internal("use the e-mail address mail.from", error))?;
        let from = Mailbox::new(Some(name.clone()), address);
        let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(mail.smtp_port)
            .hello_name(ClientId::Domain(name))
            .timeout(Some(COMMAND_TIMEOUT))
            .tls(tls_for(mail, host)?);
        if let (Some(username), Some(password)) = (&mail.smtp_username, &mail.smtp_password) {
            let password = password.expose().to_owned();
            transport = transport.credentials(Credentials::new(username.clone(), password));
        }
        Ok(Some(Self {
            transport: transport.build(),
            from,
        }))
    }

    /// Sends a message.
    pub(super) async fn send(&self, message: &MailMessage, now_ms: i64) -> Result<(), SmtpFailure> {
        let message = self
            .complete(message, now_ms)
            .map_err(|error| SmtpFailure::Permanent(error.to_string()))?;
        let sent = self.transport.send(message).await;
        sent.map(drop).map_err(|error| {
            let text = error.to_string();
            if error.is_permanent() {
                SmtpFailure::Permanent(text)
            } else {
                SmtpFailure::Temporary(text)
            }
        })
    }

    /// Adds the headers to a message.
    fn complete(&self, message: &MailMessage, now_ms: i64) -> Result<Message> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::internal("write an e-mail", error)
        };
        let to = message.to.as_str().parse::<Address>();
        let to = to.map_err(|error| failed(error.into()))?;
        let since_epoch = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(&message.subject)
            .date(UNIX_EPOCH + since_epoch)
            .message_id(None)
            .header(ContentType::TEXT_PLAIN);
        for (name, value) in AUTOMATIC_HEADERS {
            builder = builder.raw_header(header(name, value.to_owned()));
        }
        if let Some(url) = &message.unsubscribe_url {
            // See RFC 8058: the mail program shows a button that sends a POST request.
            let one_click = "List-Unsubscribe=One-Click".to_owned();
            builder = builder
                .raw_header(header("List-Unsubscribe", format!("<{url}>")))
                .raw_header(header("List-Unsubscribe-Post", one_click));
        }
        builder
            .body(message.text.clone())
            .map_err(|error| failed(error.into()))
    }
}

fn header(name: &'static str, value: String) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
}

fn tls_for(mail: &MailSection, host: &str) -> Result<Tls> {
    if mail.smtp_encryption == SmtpEncryption::None {
        return Ok(Tls::None);
    }
    let parameters = TlsParameters::builder(host.to_owned())
        .certificate_store(CertificateStore::Default)
        .build_rustls()
        .map_err(|error| Error::internal("set up TLS for e-mail", error))?;
    Ok(match mail.smtp_encryption {
        SmtpEncryption::Tls => Tls::Wrapper(parameters),
        SmtpEncryption::StartTls | SmtpEncryption::None => Tls::Required(parameters),
    })
}
