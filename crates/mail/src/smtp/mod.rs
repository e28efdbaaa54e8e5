//! SMTP: a few connections that are kept open, and one conversation per mail.
//!
//! It is spoken here and not by lettre, whose source (0.11.23) shows why: greeting and EHLO are one call with one time limit,
//! and no call has a limit of its own; its errors don't tell whether the login, the sender or the recipient was refused;
//! three digits alone are no reply to it, a blank line in the answer to EHLO makes it panic, and text that is not UTF-8 ends
//! the connection; a send that is given up half-way puts its connection back into the pool, where the next mail reads the
//! answers to the last one and may go to its recipient.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use lettre::Address;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

mod connection;
mod permits;
mod pool;
mod reply;
mod server;
mod wire;

use self::connection::{Broken, Connection, Envelope};
use self::permits::Permit;
use self::pool::Pool;
use self::server::{Hello, Server};
use super::classify::{Age, Outcome};
use super::failure::{Cause, Failure, SendError, Step, masked};

pub use self::permits::{MAX_CONNECTIONS, Permit as MailPermit};
pub(crate) use self::{
    permits::Permits,
    reply::{Reply, is_enhanced_code},
};

/// How long a check may take, for which somebody waits.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Whether a server's address can be used. The error never repeats it.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    Server::from_url(url).map(drop)
}

/// Whether a server can be greeted with this name.
pub(crate) fn is_hello(name: &str) -> bool {
    Hello::parse(name).is_some()
}

pub(crate) struct Smtp {
    server: Server,
    pool: Arc<Pool>,
    rate: Option<DefaultDirectRateLimiter>,
}

impl Smtp {
    /// `smtps://user:password@host:465`, `smtp://user:password@host:587?tls=required`, `smtp://localhost:25`; the path, if
    /// any, is the name for EHLO. The error never repeats the URL.
    pub(crate) fn from_url(url: &str, sender: &Address) -> Result<Self, String> {
        let mut server = Server::from_url(url)?;
        server.warn_of_a_password_in_clear();
        if server.hello == Hello::Literal {
            server.hello = Hello::for_domain(sender.domain());
        }
        Ok(Self {
            server,
            pool: Arc::default(),
            rate: None,
        })
    }

    /// Sends so many mails a second at most, spread evenly.
    pub(crate) fn limit(&mut self, mails_per_second: NonZeroU32) {
        let evenly = Quota::per_second(mails_per_second).allow_burst(NonZeroU32::MIN);
        self.rate = Some(RateLimiter::direct(evenly));
    }

    /// Calls itself this in EHLO.
    pub(crate) fn hello_as(&mut self, name: &str) -> Result<(), ()> {
        self.server.hello = Hello::parse(name).ok_or(())?;
        Ok(())
    }

    /// Sends one mail and returns the server's reply.
    pub(crate) async fn send(
        &self,
        permit: &mut Permit,
        from: &Address,
        to: &Address,
        raw: &[u8],
    ) -> Result<String, SendError> {
        let mail = Envelope { from, to, raw };
        if let Some(rate) = &self.rate {
            rate.until_ready().await;
        }
        let mut suspect = None;
        if let Some((kept, past)) = self.pool.newest().await {
            match self.deliver(kept, mail, permit).await {
                Ok(reply) => return Ok(reply),
                // What a server has against a used connection it need not have against the mail: once more, on a fresh one.
                Err(failure) if failure.outcome(Age::Used) == Outcome::RetryOnFresh => {
                    if !matches!(failure.cause, Cause::Refused(_)) {
                        self.pool.clear().await;
                    }
                    suspect = Some(past);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        // Opening is rare, and its future is larger than all else: boxed, it isn't moved about with every mail.
        let fresh = Box::pin(self.server.open(permit, None)).await?;
        let reply = self.deliver(fresh, mail, permit).await?;
        if let Some(past) = suspect {
            self.pool.learn(past).await;
        }
        Ok(reply)
    }

    /// One mail over this connection, which is kept afterwards if it can be. Dropped without QUIT if this future is dropped
    /// or the conversation breaks off: see the module's comment.
    async fn deliver(
        &self,
        mut connection: Connection,
        mail: Envelope<'_>,
        permit: &mut Permit,
    ) -> Result<String, Failure> {
        let age = if connection.is_kept { Age::Used } else { Age::Fresh };
        match connection.converse(mail, permit).await {
            Ok(reply) => {
                self.pool.park(connection).await;
                Ok(masked(&reply.on_one_line()))
            }
            Err(Broken { failure, is_usable }) => {
                if failure.outcome(age) == Outcome::RetryOnFresh {
                    tokio::spawn(connection.quit());
                } else if is_usable {
                    self.pool.park(connection).await;
                }
                Err(failure)
            }
        }
    }

    /// Sends one mail over a connection of its own and shows every line of it.
    pub(crate) async fn send_shown(
        &self,
        permit: &mut Permit,
        from: &Address,
        to: &Address,
        raw: &[u8],
        lines: UnboundedSender<String>,
    ) -> Result<String, SendError> {
        let mut connection = self.server.open(permit, Some(lines)).await?;
        let sent = connection.converse(Envelope { from, to, raw }, permit).await;
        connection.quit().await;
        match sent {
            Ok(reply) => Ok(masked(&reply.on_one_line())),
            Err(broken) => Err(broken.failure.into()),
        }
    }

    /// Connects and logs in, as far as the server can be tried without sending anything.
    pub(crate) async fn check(&self, permit: &mut Permit) -> Result<(), SendError> {
        let trying = in_brief(self.server.open(permit, None));
        self.pool.park(trying.await?).await;
        Ok(())
    }

    /// Names a sender, as far as that can be tried without naming a recipient.
    pub(crate) async fn check_sender(&self, permit: &mut Permit, from: &Address) -> Result<(), SendError> {
        let trying = in_brief(async {
            let mut connection = self.server.open(permit, None).await?;
            connection.try_sender(from, permit).await?;
            Ok(connection)
        });
        // The next to use it clears what was begun.
        self.pool.park(trying.await?).await;
        Ok(())
    }

    /// Says good-bye on the connections that wait for mail.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

async fn in_brief<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(CHECK_LIMIT, work)
        .await
        .unwrap_or_else(|_| Err(Failure::new(Step::Connect, Cause::TimedOut(CHECK_LIMIT))))
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Smtp({}:{})", self.server.host, self.server.port)
    }
}
