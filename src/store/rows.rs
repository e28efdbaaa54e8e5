//! Sets of rows as one parameter: a statement's text and its plan are the same for one row and for a thousand.
//!
//! The rows are one JSON text, which Postgres unfolds with `json_to_recordset` and SQLite with `json_each`.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use sqlx::AssertSqlSafe;

use super::{Dialect, Result, StoreError};

/// The column types of a set of rows.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Uuid,
    Text,
    Time,
    Bool,
    Int,
    Long,
}

/// A time in the text form in which sqlx stores it in SQLite, so that comparing the texts compares the times. Postgres
/// reads the same form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub DateTime<Utc>);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, false))
    }
}

/// The rows as the parameter's text.
pub(super) fn to_json<T: Serialize>(rows: &[T]) -> Result<String> {
    serde_json::to_string(rows).map_err(|error| StoreError(sqlx::Error::Encode(error.into())))
}

/// A table expression named `r` with these columns, unfolded from the JSON text in parameter `$1`.
pub(super) fn unfold(dialect: Dialect, columns: &[(&str, Type)]) -> String {
    let mut sql = String::from(match dialect {
        Dialect::Postgres => "json_to_recordset($1::text::json) as r(",
        Dialect::Sqlite => "(select ",
    });
    for (i, (name, kind)) in columns.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        let written = match dialect {
            Dialect::Postgres => {
                let name_of_type = match kind {
                    Type::Uuid => "uuid",
                    Type::Text => "text",
                    Type::Time => "timestamptz",
                    Type::Bool => "boolean",
                    Type::Int => "integer",
                    Type::Long => "bigint",
                };
                write!(sql, "{comma}{name} {name_of_type}")
            }
            Dialect::Sqlite => match kind {
                Type::Uuid => write!(sql, "{comma}unhex(replace(value ->> '{name}', '-', '')) as {name}"),
                _ => write!(sql, "{comma}value ->> '{name}' as {name}"),
            },
        };
        written.unwrap_or_default(); // Writing to a String does not fail.
    }
    sql.push_str(match dialect {
        Dialect::Postgres => ")",
        Dialect::Sqlite => " from json_each($1)) as r",
    });
    sql
}

/// A condition that `column` is in the result of `select`. On Postgres as an array: where the planner expects a single
/// row, it would compare a set of unknown size with every row, one by one.
pub(super) fn among(dialect: Dialect, column: &str, select: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("{column} = any (array({select}))"),
        Dialect::Sqlite => format!("{column} in ({select})"),
    }
}

/// Locks a set of rows in one order before it is updated, so that two such updates can't deadlock. SQLite has one
/// writer.
pub(super) fn in_order_of_id(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "order by id for no key update",
        Dialect::Sqlite => "",
    }
}

/// A condition that `column` is in one of the `rows` (as [`unfold`] gives them).
pub(super) fn of_rows(dialect: Dialect, column: &str, field: &str, rows: &str) -> String {
    among(dialect, column, &format!("select r.{field} from {rows}"))
}

/// A condition in a form that no index can serve. When a statement names its rows by key, a planner that estimates the
/// table as small, from old statistics, might otherwise use the condition's index and read all open rows, once for each
/// key.
pub(super) fn checked(condition: &str) -> String {
    format!("case when {condition} then 1 else 0 end = 1")
}

/// Repeats a join's condition, for Postgres only: its planner then uses the column's index even without statistics for
/// a table that was just filled. SQLite uses the index anyway.
pub(super) fn and_among(dialect: Dialect, column: &str, select: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("and {}", among(dialect, column, select)),
        Dialect::Sqlite => String::new(),
    }
}

/// A time of a table that may belong to the app: it may have no time zone (then it is UTC) or no value.
pub(super) fn app_time(dialect: Dialect, column: &str) -> String {
    match dialect {
        Dialect::Postgres => format!("coalesce({column}::timestamptz, to_timestamp(0))"),
        Dialect::Sqlite => column.to_owned(),
    }
}

/// Marks a statement as built only from constants: column lists, the configured role names (validated as `a-z0-9_-`)
/// and [`unfold`]; every value is bound.
pub(super) fn sql(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}
