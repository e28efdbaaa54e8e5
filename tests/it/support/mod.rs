//! The actors of the stories.

pub mod app;
pub mod board;
pub mod clerk;
pub mod contract;
pub mod db;
pub mod jobs;
pub mod process;
pub mod tls;

pub use app::TestApp;
pub use db::TestDatabase;
pub use usher_testkit::{receiver, smtp};

/// The first SQL that docs/postgres.md shows under a heading.
pub fn docs_sql(heading: &str) -> String {
    let docs = include_str!("../../../docs/postgres.md");
    let (_, section) = docs.split_once(heading).expect("the heading");
    let (_, sql) = section.split_once("```sql\n").expect("a block of SQL");
    sql.split_once("```").expect("its end").0.to_owned()
}

/// Tells each story once per database. A story ends with nothing left to do in the queue. Where something else than a
/// [`TestApp`] is needed it says of what type, what makes it of a database, and what ends it.
macro_rules! stories {
    (
        #[$test:meta] $fixture:ty, $start:expr, $finish:expr;
        $($(#[$meta:meta])* async fn $name:ident($app:ident) $body:block)+
    ) => {
        $(
            mod $name {
                #[allow(unused_imports, reason = "not every story needs all that its file imports")]
                use super::*;

                async fn story($app: &$fixture) $body

                async fn on(database: $crate::support::TestDatabase) {
                    let fixture = $start(database).await;
                    story(&fixture).await;
                    $finish(fixture).await;
                }

                $(#[$meta])*
                #[$test]
                async fn on_sqlite() {
                    on($crate::support::TestDatabase::sqlite().await).await;
                }

                $(#[$meta])*
                #[$test]
                async fn on_postgres() {
                    on($crate::support::TestDatabase::postgres().await).await;
                }
            }
        )+
    };
    ($($(#[$meta:meta])* async fn $name:ident($app:ident) $body:block)+) => {
        $crate::support::stories! {
            #[tokio::test] $crate::support::TestApp, $crate::support::TestApp::start, $crate::support::TestApp::finish;
            $($(#[$meta])* async fn $name($app) $body)+
        }
    };
}
pub(crate) use stories;

/// Runs a function on a database of each kind.
macro_rules! on_both_databases {
    (#[$test:meta] $name:ident: $run:expr) => {
        mod $name {
            use super::*;

            #[$test]
            async fn on_sqlite() {
                let run = $run;
                run($crate::support::TestDatabase::sqlite().await).await;
            }

            #[$test]
            async fn on_postgres() {
                let run = $run;
                run($crate::support::TestDatabase::postgres().await).await;
            }
        }
    };
    (multi_thread $name:ident: $run:expr) => {
        $crate::support::on_both_databases!(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] $name: $run);
    };
    (multi_thread $name:ident) => {
        $crate::support::on_both_databases!(multi_thread $name: $name);
    };
    ($name:ident) => {
        $crate::support::on_both_databases!($name: $name);
    };
    ($name:ident: $run:expr) => {
        $crate::support::on_both_databases!(#[tokio::test] $name: $run);
    };
}
pub(crate) use on_both_databases;
