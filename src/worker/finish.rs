//! Finishes a fetch that is in progress when the worker is stopped.
//!
//! apalis stops polling its backend until the running jobs have ended. Until then a fetch or an acknowledgement in
//! progress would keep its transaction open. On SQLite that transaction holds the one writer, which the running jobs
//! wait for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use apalis::prelude::WorkerContext;
use apalis_core::backend::{Backend, BackendConfig, WireFormatBackend};
use futures::future::poll_fn;

use super::payload::Verbatim;

/// How often to check for the stop. Polling starts only after apalis has noticed it, because the wake-up for it belongs
/// to apalis.
const NOTICE: Duration = Duration::from_millis(5);

/// A backend that can also be polled while apalis does not.
pub(super) struct Finishing<B: BackendConfig> {
    shared: Shared<B>,
    config: B::Config,
}

/// The handle for polling the backend outside of its worker.
pub(super) struct Shared<B>(Arc<Mutex<State<B>>>);

struct State<B> {
    backend: B,
    worker: Option<WorkerContext>,
    /// apalis polls again, to close the backend. Two tasks that poll one future would take each other's wake-ups.
    closing: bool,
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Shared<B> {
    /// After the worker was told to stop, polls the operation in progress to its end. A task that this last fetch
    /// returns stays locked; it is released when the worker is retired. Ends when the backend is idle, or is dropped
    /// with the worker.
    pub(super) async fn finish(self) {
        while !self.is_stopping() {
            tokio::time::sleep(NOTICE).await;
        }
        poll_fn(|cx| self.poll_to_a_rest(cx)).await;
    }

    fn is_stopping(&self) -> bool {
        self.lock().worker.as_ref().is_some_and(WorkerContext::is_shutting_down)
    }

    fn poll_to_a_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        let State {
            backend,
            worker,
            closing,
        } = &mut *self.lock();
        let Some(worker) = worker.as_ref().filter(|_| !*closing) else {
            return Poll::Ready(());
        };
        match backend.poll_ready(cx, worker) {
            Poll::Ready(Ok(())) => backend.poll_next(cx, worker).map(drop),
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<B: Backend + BackendConfig<Config: Clone>> Finishing<B> {
    /// Returns the backend for the worker, and the handle for [`Shared::finish`].
    pub(super) fn new(backend: B) -> (Self, Shared<B>) {
        let config = backend.config().clone();
        let state = Arc::new(Mutex::new(State {
            backend,
            worker: None,
            closing: false,
        }));
        (
            Self {
                shared: Shared(Arc::clone(&state)),
                config,
            },
            Shared(state),
        )
    }
}

impl<B: Backend + BackendConfig> Backend for Finishing<B> {
    type Task = B::Task;
    type Error = B::Error;

    fn poll_ready(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), B::Error>> {
        let mut state = self.shared.lock();
        state.worker.get_or_insert_with(|| worker.clone());
        state.backend.poll_ready(cx, worker)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Option<Result<B::Task, B::Error>>> {
        self.shared.lock().backend.poll_next(cx, worker)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), B::Error>> {
        let mut state = self.shared.lock();
        state.closing = true;
        state.backend.poll_close(cx, worker)
    }
}

impl<B: BackendConfig> BackendConfig for Finishing<B> {
    type Args = B::Args;
    type Id = B::Id;
    type Kind = B::Kind;
    type Config = B::Config;
    type Layer = B::Layer;

    fn config(&self) -> &B::Config {
        &self.config
    }

    fn middleware(&mut self, worker: &mut WorkerContext) -> B::Layer {
        self.shared.lock().backend.middleware(worker)
    }
}

impl<B: BackendConfig> WireFormatBackend for Finishing<B> {
    type Codec = Verbatim;
    type Compact = Vec<u8>;

    fn codec(&self) -> &Verbatim {
        &Verbatim
    }
}
