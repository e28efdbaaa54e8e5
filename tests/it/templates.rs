//! The mails' words: what ships is what people read, and what somebody puts in its place is checked first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mail_parser::MessageParser;
use tempfile::TempDir;

/// What every mail looks like. To accept a change: `cargo run -- templates preview tests/snapshots`.
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots");

/// Runs `usher templates …` with nothing of this process's environment, in `folder`.
fn templates(folder: &Path, arguments: &[&str], overrides: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usher"));
    command
        .arg("templates")
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null());
    if let Some(overrides) = overrides {
        command.env("TEMPLATES_DIR", overrides);
    }
    command.output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn folder_with(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn all_mails_in_all_languages_look_as_they_did() {
    let folder = tempfile::tempdir().unwrap();
    let preview = templates(folder.path(), &["preview", "."], None);
    assert!(preview.status.success(), "{preview:?}");
    let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|end| end == "txt" || end == "html");
    let relative = |root: &Path| -> Vec<PathBuf> {
        let paths = files_below(root).into_iter().filter(is_snapshot);
        let paths = paths.map(|path| path.strip_prefix(root).unwrap().to_owned());
        paths.filter(|path| path.components().count() == 2).collect()
    };
    let written = relative(folder.path());
    assert_eq!(written, relative(Path::new(SNAPSHOTS)));
    assert_eq!(
        written.len(),
        5 * 4 * 2 * 2,
        "languages, mails, with and without what is optional, two parts"
    );
    for path in written {
        let now = fs::read_to_string(folder.path().join(&path)).unwrap();
        let before = fs::read_to_string(Path::new(SNAPSHOTS).join(&path)).unwrap();
        assert!(
            now == before,
            "{} has changed; if it should: cargo run -- templates preview tests/snapshots\n{now}",
            path.display()
        );
    }
}

#[test]
fn a_preview_holds_whole_mails_and_a_page_that_links_them() {
    let folder = tempfile::tempdir().unwrap();
    assert!(templates(folder.path(), &["preview", "out"], None).status.success());
    let out = folder.path().join("out");
    let page = fs::read_to_string(out.join("index.html")).unwrap();
    for path in files_below(&out)
        .into_iter()
        .filter(|path| !path.ends_with("index.html"))
    {
        let link = format!("href=\"{}\"", path.strip_prefix(&out).unwrap().display());
        assert!(page.contains(&link), "{link}");
        if path.extension().is_some_and(|end| end == "eml") {
            let raw = fs::read(&path).unwrap();
            let mail = MessageParser::default().parse(&raw).unwrap();
            assert!(
                mail.body_html(0).is_some() && mail.body_text(0).is_some(),
                "{}",
                path.display()
            );
            let language = path.parent().unwrap().file_name().unwrap().to_str();
            assert_eq!(
                mail.header("Content-Language").and_then(|header| header.as_text()),
                language
            );
        }
    }
    assert!(!folder.path().join("var").exists(), "no secrets are made or asked for");
}

#[test]
fn a_check_ends_well_or_names_file_and_line() {
    let nothing = tempfile::tempdir().unwrap();
    let good = templates(nothing.path(), &["check"], None);
    assert!(good.status.success(), "{good:?}");
    for language in ["de", "en", "es", "fr", "ja"] {
        assert!(said(&good.stdout).contains(&format!("{language}: all mails are well\n")));
    }

    let bad = folder_with(&[
        ("en/reminder/body.txt.hbs", "Hello\n{{organisation_name}}\n"),
        ("de/reminder/body.html.hbs", "<p>\n\n{{~{link}}}</p>\n"),
        ("pt/reminder/body.txt.hbs", "x"),
        ("en/remainder/body.txt.hbs", "x"),
    ]);
    let refused = templates(nothing.path(), &["check"], Some(bad.path()));
    assert_eq!(refused.status.code(), Some(1));
    let why = said(&refused.stderr);
    for expected in [
        "de/reminder/body.html.hbs, line 3: {{{ and {{& print values unescaped, write {{ instead",
        "en/remainder/body.txt.hbs: no mail uses this file",
        "pt/reminder/subject.txt.hbs is missing: add it",
        "pt/locale.json is missing: add it",
    ] {
        assert!(why.contains(expected), "no “{expected}” in:\n{why}");
    }
    let unknown = folder_with(&[("en/reminder/body.txt.hbs", "Hello\n{{organisation_name}}\n")]);
    let why = said(&templates(nothing.path(), &["check"], Some(unknown.path())).stderr);
    assert!(
        why.contains("en/reminder/body.txt.hbs, line 2: ") && why.contains("organisation_name"),
        "{why}"
    );
}

#[test]
fn the_templates_that_ship_are_laid_out_as_those_that_replace_them() {
    let ours = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/templates"));
    let checked = templates(ours, &["check"], Some(ours));
    assert!(checked.status.success(), "{}", said(&checked.stderr));
}
