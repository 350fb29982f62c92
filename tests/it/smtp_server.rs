//! An SMTP server in the test process, which receives the e-mails of the server.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use parlour::config::{Config, SmtpEncryption};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// The time within which an expected e-mail arrives.
const MAIL_TIMEOUT: Duration = Duration::from_secs(30);

/// The SMTP server.
pub(crate) struct SmtpServer {
    address: SocketAddr,
    replies: Arc<Mutex<VecDeque<&'static str>>>,
    received: mpsc::UnboundedReceiver<ReceivedMail>,
}

/// An e-mail that arrived.
#[derive(Debug)]
pub(crate) struct ReceivedMail {
    /// The recipient in the envelope.
    pub(crate) to: String,
    pub(crate) headers: String,
    pub(crate) text: String,
    /// The name and password of the sender, in the form of `AUTH PLAIN`, or an empty text.
    pub(crate) login: String,
}

/// The part of the server that each connection has.
#[derive(Clone)]
struct SmtpSession {
    replies: Arc<Mutex<VecDeque<&'static str>>>,
    received: mpsc::UnboundedSender<ReceivedMail>,
    security: SmtpSecurity,
}

/// How the connections are secured.
#[derive(Clone)]
pub(crate) enum SmtpSecurity {
    Plain,
    /// From the beginning.
    Tls(TlsAcceptor),
    /// Once the client asks for it. Before that, no e-mail is accepted.
    StartTls(TlsAcceptor),
}

impl SmtpServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(SmtpSecurity::Plain).await
    }

    #[expect(clippy::disallowed_methods, reason = "the tasks end with the test")]
    pub(crate) async fn start_with(security: SmtpSecurity) -> Self {
        let replies = Arc::<Mutex<VecDeque<&'static str>>>::default();
        let (sender, received) = mpsc::unbounded_channel();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let session = SmtpSession {
            replies: replies.clone(),
            received: sender,
            security,
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(session.clone().serve(stream));
            }
        });
        Self {
            address,
            replies,
            received,
        }
    }

    /// Returns the port on the loopback address.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Makes a server send its e-mail here.
    pub(crate) fn receive_from(&self, config: &mut Config) {
        config.mail.smtp_host = Some(self.address.ip().to_string());
        config.mail.smtp_port = self.address.port();
        config.mail.smtp_encryption = SmtpEncryption::None;
        config.mail.from = Some("noreply@example.org".to_owned());
    }

    /// Makes the server answer the next e-mail with this line.
    pub(crate) fn replies_next(&self, reply: &'static str) {
        let mut replies = self.replies.lock().expect("not poisoned");
        replies.push_back(reply);
    }

    /// Returns the next e-mail that was accepted.
    pub(crate) async fn next(&mut self) -> ReceivedMail {
        let next = timeout(MAIL_TIMEOUT, self.received.recv()).await;
        next.expect("an e-mail arrives").expect("the server runs")
    }

    /// Returns whether an e-mail has arrived that no test has looked at.
    pub(crate) fn has_more(&self) -> bool {
        !self.received.is_empty()
    }
}

impl SmtpSession {
    async fn serve(self, stream: TcpStream) {
        match self.security.clone() {
            SmtpSecurity::Plain => {
                let mut stream = BufReader::new(stream);
                reply(&mut stream, "220 test").await;
                self.converse(stream).await;
            }
            SmtpSecurity::Tls(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let mut stream = BufReader::new(stream);
                    reply(&mut stream, "220 test").await;
                    self.converse(stream).await;
                }
            }
            SmtpSecurity::StartTls(acceptor) => {
                let stream = wait_for_start_tls(BufReader::new(stream)).await;
                if let Ok(stream) = acceptor.accept(stream).await {
                    self.converse(BufReader::new(stream)).await;
                }
            }
        }
    }

    /// Receives e-mails after the greeting.
    async fn converse(&self, mut stream: impl AsyncBufRead + AsyncWrite + Unpin) {
        let (mut to, mut login) = (String::new(), String::new());
        while let Some(line) = read_line(&mut stream).await {
            let command = line.split([' ', ':']).next().unwrap_or_default();
            match command.to_ascii_uppercase().as_str() {
                "EHLO" => reply(&mut stream, "250-test\r\n250 AUTH PLAIN").await,
                "AUTH" => {
                    login = line;
                    reply(&mut stream, "235 welcome").await;
                }
                "RCPT" => {
                    let address = line.split(['<', '>']).nth(1);
                    to = address.unwrap_or_default().to_owned();
                    reply(&mut stream, "250 fine").await;
                }
                "DATA" => {
                    reply(&mut stream, "354 go on").await;
                    let mail = read_mail(&mut stream, &to, &login).await;
                    let answer = self.accept(mail);
                    reply(&mut stream, answer).await;
                }
                "QUIT" => return reply(&mut stream, "221 bye").await,
                _ => reply(&mut stream, "250 fine").await,
            }
        }
    }

    fn accept(&self, mail: ReceivedMail) -> &'static str {
        let next = self.replies.lock().expect("not poisoned").pop_front();
        if next.is_none() {
            // The test may be over.
            let _ = self.received.send(mail);
        }
        next.unwrap_or("250 accepted")
    }
}

/// Refuses everything until the client asks for TLS.
async fn wait_for_start_tls(mut stream: BufReader<TcpStream>) -> TcpStream {
    reply(&mut stream, "220 test").await;
    while let Some(line) = read_line(&mut stream).await {
        match line.split(' ').next().unwrap_or_default() {
            "EHLO" => reply(&mut stream, "250-test\r\n250 STARTTLS").await,
            "STARTTLS" => {
                reply(&mut stream, "220 go on").await;
                break;
            }
            _ => reply(&mut stream, "530 TLS is required").await,
        }
    }
    stream.into_inner()
}

async fn reply(stream: &mut (impl AsyncWrite + Unpin), line: &str) {
    // The client may have gone.
    let _ = stream.write_all(format!("{line}\r\n").as_bytes()).await;
    let _ = stream.flush().await;
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    let count = stream.read_line(&mut line).await.ok()?;
    (count > 0).then(|| line.trim_end().to_owned())
}

async fn read_mail(
    stream: &mut (impl AsyncBufRead + Unpin),
    to: &str,
    login: &str,
) -> ReceivedMail {
    let mut whole = String::new();
    while let Some(line) = read_line(stream).await {
        if line == "." {
            break;
        }
        whole.push_str(&line);
        whole.push('\n');
    }
    let (headers, body) = whole.split_once("\n\n").unwrap_or_default();
    // Lines that end with a dot or an equals sign may be encoded as quoted-printable.
    let is_encoded = headers.contains("quoted-printable");
    let text = if is_encoded {
        body.replace("=\n", "").replace("=3D", "=")
    } else {
        body.to_owned()
    };
    ReceivedMail {
        to: to.to_owned(),
        headers: headers.to_owned(),
        text,
        login: login.to_owned(),
    }
}

impl ReceivedMail {
    /// Returns the path of the link in the text.
    #[track_caller]
    pub(crate) fn link_path(&self) -> String {
        let mut lines = self.text.lines();
        let link = lines.find(|line| line.starts_with("http"));
        let link = link.expect("the e-mail has a link");
        let (_, path) = link.split_once("/_parlour/").expect("a link to the server");
        format!("/_parlour/{path}")
    }

    /// Returns whether the text has a link to the page of this server.
    pub(crate) fn has_link(&self) -> bool {
        self.text.contains("/_parlour/")
    }
}
