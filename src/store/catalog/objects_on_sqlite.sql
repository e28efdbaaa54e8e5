-- What the file's schema consists of, one row each.
objects (kind, name, of_table, fingerprint, is_needed, is_obligatory, definition) as (
    select type, name, tbl_name, sql, true, false, sql from sqlite_master where sql is not null and name not like 'sqlite\_%' escape '\'
)
