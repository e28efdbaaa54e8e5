//! Stories over the public surface, each told on SQLite and on Postgres, each in a database of its own.

mod support;

mod api;
mod banner;
mod config;
mod crashes;
mod mail;
mod matching;
mod store;
mod webhooks;
mod worker;
