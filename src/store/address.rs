//! Checks a database address without connecting to it.

pub(super) mod postgres;

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;

use super::Dialect;

/// The SQLite parameters that are allowed after `?`: they match what usher does anyway.
const SQLITE_PARAMETERS: &[&str] = &["mode=rw", "mode=rwc", "cache=private", "immutable=false", "immutable=0"];

/// Whether usher can work with this database address. Checks the file's location; creates nothing and connects to
/// nothing.
///
/// # Errors
/// What is wrong, as the rest of a sentence that begins with the variable's name. It never repeats the address.
pub fn check_address(url: &str) -> Result<(), String> {
    match Dialect::of(url) {
        None => Err("must begin with postgres:// or sqlite://".to_owned()),
        Some(Dialect::Sqlite) => check_sqlite(url),
        Some(Dialect::Postgres) => postgres::read(url).map(drop),
    }
}

fn check_sqlite(url: &str) -> Result<(), String> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(
            "must name a file: a database in memory is gone with its connection, and each has its own".to_owned(),
        );
    }
    if url.contains("mode=ro") {
        return Err(
            "opens the file for reading only; leave mode=ro out, and see that its file, folder and disk can be written to"
                .to_owned(),
        );
    }
    let parameters = url
        .split_once('?')
        .map(|(_, parameters)| parameters)
        .unwrap_or_default();
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        if !SQLITE_PARAMETERS.contains(&parameter) {
            return Err(
                "has a parameter after its ? that usher can't work with; leave it out: the file is opened for reading \
                 and writing"
                    .to_owned(),
            );
        }
    }
    let options: SqliteConnectOptions = url
        .parse()
        .map_err(|_| "can't be understood; it looks like sqlite:///var/lib/usher/usher.db".to_owned())?;
    check_file(options.get_filename())
}

fn check_file(path: &Path) -> Result<(), String> {
    let text = path.as_os_str().as_encoded_bytes();
    if text.trim_ascii().is_empty() || text.contains(&0) {
        return Err("names no file; it looks like sqlite:///var/lib/usher/usher.db".to_owned());
    }
    if text.ends_with(b"/") || path.is_dir() {
        return Err(format!("names a folder, {}, and must name a file", path.display()));
    }
    if path.exists() && !path.is_file() {
        return Err(format!("names {}, which is no file", path.display()));
    }
    // The nearest existing ancestor must be a folder: the rest is created in it.
    let nearest = path.ancestors().skip(1).find(|folder| folder.exists());
    match nearest {
        Some(there) if !there.is_dir() => Err(format!("names a file in {}, which is no folder", there.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_can_never_work_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
        std::fs::write(folder.path().join("file"), "").unwrap();
        for url in [
            "mysql://localhost/app",
            "",
            "sqlite:",
            "sqlite://",
            "sqlite://?mode=rwc",
            "sqlite:// ",
            "sqlite::memory:",
            "sqlite://:memory:",
            "sqlite://file::memory:?cache=shared",
            &at("x.db?mode=memory"),
            &at("x.db?mode=ro"),
            &at("x.db?immutable=1"),
            &at("x.db?vfs=memdb"),
            &at("x.db?cache=shared"),
            &at("x.db?nonsense"),
            &at(""),
            &at("new/"),
            &at("file/x.db"),
            &at("file/new/x.db"),
            "sqlite:///dev/null",
            "sqlite://%00",
            "postgres://localhost:99999/app",
            "postgres://u:hunter2@localhost:port/app",
            "postgres://localhost/app?sslmode=hunter2",
        ] {
            let problem = check_address(url).expect_err(url);
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        for url in [
            "sqlite:usher.db",
            &at("x.db"),
            &at("file"),
            &at("new/folder/x.db"),
            &at("x.db?mode=rwc&cache=private"),
            "postgres://localhost/app",
            "postgresql:///app?host=/run/postgresql",
        ] {
            assert_eq!(check_address(url), Ok(()), "{url}");
        }
    }
}
