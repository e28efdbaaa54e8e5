//! Permits to send: few mails are under way at once, and one that waits long for the server does not count among them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many mails are under way at once; further ones wait. Providers dislike many connections from one client.
pub const MAX_CONNECTIONS: usize = 4;
/// How many more may wait for an answer that is slow to come. With more than that the server is slow to everybody, and
/// more connections would make it slower.
const MAX_SLOW: usize = 28;

/// Gives permits, in the order that they were asked for.
#[derive(Debug)]
pub(crate) struct Permits {
    lively: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

/// The right to be under way, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    /// `None` once it has stepped aside.
    lively: Option<OwnedSemaphorePermit>,
    slow: Option<OwnedSemaphorePermit>,
    lane: Arc<Semaphore>,
}

impl Default for Permits {
    fn default() -> Self {
        Self {
            lively: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            slow: Arc::new(Semaphore::new(MAX_SLOW)),
        }
    }
}

impl Permits {
    /// Waits until one is free.
    pub(crate) async fn next(&self) -> Permit {
        Permit {
            // Never closed, so it is always given.
            lively: Arc::clone(&self.lively).acquire_owned().await.ok(),
            slow: None,
            lane: Arc::clone(&self.slow),
        }
    }
}

impl Permit {
    /// The server takes its time: lets another mail have its permit, unless too many wait like this already.
    pub(crate) fn step_aside(&mut self) {
        if self.slow.is_none()
            && let Ok(place) = Arc::clone(&self.lane).try_acquire_owned()
        {
            self.slow = Some(place);
            self.lively = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_long_lets_others_pass_until_too_many_do() {
        let permits = Permits::default();
        let mut waiting = Vec::new();
        for _ in 0..MAX_SLOW {
            let mut permit = permits.next().await;
            permit.step_aside();
            permit.step_aside();
            waiting.push(permit);
        }
        for _ in 0..MAX_CONNECTIONS {
            let mut permit = permits.next().await;
            permit.step_aside();
            waiting.push(permit);
        }
        assert_eq!(
            (permits.lively.available_permits(), permits.slow.available_permits()),
            (0, 0)
        );
        waiting.clear();
        assert_eq!(permits.lively.available_permits(), MAX_CONNECTIONS);
        assert_eq!(permits.slow.available_permits(), MAX_SLOW);
    }
}
