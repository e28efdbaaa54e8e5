//! What a migration would do, as text and as SQL.

use std::collections::BTreeMap;

use sqlx::migrate::Migration;

use crate::store::adopt::Step;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it does, as text for the user.
    pub says: String,
    /// Its statements; empty for what is only told of.
    pub sql: String,
}

impl Planned {
    pub(in crate::store) fn new(says: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            says: says.into(),
            sql: sql.into(),
        }
    }
}

impl From<Step> for Planned {
    fn from(step: Step) -> Self {
        Self::new(step.says, step.statements.join(";\n"))
    }
}

/// A migration, and then each table with what belongs to it, and the functions and views. `app_tables` are the app's tables that
/// there are; `None` if it has none of its own here, for which some of the text is.
pub(super) fn of_migration(migration: &Migration, app_tables: Option<&[String]>) -> Vec<Planned> {
    let sql = migration.sql.as_str();
    let applies = format!("apply migration {:04} {}", migration.version, migration.description);
    let mut planned = vec![Planned::new(applies, sql)];
    planned.extend(objects(sql, app_tables).into_iter().map(|says| Planned::new(says, "")));
    planned
}

/// Without the blocks that do nothing if this is so.
fn without(sql: &str, condition: &str) -> String {
    let mut kept = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(start) = rest.find("\ndo $") {
        let (before, block) = rest.split_at(start + 1);
        let tag = block[3..].lines().next().unwrap_or_default();
        let end = block.find(&format!("\n{tag};")).unwrap_or(block.len());
        let (block, after) = block.split_at(end);
        kept.push_str(before);
        if !block.contains(condition) {
            kept.push_str(block);
        }
        rest = after;
    }
    kept + rest
}

/// What a text makes, in sentences. It reads the house's own SQL, in which a statement begins a line.
fn objects(sql: &str, app_tables: Option<&[String]>) -> Vec<String> {
    let mut tables: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut others: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut table = "";
    let layout = if app_tables.is_none() {
        "app_schema is null"
    } else {
        "app_schema is not null"
    };
    let sql = without(sql, layout);
    for line in sql.lines().map(str::trim_start) {
        let words: Vec<&str> = line
            .split_whitespace()
            .filter(|word| !["unique", "constraint", "if", "not", "exists", "or", "replace"].contains(word))
            .collect();
        match words[..] {
            ["create", "table", name, ..] => {
                table = name;
                tables.entry(name).or_default();
            }
            ["create", "index", index, "on", on, ..] => {
                tables.entry(on).or_default().push(format!("the index {index}"));
            }
            ["create", "trigger", trigger, ..] => {
                let on = words
                    .iter()
                    .skip_while(|word| **word != "on")
                    .nth(1)
                    .copied()
                    .unwrap_or(table);
                tables.entry(on).or_default().push(format!("the trigger {trigger}"));
            }
            ["create", kind @ ("function" | "view"), name, ..] => {
                let name = name.split('(').next().unwrap_or(name);
                let names = others.entry(kind).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            [column, ..] if line.contains(" references ") => {
                let to = words
                    .iter()
                    .skip_while(|word| **word != "references")
                    .nth(1)
                    .copied()
                    .unwrap_or_default();
                tables
                    .entry(table)
                    .or_default()
                    .push(format!("a key from {column} to {to}"));
            }
            _ => {}
        }
    }
    let is_there =
        |table: &str| table.contains('.') || app_tables.is_some_and(|there| there.iter().any(|name| name == table));
    let tables = tables.into_iter().map(|(table, things)| {
        let things = things.join(", ");
        match (is_there(table), things.as_str()) {
            (true, "") => format!("use the table {table} as it is"),
            (true, things) => format!("use the table {table}, with {things} where it has none yet"),
            (false, "") => format!("make the table {table}, which is not there"),
            (false, things) => format!("make the table {table}, which is not there, with {things}"),
        }
    });
    let others = others
        .into_iter()
        .map(|(kind, names)| format!("make the {kind}s {}", names.join(", ")));
    tables.chain(others).collect()
}
