//! Poll strategies that can't miss work (APALIS trap 1). Both keep their waker registered, request one more pass after
//! a signal, and never return `Ready`, so that the strategies after them are polled too.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::backend::ext::poll_strategy::{PollSnapshot, PollStrategy};
use futures::stream::{BoxStream, StreamExt as _, unfold};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

/// Wakes at intervals, for jobs that become due later: there is no signal for those.
pub(super) struct Tick {
    every: Duration,
    next: Pin<Box<Sleep>>,
}

impl Tick {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            next: Box::pin(sleep(every)),
        }
    }
}

impl PollStrategy for Tick {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut came = false;
        while self.next.as_mut().poll(cx).is_ready() {
            came = true;
            let next = Instant::now() + self.every;
            self.next.as_mut().reset(next);
        }
        if came {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Wakes when a job was enqueued. A signal that is sent while no task waits is not lost: the receiver remembers it.
pub(super) struct Signalled(Mutex<BoxStream<'static, ()>>);

impl Signalled {
    pub(super) fn new(signals: watch::Receiver<()>) -> Self {
        let signals = unfold(signals, async |mut signals| {
            signals.changed().await.ok()?;
            Some(((), signals))
        });
        Self(Mutex::new(signals.boxed()))
    }
}

impl PollStrategy for Signalled {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let Ok(signals) = self.0.get_mut() else {
            return Poll::Pending;
        };
        let mut came = false;
        while let Poll::Ready(Some(())) = signals.poll_next_unpin(cx) {
            came = true;
        }
        if came {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn drive(strategy: &mut impl PollStrategy, counter: &Arc<CountingWaker>) -> usize {
        let waker = Waker::from(Arc::clone(counter));
        let before = counter.0.load(Ordering::SeqCst);
        let polled = strategy.poll_drive(&mut Context::from_waker(&waker), &PollSnapshot::default());
        assert!(polled.is_pending(), "strategies after this one would starve");
        counter.0.load(Ordering::SeqCst) - before
    }

    #[tokio::test]
    async fn a_signal_wakes_whether_it_comes_before_during_or_after_a_pass() {
        let counter = Arc::<CountingWaker>::default();
        let sender = watch::Sender::new(());
        let mut strategy = Signalled::new(sender.subscribe());
        sender.send_replace(());
        assert_eq!(drive(&mut strategy, &counter), 1, "came before: one more pass");
        assert_eq!(drive(&mut strategy, &counter), 0, "nothing new");
        sender.send_replace(());
        assert_eq!(
            counter.0.load(Ordering::SeqCst),
            2,
            "came while asleep: the waker was registered"
        );
        assert_eq!(drive(&mut strategy, &counter), 1, "and is drained with one more pass");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_wakes_again_and_again() {
        let counter = Arc::<CountingWaker>::default();
        let mut strategy = Tick::new(Duration::from_secs(1));
        for round in 1..=3 {
            assert_eq!(drive(&mut strategy, &counter), 0);
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert!(counter.0.load(Ordering::SeqCst) >= 2 * round - 1, "the timer woke it");
            assert_eq!(drive(&mut strategy, &counter), 1, "one more pass");
        }
    }
}
