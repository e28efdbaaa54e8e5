//! What must be done to the app's tables before usher's migrations, as a pure decision: steps to run, or problems, in
//! sentences that say how to fix them.

use super::super::settings::{Identities, Rules};
use super::schema::{Column, IDENTITIES, PAIRS, Schema, Table};

/// One change. Running it again, also after it was interrupted, has the same result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Step {
    /// What it does, as text for the user.
    pub(in crate::store) says: String,
    /// Each runs in its own transaction.
    pub(in crate::store) statements: Vec<String>,
}

const UUID: &[&str] = &["uuid"];
const TEXT: &[&str] = &["text", "varchar", "bpchar", "citext", "name"];
const TIME: &[&str] = &["timestamptz", "timestamp"];
/// Every type that can be read as text.
const ANY: &[&str] = &[];

/// What usher expects of one of the app's columns.
struct Expected {
    table: &'static str,
    column: &'static str,
    types: &'static [&'static str],
    /// Whether usher needs the column and can't add it.
    must_be_there: bool,
}

const fn expect(
    table: &'static str,
    column: &'static str,
    types: &'static [&'static str],
    must_be_there: bool,
) -> Expected {
    Expected {
        table,
        column,
        types,
        must_be_there,
    }
}

const EXPECTED: &[Expected] = &[
    expect("organizations", "id", UUID, true),
    expect("organizations", "name", TEXT, false),
    expect("organizations", "created_at", TIME, false),
    expect("organizations", "updated_at", TIME, false),
    expect("organizations", "deleted_at", TIME, false),
    expect("projects", "id", UUID, true),
    expect("projects", "organization_id", UUID, true),
    expect("projects", "name", TEXT, false),
    expect("projects", "created_at", TIME, false),
    expect("projects", "updated_at", TIME, false),
    expect("projects", "deleted_at", TIME, false),
    expect("admins", "id", UUID, true),
    expect("admins", "organization_id", UUID, false),
    expect("admins", "external_id", TEXT, false),
    expect("admins", "email", TEXT, false),
    expect("admins", "first_name", TEXT, false),
    expect("admins", "last_name", TEXT, false),
    expect("admins", "image_url", TEXT, false),
    expect("admins", "role", ANY, false),
    expect("admins", "created_at", TIME, false),
    expect("admins", "updated_at", TIME, false),
    expect("admins", "deleted_at", TIME, false),
    expect("organization_users", "id", UUID, false),
    expect("organization_users", "organization_id", UUID, true),
    expect("organization_users", "admin_id", UUID, true),
    expect("organization_users", "role", TEXT, false),
    expect("organization_users", "created_at", TIME, false),
    expect("organization_users", "updated_at", TIME, false),
    expect("organization_users", "deleted_at", TIME, false),
    expect("project_admins", "id", ANY, false),
    expect("project_admins", "project_id", UUID, true),
    expect("project_admins", "admin_id", UUID, true),
    expect("project_admins", "role", TEXT, false),
    expect("project_admins", "created_at", TIME, false),
    expect("project_admins", "updated_at", TIME, false),
    expect("project_admins", "deleted_at", TIME, false),
];

const EXPECTED_OF_IDENTITIES: &[Expected] = &[
    expect(IDENTITIES, "admin_id", UUID, true),
    expect(IDENTITIES, "provider", TEXT, true),
    expect(IDENTITIES, "issuer", TEXT, true),
    expect(IDENTITIES, "subject", TEXT, true),
];

/// Columns of people for which usher has values, as far as Clerk and the invite tell.
const OF_PEOPLE: &[&str] = &[
    "organization_id",
    "email",
    "first_name",
    "last_name",
    "image_url",
    "role",
];

pub(in crate::store) fn plan(schema: &Schema, rules: &Rules) -> Result<Vec<Step>, Vec<String>> {
    let problems = problems(schema, rules);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut steps = Vec::new();
    for table in ["organizations", "projects", "admins"] {
        unique_id(schema, table, &mut steps);
    }
    if let Some(admins) = schema.tables.get("admins") {
        people(schema, admins, &mut steps);
    }
    for (name, pair) in PAIRS {
        if let Some(table) = schema.tables.get(*name) {
            let lowest = match *name {
                "project_admins" => rules.roles.project.lowest(),
                _ => rules.roles.organization.lowest(),
            };
            memberships(schema, name, table, pair, lowest, &mut steps);
        }
    }
    if let (Identities::Table { .. }, Some(table)) = (&rules.identities, schema.tables.get(IDENTITIES)) {
        id_default(IDENTITIES, table, &mut steps);
    }
    Ok(steps)
}

pub(super) fn problems(schema: &Schema, rules: &Rules) -> Vec<String> {
    let mut problems = schema.conflicts.clone();
    if !schema.is_adopted {
        problems.extend(missing_tables(schema));
    }
    for (table, elsewhere) in &schema.elsewhere {
        problems.push(format!(
            "the table {table} is in the schema {elsewhere}, not in {}; set USHER_APP_SCHEMA={elsewhere} if it is the app's",
            schema.name
        ));
    }
    let has_identities = matches!(rules.identities, Identities::Table { .. });
    for (name, table) in &schema.tables {
        if name == IDENTITIES && !has_identities {
            continue;
        }
        if !table.is_table {
            problems.push(format!("{name} is a view or a foreign table, but usher needs a table"));
        } else if !table.is_ours {
            problems.push(format!(
                "the table {name} belongs to the role {owner}; run usher as that role, or make its role a member of it",
                owner = table.owner
            ));
        }
    }
    if !schema.is_adopted && schema.tables.contains_key("invites") {
        problems
            .push("there is a table invites that is not usher's; rename it, or give usher another schema".to_owned());
    }
    let of_identities = EXPECTED_OF_IDENTITIES.iter().filter(|_| has_identities);
    for expected in EXPECTED.iter().chain(of_identities) {
        let Some(table) = schema.tables.get(expected.table).filter(|table| table.is_table) else {
            continue;
        };
        problems.extend(expected.problem(table));
    }
    for (name, pair) in PAIRS {
        if let Some(table) = schema.tables.get(*name).filter(|table| table.repeated_pairs > 0) {
            let pair = pair.join(", ");
            problems.push(format!(
                "{name} has {count} pairs of ({pair}) more than once, but somebody is in a place once; find them with: \
                 select {pair}, count(*) from {name} group by {pair} having count(*) > 1",
                count = table.repeated_pairs
            ));
        }
    }
    // The columns that usher writes when it adds rows.
    let writes: &[(&str, &[&str])] = &[
        ("admins", OF_PEOPLE),
        ("organization_users", &["organization_id", "admin_id", "role"]),
        ("project_admins", &["project_id", "admin_id", "role"]),
        (IDENTITIES, &["admin_id", "provider", "issuer", "subject"]),
    ];
    for (name, known) in writes {
        if let Some(table) = schema
            .tables
            .get(*name)
            .filter(|_| *name != IDENTITIES || has_identities)
        {
            problems.extend(unknown_obligations(name, table, known));
        }
    }
    if has_identities && !schema.tables.contains_key(IDENTITIES) {
        problems.push("USHER_IDENTITIES names the table admin_identities, but there is none".to_owned());
    }
    if has_identities && !schema.is_adopted && schema.has_external_ids {
        problems.push(
            "USHER_IDENTITIES names the table admin_identities, but admins.external_id, which usher would mirror it into, \
             holds something already; empty or rename that column"
                .to_owned(),
        );
    }
    problems
}

/// Tables without which there is nothing to share.
fn missing_tables(schema: &Schema) -> impl Iterator<Item = String> {
    let is_there = |table: &str| {
        schema.tables.contains_key(table) || schema.elsewhere.iter().any(|(elsewhere, _)| elsewhere == table)
    };
    ["organizations", "admins"]
        .into_iter()
        .filter(move |table| !is_there(table))
        .map(|table| format!("there is no table {table} in the schema {}", schema.name))
}

impl Expected {
    fn problem(&self, table: &Table) -> Option<String> {
        let Self {
            table: name,
            column,
            types,
            must_be_there,
        } = self;
        match table.columns.get(*column) {
            None if *must_be_there => Some(format!("the table {name} has no column {column}: is it the app's?")),
            Some(Column { data_type, .. }) if !types.is_empty() && !types.contains(&data_type.as_str()) => {
                Some(format!(
                    "{name}.{column} is of the type {data_type}, but usher needs {}",
                    types.first().copied().unwrap_or_default()
                ))
            }
            _ => None,
        }
    }
}

/// Columns that usher doesn't know and that an insert must not leave out.
fn unknown_obligations(name: &str, table: &Table, known: &[&str]) -> Vec<String> {
    table
        .columns
        .iter()
        .filter(|(column, facts)| {
            let written = known.contains(&column.as_str()) || ["created_at", "updated_at"].contains(&column.as_str());
            let own_id = column.as_str() == "id" && facts.data_type == "uuid";
            let external_id = name == "admins" && column.as_str() == "external_id";
            facts.not_null && !facts.has_default && !written && !own_id && !external_id
        })
        .map(|(column, _)| {
            format!(
                "{name}.{column} must not be null and has no default, so that usher could not add rows; give it a default"
            )
        })
        .collect()
}

fn unique_id(schema: &Schema, name: &str, steps: &mut Vec<Step>) {
    let has_key = schema.tables.get(name).is_none_or(|table| table.is_unique(&["id"]));
    if !has_key {
        index(
            schema,
            &format!("usher_{name}_id"),
            "unique index",
            &format!("{name} (id)"),
            steps,
        );
    }
}

fn people(schema: &Schema, admins: &Table, steps: &mut Vec<Step>) {
    for (column, data_type) in [
        ("external_id", "text"),
        ("email", "text"),
        ("deleted_at", "timestamptz"),
    ] {
        add_column("admins", admins, column, data_type, steps);
    }
    index(
        schema,
        "usher_admins_external_id",
        "index",
        "admins (external_id)",
        steps,
    );
    index(
        schema,
        "usher_admins_email",
        "index",
        "admins (lower(trim(email)))",
        steps,
    );
}

fn memberships(schema: &Schema, name: &str, table: &Table, pair: &[&str; 2], lowest: &str, steps: &mut Vec<Step>) {
    add_column(name, table, "id", "uuid", steps);
    id_default(name, table, steps);
    // Existing members, and members that the app adds without a role, get the lowest role: too few rights are easier to
    // correct than too many.
    add_column(name, table, "role", &format!("text not null default '{lowest}'"), steps);
    for column in ["created_at", "updated_at"] {
        add_column(name, table, column, "timestamptz not null default now()", steps);
    }
    add_column(name, table, "deleted_at", "timestamptz", steps);
    if !table.is_unique(pair) {
        let on = format!("{name} ({})", pair.join(", "));
        index(schema, &format!("usher_{name}_pair"), "unique index", &on, steps);
    }
    index(
        schema,
        &format!("usher_{name}_admin"),
        "index",
        &format!("{name} (admin_id)"),
        steps,
    );
}

fn add_column(name: &str, table: &Table, column: &str, definition: &str, steps: &mut Vec<Step>) {
    if !table.columns.contains_key(column) {
        steps.push(Step {
            says: format!("add the column {name}.{column}"),
            statements: vec![format!(
                "alter table {name} add column if not exists {column} {definition}"
            )],
        });
    }
}

/// Rows that usher adds get an id from a default; existing rows keep theirs, or have none.
fn id_default(name: &str, table: &Table, steps: &mut Vec<Step>) {
    let has_default = table
        .columns
        .get("id")
        .is_some_and(|id| id.has_default || id.data_type != "uuid");
    let is_wanted = table.columns.contains_key("id") || name != IDENTITIES;
    if !has_default && is_wanted {
        steps.push(Step {
            says: format!("give {name}.id a default"),
            statements: vec![format!(
                "alter table {name} alter column id set default gen_random_uuid()"
            )],
        });
    }
}

/// Builds an index without blocking the app's writes. An index that was left invalid is built again.
fn index(schema: &Schema, index: &str, kind: &str, on: &str, steps: &mut Vec<Step>) {
    let state = schema.indexes.get(index);
    if state == Some(&true) {
        return;
    }
    let mut statements = Vec::new();
    if state == Some(&false) {
        statements.push(format!("drop index concurrently if exists {index}"));
    }
    statements.push(format!("create {kind} concurrently if not exists {index} on {on}"));
    steps.push(Step {
        says: format!("build the {kind} {index} on {on}"),
        statements,
    });
}

#[cfg(test)]
mod tests;
