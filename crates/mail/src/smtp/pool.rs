//! The connections that wait for the next mail, and how many mails the server takes over each.

use std::mem;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::connection::Connection;

/// How long a connection is kept for the next mail.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How long a server's limit is believed in. It may have changed, and to find out costs one mail a second greeting.
const BELIEVED: Duration = Duration::from_secs(3600);
/// A connection that rested longer may have ended for that.
const BUSY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Parked>,
    limit: Option<Limit>,
    /// Whether a task is there that closes connections which nobody uses.
    is_watched: bool,
}

struct Parked {
    connection: Connection,
    since: Instant,
}

/// Mails that the server takes over one connection.
#[derive(Clone, Copy)]
struct Limit {
    mails: usize,
    until: Instant,
    /// Whether two connections ended after the same number: one may have for any reason, when the server starts anew.
    is_sure: bool,
}

/// What a kept connection had behind it when it was taken up again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    taken: usize,
    rested: Duration,
}

impl Idle {
    fn is_used_up(&self, connection: &Connection) -> bool {
        let learnt = self
            .limit
            .filter(|limit| limit.is_sure && Instant::now() < limit.until)
            .map(|limit| limit.mails);
        [learnt, connection.offers.mails]
            .into_iter()
            .flatten()
            .any(|limit| connection.taken >= limit)
    }
}

impl Pool {
    pub(crate) async fn newest(&self) -> Option<(Connection, Past)> {
        let Parked { connection, since } = self.idle.lock().await.connections.pop()?;
        let past = Past {
            taken: connection.taken,
            rested: since.elapsed(),
        };
        Some((connection, past))
    }

    /// Lets go of connections that waited longer than one which had died, and are no better.
    pub(crate) async fn clear(&self) {
        self.idle.lock().await.connections.clear();
    }

    /// Keeps a connection, unless the server would end it at the next mail: then we do.
    pub(crate) async fn park(self: &Arc<Self>, mut connection: Connection) {
        let mut idle = self.idle.lock().await;
        if idle.is_used_up(&connection) {
            tokio::spawn(connection.quit());
            return;
        }
        connection.is_kept = true;
        idle.connections.push(Parked {
            connection,
            since: Instant::now(),
        });
        if !mem::replace(&mut idle.is_watched, true) {
            tokio::spawn(close_the_unused(Arc::downgrade(self)));
        }
    }

    /// A mail that was refused over a kept connection was taken over a fresh one.
    pub(crate) async fn learn(&self, from: Past) {
        if from.taken == 0 || from.rested > BUSY {
            return;
        }
        let now = Instant::now();
        let mut idle = self.idle.lock().await;
        let known = idle.limit.filter(|limit| now < limit.until);
        if known.is_some_and(|limit| limit.is_sure && limit.mails <= from.taken) {
            return;
        }
        let is_sure = known.is_some_and(|limit| limit.mails == from.taken);
        idle.limit = Some(Limit {
            mails: from.taken,
            until: now + BELIEVED,
            is_sure,
        });
        if !is_sure {
            return;
        }
        let (used_up, good) = mem::take(&mut idle.connections)
            .into_iter()
            .partition(|parked| idle.is_used_up(&parked.connection));
        idle.connections = good;
        drop(idle);
        tokio::spawn(quit(used_up));
        tracing::info!(
            "the mail server ends a connection after {} mails; for an hour each is closed before that",
            from.taken
        );
    }

    /// Says good-bye on all.
    pub(crate) async fn close(&self) {
        let idle = mem::take(&mut self.idle.lock().await.connections);
        quit(idle).await;
    }
}

/// Ends with the last connection, or with the pool.
async fn close_the_unused(pool: Weak<Pool>) {
    loop {
        sleep(IDLE_LIMIT).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle.lock().await;
        let (unused, used) = mem::take(&mut idle.connections)
            .into_iter()
            .partition(|parked: &Parked| parked.since.elapsed() >= IDLE_LIMIT);
        idle.connections = used;
        idle.is_watched = !idle.connections.is_empty();
        let is_done = !idle.is_watched;
        drop(idle);
        quit(unused).await;
        if is_done {
            return;
        }
    }
}

async fn quit(parked: Vec<Parked>) {
    for parked in parked {
        parked.connection.quit().await;
    }
}
