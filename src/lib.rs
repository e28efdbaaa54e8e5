//! usher adds invited people to the organizations and projects that they were invited to.
//!
//! Which module may use which is in docs/architecture.md, and a test compares it with the imports.
//!
//! - [`invites`]: the domain, pure: what an invite is, the match, roles, link tokens, address keys.
//! - [`store`]: both databases behind one door. Below the service: [`usher_mail`], [`usher_clerk`] and [`usher_base`].
//! - [`flows`]: asked, told of by Clerk, matched, let in: each one function over a transaction.
//! - [`jobs`]: one file per job. [`worker`]: runs them on apalis, with a cure for each of its traps.
//! - [`webhooks`]: what Clerk pushes. [`api`]: what the app and the invitee call. [`ops`]: health, metrics and the board.
//! - [`repair`]: what is changed by hand, on the board and by commands. [`ops_key`]: the keys for the board.
//! - [`openapi`]: the OpenAPI document and the page that shows it. [`server`]: the listeners, and what a client may make
//!   them wait for.
//! - [`api_key`]: the keys that the app calls with. [`rate_limit`]: how often somebody may call.
//! - [`metrics`]: what is counted. [`telemetry`]: logs, traces, and the causes that join them.
//! - [`service`]: puts a running usher together. [`cli`]: one file per command. [`config`] is the only reader of the environment, [`clock`] the only source of time.

/// The version, with the commit and the day that it was built from where they are known.
pub const VERSION: &str = env!("USHER_VERSION");

pub mod api;
pub mod api_key;
pub mod app;
pub mod app_id;
pub mod batch;
pub mod cli;

pub mod clock;
pub mod config;
mod cookies;
pub mod events;
pub mod fields;
pub mod flows;
pub mod invite_history;
pub mod invites;
pub mod jobs;
pub mod metrics;
pub mod names;
pub mod openapi;
pub mod ops;
pub mod ops_key;
pub mod problem;
pub mod rate_limit;
pub mod repair;
pub mod secret;
pub mod server;
pub mod service;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod ui;
pub mod view;
pub mod webhooks;
pub mod worker;
