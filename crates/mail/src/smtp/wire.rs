//! The line to the server: commands go out, replies come in, in clear or encrypted.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, crypto};

use super::reply::{Reply, WireError};
use crate::text::cleaned;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Certificates are judged as this machine does.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
    host: ServerName<'static>,
}

impl Tls {
    pub(crate) fn to(host: &str) -> Result<Self, String> {
        let provider = crypto::CryptoProvider::get_default()
            .cloned()
            .unwrap_or_else(|| Arc::new(crypto::aws_lc_rs::default_provider()));
        let verifier =
            rustls_platform_verifier::Verifier::new(Arc::clone(&provider)).map_err(|error| error.to_string())?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self {
            config: Arc::new(config),
            host: ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?,
        })
    }
}

/// Told every line that is said, as it is said, without secrets.
pub(crate) struct Listener {
    lines: UnboundedSender<String>,
    secrets: Vec<String>,
}

impl Listener {
    /// Whatever the server repeats of these is cut out, too.
    pub(crate) fn new(lines: UnboundedSender<String>, secrets: Vec<String>) -> Self {
        Self { lines, secrets }
    }

    fn hear(&self, line: &str) {
        let line = self
            .secrets
            .iter()
            .fold(line.to_owned(), |line, secret| line.replace(secret, "…"));
        // Whoever listened may have left. Servers' words are no commands to a terminal.
        let _ = self.lines.send(cleaned(&line));
    }
}

pub(crate) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    /// Our end of the connection.
    pub(crate) local: SocketAddr,
    pub(crate) is_encrypted: bool,
    listener: Option<Listener>,
}

impl Wire {
    pub(crate) async fn connect(host: &str, port: u16, listener: Option<Listener>) -> Result<Self, WireError> {
        let stream = TcpStream::connect((host, port)).await?;
        // Whole commands are written at once; the kernel need not wait for more.
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let wire = Self {
            stream: BufReader::new(Box::new(stream)),
            local,
            is_encrypted: false,
            listener,
        };
        wire.note(|| format!("(connected to {host}:{port})"));
        Ok(wire)
    }

    /// From here on everything is encrypted. Refuses to go on with what came before in clear: a stranger on the way could
    /// have put it there (CVE-2011-0411).
    pub(crate) async fn encrypt(&mut self, tls: &Tls) -> Result<(), WireError> {
        if !self.stream.buffer().is_empty() {
            return Err(WireError::Unreadable);
        }
        let nothing: Box<dyn Stream> = Box::new(tokio::io::empty());
        let plain = std::mem::replace(&mut self.stream, BufReader::new(nothing)).into_inner();
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let encrypted = connector.connect(tls.host.clone(), plain).await?;
        self.stream = BufReader::new(Box::new(encrypted));
        self.is_encrypted = true;
        self.note(|| "(encrypted from here on)".to_owned());
        Ok(())
    }

    /// Says a command, or some: they end in CRLF.
    pub(crate) async fn say(&mut self, commands: &str) -> Result<(), WireError> {
        if let Some(listener) = &self.listener {
            commands.lines().for_each(|line| listener.hear(&format!("> {line}")));
        }
        self.write(commands.as_bytes()).await
    }

    /// Says what nobody may read.
    pub(crate) async fn say_in_secret(&mut self, command: &str, shown: &str) -> Result<(), WireError> {
        self.note(|| format!("> {shown}"));
        self.write(command.as_bytes()).await
    }

    /// Writes what is too much to be shown.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await?;
        Ok(stream.flush().await?)
    }

    /// The next reply, whatever it says.
    pub(crate) async fn hear(&mut self) -> Result<Reply, WireError> {
        let reply = Reply::read(&mut self.stream).await?;
        if let Some(listener) = &self.listener {
            let last = reply.lines.len().saturating_sub(1);
            for (i, line) in reply.lines.iter().enumerate() {
                let separator = if i == last { ' ' } else { '-' };
                listener.hear(format!("< {}{separator}{line}", reply.code).trim_end());
            }
        }
        Ok(reply)
    }

    pub(crate) async fn ask(&mut self, command: &str) -> Result<Reply, WireError> {
        self.say(command).await?;
        self.hear().await
    }

    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(listener) = &self.listener {
            listener.hear(&line());
        }
    }
}
