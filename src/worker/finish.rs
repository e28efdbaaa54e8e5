//! A fetch that is under way when the worker is told to stop is finished, not frozen.
//!
//! apalis stops polling its backend until the running jobs have ended. A fetch or an acknowledgement in between keeps
//! its transaction open meanwhile, and on SQLite that is the one writer, for which the very jobs wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use apalis::prelude::WorkerContext;
use apalis_core::backend::{Backend, BackendConfig, WireFormatBackend};
use futures::future::poll_fn;

use super::payload::Verbatim;

/// How soon after the stop the driving begins. Not before apalis has noticed it: the wake-up for that is apalis's own.
const NOTICE: Duration = Duration::from_millis(5);

/// A backend that something else can poll while apalis does not.
pub(super) struct Finishing<B: BackendConfig> {
    shared: Shared<B>,
    config: B::Config,
}

/// The backend, seen from beside its worker.
pub(super) struct Shared<B>(Arc<Mutex<State<B>>>);

struct State<B> {
    backend: B,
    worker: Option<WorkerContext>,
    /// apalis polls it again, to close it; two who poll one future would take each other's wake-ups.
    closing: bool,
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Shared<B> {
    /// Once the worker has been told to stop, polls what is under way to its end. A task that a last fetch brings is
    /// left locked; it is given back with the worker's name. Ends by itself or is dropped with the worker.
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
    /// The backend for the worker, and for whoever finishes what it leaves.
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
