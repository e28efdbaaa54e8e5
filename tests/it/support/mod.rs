//! The actors of the stories.

pub mod app;
pub mod clerk;
pub mod contract;
pub mod db;
pub mod jobs;
pub mod process;
pub mod smtp;
pub mod tls;

pub use app::TestApp;
pub use db::TestDatabase;

/// The first SQL that docs/postgres.md shows under a heading.
pub fn docs_sql(heading: &str) -> String {
    let docs = include_str!("../../../docs/postgres.md");
    let (_, section) = docs.split_once(heading).expect("the heading");
    let (_, sql) = section.split_once("```sql\n").expect("a block of SQL");
    sql.split_once("```").expect("its end").0.to_owned()
}

/// Tells each story once per database. A story ends with nothing left to do in the queue.
macro_rules! stories {
    ($($(#[$meta:meta])* async fn $name:ident($app:ident) $body:block)+) => {
        $(
            mod $name {
                #[allow(unused_imports, reason = "not every story needs all that its file imports")]
                use super::*;

                async fn story($app: &$crate::support::TestApp) $body

                $(#[$meta])*
                #[tokio::test]
                async fn on_sqlite() {
                    let app = $crate::support::TestApp::start($crate::support::TestDatabase::sqlite().await).await;
                    story(&app).await;
                    app.finish().await;
                }

                $(#[$meta])*
                #[tokio::test]
                async fn on_postgres() {
                    let app = $crate::support::TestApp::start($crate::support::TestDatabase::postgres().await).await;
                    story(&app).await;
                    app.finish().await;
                }
            }
        )+
    };
}
pub(crate) use stories;
