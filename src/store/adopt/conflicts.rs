//! What usher can't share with an app, found by its constraints and rows.

use sqlx::{AssertSqlSafe, PgConnection};

use super::super::settings::Rules;
use super::schema::IDENTITIES;
use crate::store::quoted;

/// Tables that refer to organizations and people, and hold no memberships that usher does not know.
const KNOWN: &[&str] = &[
    "admins",
    "projects",
    "organization_users",
    "project_admins",
    "invites",
    IDENTITIES,
];

/// Finds them; each is a sentence that says what to do.
pub(super) async fn find(conn: &mut PgConnection, app_schema: &str, rules: &Rules) -> sqlx::Result<Vec<String>> {
    let mut found = other_memberships(conn, app_schema).await?;
    found.extend(people_elsewhere(conn, app_schema).await?);
    found.extend(roles(conn, app_schema, rules).await?);
    Ok(found)
}

/// Roles that could never be given.
pub(super) async fn roles(conn: &mut PgConnection, app_schema: &str, rules: &Rules) -> sqlx::Result<Vec<String>> {
    let mut found = Vec::new();
    for (table, roles) in [
        ("organization_users", &rules.roles.organization),
        ("project_admins", &rules.roles.project),
    ] {
        found.extend(forbidden_roles(conn, app_schema, table, roles.names()).await?);
    }
    Ok(found)
}

/// Tables with rows that refer to both an organization and a person: usher would not see these members, invite them again, and
/// let them in beside.
async fn other_memberships(conn: &mut PgConnection, app_schema: &str) -> sqlx::Result<Vec<String>> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select distinct c.relname::text from pg_class c
         join pg_constraint o on o.conrelid = c.oid and o.contype = 'f'
             and o.confrelid = (select oid from pg_class where relname = 'organizations' and relnamespace = c.relnamespace)
         join pg_constraint a on a.conrelid = c.oid and a.contype = 'f'
             and a.confrelid = (select oid from pg_class where relname = 'admins' and relnamespace = c.relnamespace)
         where c.relnamespace = (select oid from pg_namespace where nspname = $1) and c.relname <> all ($2) order by 1",
    )
    .bind(app_schema)
    .bind(KNOWN)
    .fetch_all(&mut *conn)
    .await?;
    let mut found = Vec::new();
    for table in tables {
        let text = format!("select exists (select from {}.{})", quoted(app_schema), quoted(&table));
        if sqlx::query_scalar::<_, bool>(AssertSqlSafe(text))
            .fetch_one(&mut *conn)
            .await?
        {
            found.push(format!(
                "the table {table} refers to organizations and admins and has rows: if it holds memberships, usher would not \
                 know them; move them to organization_users"
            ));
        }
    }
    Ok(found)
}

async fn people_elsewhere(conn: &mut PgConnection, app_schema: &str) -> sqlx::Result<Option<String>> {
    let are_in_users: bool = sqlx::query_scalar(
        "select exists (select from pg_tables where schemaname = $1 and tablename = 'users')
             and not exists (select from pg_tables where schemaname = $1 and tablename = 'admins')",
    )
    .bind(app_schema)
    .fetch_one(conn)
    .await?;
    Ok(are_in_users.then(|| "people are in the table users, and usher would use a table admins".to_owned()))
}

/// Configured roles that a check of the app's forbids: an invite with such a role could never be accepted.
async fn forbidden_roles(
    conn: &mut PgConnection,
    app_schema: &str,
    table: &str,
    roles: &[String],
) -> sqlx::Result<Vec<String>> {
    let checks: Vec<(String, String, String)> = sqlx::query_as(
        "select k.conname::text, pg_get_expr(k.conbin, k.conrelid), format_type(a.atttypid, a.atttypmod)
         from pg_constraint k
         join pg_class c on c.oid = k.conrelid and c.relname = $2
             and c.relnamespace = (select oid from pg_namespace where nspname = $1)
         join pg_attribute a on a.attrelid = c.oid and a.attname = 'role'
             and a.atttypid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
         where k.contype = 'c' and k.conkey = array[a.attnum]",
    )
    .bind(app_schema)
    .bind(table)
    .fetch_all(&mut *conn)
    .await?;
    let mut found = Vec::new();
    for (name, expression, data_type) in checks {
        // As the catalog prints it, with the column's name alone.
        let text = format!(
            "select role::text from (select unnest($1::text[])::{data_type} as role) as given where not ({expression})"
        );
        let forbidden: Vec<String> = sqlx::query_scalar(AssertSqlSafe(text))
            .bind(roles)
            .fetch_all(&mut *conn)
            .await?;
        if !forbidden.is_empty() {
            found.push(format!(
                "{table}.role may not be {} (constraint {name}); configure the roles that it allows, or allow these",
                forbidden.join(", ")
            ));
        }
    }
    Ok(found)
}
