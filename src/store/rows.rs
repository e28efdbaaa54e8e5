//! Sets of rows as one parameter: a statement's text and its plan are the same for one row and for a thousand.
//!
//! The rows are one JSON text, which Postgres unfolds with `json_to_recordset` and SQLite with `json_each`.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Dialect, Result, StoreError};
use crate::invites::InviteDetails;
use crate::names::Named;

/// Declares the struct of a set of rows. Its fields are the set's columns, and their types say the columns' types.
macro_rules! row {
    ($(#[$about:meta])* $vis:vis struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_about:meta])* $field_vis:vis $field:ident: $type:ty),+ $(,)?
    }) => {
        $(#[$about])*
        #[derive(::serde::Serialize)]
        $vis struct $name $(<$life>)? { $($(#[$field_about])* $field_vis $field: $type),+ }

        impl $(<$life>)? $crate::store::rows::Row for $name $(<$life>)? {
            fn fields() -> Vec<(&'static str, $crate::store::rows::Type)> {
                [$(<$type as $crate::store::rows::Column>::columns(stringify!($field))),+].concat()
            }
        }
    };
}
pub(super) use row;

/// A struct that [`row!`] declares.
pub(super) trait Row: Serialize {
    /// The columns, with their types.
    fn fields() -> Vec<(&'static str, Type)>;

    /// The columns' names, for `insert into … (…)` beside `select r.*`.
    fn columns() -> String {
        let names: Vec<&str> = Self::fields().into_iter().map(|(name, _)| name).collect();
        names.join(", ")
    }

    /// Each column set to its value, for `update … set`, but for those of these names.
    fn assignments(kept: &[&str]) -> String {
        let set = Self::fields().into_iter().filter(|(name, _)| !kept.contains(name));
        let set: Vec<String> = set.map(|(name, _)| format!("{name} = r.{name}")).collect();
        set.join(", ")
    }

    /// A table expression named `r` with these columns, unfolded from the JSON text in parameter `$1`.
    fn unfold(dialect: Dialect) -> String {
        Self::unfold_from(dialect, "$1")
    }

    /// The same, of another parameter.
    fn unfold_from(dialect: Dialect, parameter: &str) -> String {
        let columns: Vec<String> = Self::fields()
            .iter()
            .map(|(name, kind)| kind.column(dialect, name))
            .collect();
        let columns = columns.join(", ");
        match dialect {
            Dialect::Postgres => format!("json_to_recordset({parameter}::text::json) as r({columns})"),
            Dialect::Sqlite => format!("(select {columns} from json_each({parameter})) as r"),
        }
    }
}

/// A type of Rust that a column may have.
pub(super) trait Column {
    const TYPE: Type;

    /// The field's column, or those of a flattened struct.
    fn columns(name: &'static str) -> Vec<(&'static str, Type)> {
        vec![(name, Self::TYPE)]
    }
}

macro_rules! columns {
    ($($rust:ty => $column:ident),+ $(,)?) => { $(impl Column for $rust { const TYPE: Type = Type::$column; })+ };
}

columns! { Uuid => Uuid, &str => Text, String => Text, Time => Time, bool => Bool, i32 => Int, i64 => Long, u32 => Long }

impl<T: Named> Column for T {
    const TYPE: Type = Type::Text;
}

impl Column for &InviteDetails {
    const TYPE: Type = Type::Text;

    fn columns(_: &'static str) -> Vec<(&'static str, Type)> {
        InviteDetails::FIELDS.iter().map(|name| (*name, Self::TYPE)).collect()
    }
}

impl<T: Column> Column for Option<T> {
    const TYPE: Type = T::TYPE;
}

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

impl Type {
    fn column(self, dialect: Dialect, name: &str) -> String {
        let of_postgres = match self {
            Self::Uuid => "uuid",
            Self::Text => "text",
            Self::Time => "timestamptz",
            Self::Bool => "boolean",
            Self::Int => "integer",
            Self::Long => "bigint",
        };
        match (dialect, self) {
            (Dialect::Postgres, _) => format!("{name} {of_postgres}"),
            (Dialect::Sqlite, Self::Uuid) => format!("unhex(replace(value ->> '{name}', '-', '')) as {name}"),
            (Dialect::Sqlite, _) => format!("value ->> '{name}' as {name}"),
        }
    }
}

row! {
    /// One of a set of ids.
    pub(super) struct IdRow {
        id: Uuid,
    }
}

row! {
    /// One of a set of texts, such as the ids that Clerk or the queue gives.
    pub(super) struct TextRow<'a> {
        text: &'a str,
    }
}

/// A set of ids as the parameter's text, for [`IdRow`].
pub(super) fn ids_json(ids: &[Uuid]) -> Result<String> {
    let rows: Vec<_> = ids.iter().map(|&id| IdRow { id }).collect();
    to_json(&rows)
}

/// A set of texts as the parameter's text, for [`TextRow`].
pub(super) fn texts_json<T: AsRef<str>>(texts: &[T]) -> Result<String> {
    let rows: Vec<_> = texts.iter().map(|text| TextRow { text: text.as_ref() }).collect();
    to_json(&rows)
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

/// A condition that `column` is one of the ids in `$1`.
pub(super) fn of_ids(dialect: Dialect, column: &str) -> String {
    among(dialect, column, &format!("select r.id from {}", IdRow::unfold(dialect)))
}

/// A condition that `column` is one of the texts in `$1`.
pub(super) fn of_texts(dialect: Dialect, column: &str) -> String {
    among(
        dialect,
        column,
        &format!("select r.text from {}", TextRow::unfold(dialect)),
    )
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
/// and [`Row::unfold`]; every value is bound.
pub(super) fn sql(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}
