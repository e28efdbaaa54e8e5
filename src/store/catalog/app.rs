//! What has become of the app's own tables, with `USHER_TABLES=shared`.

use sqlx::PgConnection;

use super::super::adopt;
use super::super::settings::Rules;

/// What the app's tables were like at the last look, and what was wrong with them.
#[derive(Debug, Default)]
pub struct AppShape {
    last: Option<(String, Vec<String>)>,
}

impl AppShape {
    /// What usher can't work with, as sentences. It is found out again only if the tables changed.
    pub(super) async fn problems(
        &mut self,
        conn: &mut PgConnection,
        app_schema: &str,
        rules: &Rules,
    ) -> sqlx::Result<Vec<String>> {
        let shape: String = sqlx::query_scalar(
            "with tables as (
                 select oid, relname from pg_class
                 where relnamespace = (select oid from pg_namespace where nspname = $1) and relname = any ($2))
             select md5(string_agg(line, chr(10) order by line)) from (
                 select concat_ws(' ', relname, attname, atttypid, attnotnull, atthasdef) as line
                 from tables join pg_attribute on attrelid = tables.oid and attnum > 0 and not attisdropped
                 union all
                 select concat_ws(' ', relname, conname, k.oid) from tables join pg_constraint k on conrelid = tables.oid
                     and contype = 'c') as lines",
        )
        .bind(app_schema)
        .bind(adopt::APP_TABLES)
        .fetch_one(&mut *conn)
        .await?;
        if let Some((_, problems)) = self.last.as_ref().filter(|(last, _)| *last == shape) {
            return Ok(problems.clone());
        }
        let problems = adopt::later_problems(conn, app_schema, rules).await?;
        self.last = Some((shape, problems.clone()));
        Ok(problems)
    }
}
