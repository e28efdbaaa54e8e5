//! The existing schema: the app's tables as the catalog describes them.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection};

use super::super::settings::{Identities, Rules, UniqueEmails};
use super::conflicts;

/// The tables that the app and usher share.
pub(in crate::store) const APP_TABLES: &[&str] = &[
    "organizations",
    "projects",
    "admins",
    "organization_users",
    "project_admins",
    "invites",
];
/// The app's table of identities; read only if it is configured.
pub(super) const IDENTITIES: &str = "admin_identities";

/// What a database already contains.
#[derive(Debug, Default)]
pub(in crate::store) struct Schema {
    /// The schema of the app's tables: `USHER_APP_SCHEMA`.
    pub(super) name: String,
    pub(super) tables: BTreeMap<String, Table>,
    /// Indexes of the schema by name, and whether each is valid.
    pub(super) indexes: BTreeMap<String, bool>,
    /// Tables that are in another schema, and not in this one.
    pub(super) elsewhere: Vec<(String, String)>,
    /// Whether the app has values in `admins.external_id`, Clerk ids or others.
    pub(super) has_external_ids: bool,
    /// Whether the app has a unique index on the address.
    pub(in crate::store) unique_emails: UniqueEmails,
    /// What can't be shared, as sentences; looked for before anything is adopted.
    pub(super) conflicts: Vec<String>,
    /// Whether usher's first migration has run: the tables are then as it left them.
    pub(in crate::store) is_adopted: bool,
}

/// A table, or a view or other relation of that name.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) is_table: bool,
    /// Whether our role may alter it.
    pub(super) is_ours: bool,
    pub(super) owner: String,
    pub(super) columns: BTreeMap<String, Column>,
    /// Sets of columns with a unique index.
    pub(super) unique: Vec<Vec<String>>,
    /// How many pairs that must be unique occur more than once.
    pub(super) repeated_pairs: i64,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Column {
    pub(super) data_type: String,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
}

#[derive(sqlx::FromRow)]
struct TableRow {
    name: String,
    schema_name: String,
    is_here: bool,
    is_table: bool,
    is_ours: bool,
    owner: String,
}

#[derive(sqlx::FromRow)]
struct ColumnRow {
    table_name: String,
    name: String,
    data_type: String,
    not_null: bool,
    has_default: bool,
}

#[derive(sqlx::FromRow)]
struct IndexRow {
    table_name: String,
    name: String,
    is_valid: bool,
    /// Valid, over plain columns and without a condition, so that `on conflict` can use it.
    is_unique: bool,
    columns: Vec<String>,
    /// Of a unique index on `admins.email`.
    has_condition: Option<bool>,
}

impl Table {
    pub(super) fn is_unique(&self, columns: &[&str]) -> bool {
        self.unique.iter().any(|unique| {
            unique.len() == columns.len() && columns.iter().all(|column| unique.iter().any(|name| name == column))
        })
    }
}

impl Schema {
    /// Whether the identities are where the configuration says: the only thing that a migrated schema may still lack.
    pub(in crate::store) fn fits(&self, rules: &Rules) -> bool {
        rules.identities == Identities::ExternalId || self.tables.contains_key(IDENTITIES)
    }

    /// Reads the catalog.
    pub(in crate::store) async fn read(
        conn: &mut PgConnection,
        name: &str,
        rules: &Rules,
        is_adopted: bool,
    ) -> sqlx::Result<Self> {
        let mut wanted = APP_TABLES.to_vec();
        wanted.push(IDENTITIES);
        let mut schema = Self {
            name: name.to_owned(),
            is_adopted,
            ..Self::default()
        };
        let tables: Vec<TableRow> = sqlx::query_as(
            "select c.relname::text as name, n.nspname::text as schema_name, n.nspname = $2 as is_here,
                 c.relkind in ('r', 'p') as is_table, pg_has_role(c.relowner, 'USAGE') as is_ours,
                 pg_get_userbyid(c.relowner)::text as owner
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relname = any ($1) and c.relkind in ('r', 'p', 'v', 'm', 'f')
                 and n.nspname <> 'usher' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
             order by is_here",
        )
        .bind(&wanted)
        .bind(name)
        .fetch_all(&mut *conn)
        .await?;
        for row in tables {
            if row.is_here {
                let table = Table {
                    is_table: row.is_table,
                    is_ours: row.is_ours,
                    owner: row.owner,
                    ..Table::default()
                };
                schema.elsewhere.retain(|(name, _)| *name != row.name);
                schema.tables.insert(row.name, table);
            } else {
                schema.elsewhere.push((row.name, row.schema_name));
            }
        }
        schema.read_columns(conn, &wanted).await?;
        schema.read_indexes(conn, &wanted).await?;
        schema.look_at_rows(conn).await?;
        if !is_adopted {
            schema.conflicts = conflicts::find(conn, name, rules).await?;
        }
        Ok(schema)
    }

    async fn read_columns(&mut self, conn: &mut PgConnection, tables: &[&str]) -> sqlx::Result<()> {
        let columns: Vec<ColumnRow> = sqlx::query_as(
            "select c.relname::text as table_name, a.attname::text as name, t.typname::text as data_type,
                 a.attnotnull as not_null, a.atthasdef or a.attidentity <> '' as has_default
             from pg_attribute a
             join pg_class c on c.oid = a.attrelid
             join pg_namespace n on n.oid = c.relnamespace and n.nspname = $2
             join pg_type t on t.oid = a.atttypid
             where c.relname = any ($1) and a.attnum > 0 and not a.attisdropped",
        )
        .bind(tables)
        .bind(&self.name)
        .fetch_all(conn)
        .await?;
        for row in columns {
            if let Some(table) = self.tables.get_mut(&row.table_name) {
                let column = Column {
                    data_type: row.data_type,
                    not_null: row.not_null,
                    has_default: row.has_default,
                };
                table.columns.insert(row.name, column);
            }
        }
        Ok(())
    }

    async fn read_indexes(&mut self, conn: &mut PgConnection, tables: &[&str]) -> sqlx::Result<()> {
        let indexes: Vec<IndexRow> = sqlx::query_as(
            "select c.relname::text as table_name, i.relname::text as name, x.indisvalid as is_valid,
                 x.indisunique and x.indisvalid and x.indpred is null and x.indexprs is null and x.indimmediate as is_unique,
                 array(select a.attname::text from unnest(x.indkey[0:x.indnkeyatts - 1]) as k(attnum)
                       join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum) as columns,
                 case when x.indisunique and c.relname = 'admins' and pg_get_indexdef(x.indexrelid) ~ '\\memail\\M'
                     then x.indpred is not null end as has_condition
             from pg_index x
             join pg_class c on c.oid = x.indrelid
             join pg_class i on i.oid = x.indexrelid
             join pg_namespace n on n.oid = c.relnamespace and n.nspname = $2
             where c.relname = any ($1)",
        )
        .bind(tables)
        .bind(&self.name)
        .fetch_all(conn)
        .await?;
        for row in indexes {
            match row.has_condition {
                Some(false) => self.unique_emails = UniqueEmails::All,
                Some(true) if self.unique_emails == UniqueEmails::No => self.unique_emails = UniqueEmails::Live,
                _ => {}
            }
            self.indexes.insert(row.name, row.is_valid);
            if let Some(table) = self.tables.get_mut(&row.table_name).filter(|_| row.is_unique) {
                table.unique.push(row.columns);
            }
        }
        Ok(())
    }

    /// Checks that need the rows themselves, only where they matter.
    async fn look_at_rows(&mut self, conn: &mut PgConnection) -> sqlx::Result<()> {
        for (name, pair) in PAIRS {
            let Some(table) = self.tables.get_mut(*name) else {
                continue;
            };
            let has_pair = pair.iter().all(|column| table.columns.contains_key(*column));
            if table.is_table && has_pair && !table.is_unique(pair) {
                let [first, second] = pair;
                let text = format!(
                    "select count(*) from (select from {name} where {first} is not null and {second} is not null
                     group by {first}, {second} having count(*) > 1) as repeated"
                );
                table.repeated_pairs = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut *conn).await?;
            }
        }
        let has_column = self
            .tables
            .get("admins")
            .is_some_and(|admins| admins.is_table && admins.columns.contains_key("external_id"));
        if has_column {
            self.has_external_ids =
                sqlx::query_scalar("select exists (select from admins where external_id is not null)")
                    .fetch_one(conn)
                    .await?;
        }
        Ok(())
    }
}

/// The membership tables, and the pair of columns that must be unique in each.
pub(super) const PAIRS: &[(&str, [&str; 2])] = &[
    ("organization_users", ["organization_id", "admin_id"]),
    ("project_admins", ["project_id", "admin_id"]),
];
