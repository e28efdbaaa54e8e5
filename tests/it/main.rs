//! Stories over the public surface, each told on SQLite and on Postgres, each in a database of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic in a test is a failure with a line number"
)]

mod support;

mod access;
mod adoption;
mod api;
mod app_tables;
mod architecture;
mod attacks;
mod backend;
mod banner;
mod board;
mod board_access;
mod bounds;
mod catalog;
mod check;
mod cli;
mod cli_output;
mod config;
mod connections;
mod contention;
mod contract;
mod cors;
mod crashes;
mod deliveries;
mod delivery;
mod deploy;
mod docs;
mod doors;
mod dot_env;
mod events;
mod follow_up;
mod fuzz;
mod home;
mod hosted;
mod keys;
mod limits;
mod mail;
mod matching;
mod members;
mod moving;
mod neighbours;
mod operations;
mod ops_files;
mod own_tables;
mod people;
mod places;
mod pooler;
mod private;
mod quiet;
mod redirects;
mod repairs;
mod replies;
mod retention;
mod rotation;
mod schedules;
mod security;
mod session_keys;
mod shared_schemas;
mod sql_interface;
mod sql_members;
mod store;
mod templates;
mod tls;
mod unfit;
mod webhooks;
mod words;
mod worker;
