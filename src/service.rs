//! The composition root: a running usher, put together from its listeners and workers.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::app::App;
use crate::config::Environment;
use crate::names::named;
use crate::ops::{CatalogWatch, Scrape};
use crate::problem::Problem;
use crate::server::{Limits, Server, connections_within_open_files};
use crate::shutdown::Stopping;
use crate::worker::{Concurrency, Workers};
use crate::{api, openapi, ops, ui, webhooks};

named! {
    /// What a process does.
    Role("role") {
        /// Serves the API and the webhooks.
        Api = "api",
        /// Runs the jobs.
        Worker = "worker",
        /// Both.
        All = "all",
    }
}

/// A running usher.
pub struct Service {
    app: App,
    public: Option<Server>,
    private: Server,
    workers: Option<Workers>,
    stopping: CancellationToken,
}

impl Service {
    /// Starts the listeners and the workers that the role asks for. The schema must be in place.
    ///
    /// # Errors
    /// When an address is taken or a secret can't be used.
    pub async fn start(app: App, role: Role) -> anyhow::Result<Self> {
        let limits = Limits::public(app.config.max_connections);
        Self::start_within(app, role, limits).await
    }

    /// [`Service::start`] with other limits for its clients; the private listener has them, too, with connections of its
    /// own.
    pub async fn start_within(app: App, role: Role, mut limits: Limits) -> anyhow::Result<Self> {
        limits.connections = connections_within_open_files(limits.connections);
        // Before anything happens that is counted.
        let scrape = Arc::new(Scrape::start()?);
        let stopping = CancellationToken::new();
        let public = match role {
            Role::Api | Role::All => {
                let routes = parting(public_router(&app)?, stopping.clone());
                let address = app.config.listen;
                Some(Server::start(
                    "public",
                    "USHER_LISTEN",
                    address,
                    routes,
                    limits.clone(),
                )?)
            }
            Role::Worker => None,
        };
        let workers = match role {
            Role::Worker | Role::All => Some(Workers::start(&app, Concurrency::of(&app.config))),
            Role::Api => None,
        };
        let alive = workers.as_ref().map(Workers::alive);
        let catalog = CatalogWatch::start(&app.store, app.config.rules());
        let private = ops::router(app.store.clone(), alive.clone(), scrape, catalog.clone())
            .merge(ops::board(&app, alive, catalog))
            .layer(Extension(Stopping(stopping.clone())));
        let address = app.config.admin_listen;
        let private = Server::start("private", "USHER_ADMIN_LISTEN", address, private, limits.private())?;
        Ok(Self {
            app,
            public,
            private,
            workers,
            stopping,
        })
    }

    /// The public address, where there is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.public.as_ref().map(Server::address)
    }

    /// The private address.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.private.address()
    }

    /// Says that it stops and answers what still comes for the drain time, finishes meanwhile what runs, and closes the
    /// store.
    pub async fn stop(self) {
        self.stopping.cancel();
        let public = async {
            if let Some(public) = self.public {
                tokio::time::sleep(self.app.config.drain_time).await;
                public.stop().await;
            }
        };
        let workers = async {
            if let Some(workers) = self.workers {
                workers.stop().await;
            }
        };
        tokio::join!(public, workers);
        self.app.mailer.close().await;
        self.private.stop().await;
        self.app.store.close().await;
    }
}

/// Everything that the public address serves.
///
/// # Errors
/// When a signing secret can't be used.
pub fn public_router(app: &App) -> anyhow::Result<Router> {
    let webhooks = webhooks::router(app).context("CLERK_WEBHOOK_SIGNING_SECRET can't be used")?;
    let routes = webhooks
        .merge(api::router(app))
        .merge(openapi::router(app.config.environment == Environment::Development))
        .merge(ui::pages(app));
    Ok(guard(routes).merge(ui::files()))
}

/// What all public routes have in common: problems for what is not there and for panics, and headers that keep answers to
/// their readers.
pub fn guard(routes: Router) -> Router {
    let set = |name: HeaderName, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    routes
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(
            ServiceBuilder::new()
                // Answers speak of invites: no cache keeps them, no referrer carries their addresses away.
                .layer(set(header::CACHE_CONTROL, "no-store"))
                .layer(set(header::REFERRER_POLICY, "no-referrer"))
                .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response())),
        )
}

/// While the process is about to end, an answer is the last on its connection: what comes next comes by another, which the
/// load balancer leads elsewhere. Only what never speaks during the drain time is cut off in its silence.
fn parting(routes: Router, stopping: CancellationToken) -> Router {
    let told = Extension(Stopping(stopping.clone()));
    routes.layer(
        ServiceBuilder::new()
            .layer(told)
            .map_response(move |mut answer: Response| {
                if stopping.is_cancelled() {
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                answer
            }),
    )
}
