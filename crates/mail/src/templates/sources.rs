//! Where templates come from: the binary, and file by file from a folder.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{MAIN_SEPARATOR, Path, PathBuf},
};

use super::{TemplateError, language};
use crate::messages::MailKind;

/// The files of every mail, in the folder of each language.
pub(crate) const PARTS: [&str; 3] = ["subject.txt.hbs", "body.txt.hbs", "body.html.hbs"];
/// Bytes of a file: the largest that ships with usher has 2 KB, and mail programs cut off what is over 100.
const MAX_FILE: u64 = 128 * 1024;
/// What all languages share.
const SHARED: [&str; 6] = [
    STYLE,
    "layout.html.hbs",
    "layout.txt.hbs",
    "quote.html.hbs",
    "button.html.hbs",
    "link.html.hbs",
];
pub(crate) const STYLE: &str = "style.css";
/// How a language writes roles and times.
pub(crate) const LOCALE: &str = "locale.json";

macro_rules! embedded {
    ($($name:expr),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../templates/", $name)))),*]
    };
}

macro_rules! language {
    ($tag:literal) => {
        embedded![
            concat!($tag, "/locale.json"),
            concat!($tag, "/organization_invite/subject.txt.hbs"),
            concat!($tag, "/organization_invite/body.txt.hbs"),
            concat!($tag, "/organization_invite/body.html.hbs"),
            concat!($tag, "/project_invite/subject.txt.hbs"),
            concat!($tag, "/project_invite/body.txt.hbs"),
            concat!($tag, "/project_invite/body.html.hbs"),
            concat!($tag, "/reminder/subject.txt.hbs"),
            concat!($tag, "/reminder/body.txt.hbs"),
            concat!($tag, "/reminder/body.html.hbs"),
            concat!($tag, "/accepted_notice/subject.txt.hbs"),
            concat!($tag, "/accepted_notice/body.txt.hbs"),
            concat!($tag, "/accepted_notice/body.html.hbs"),
        ]
    };
}

/// A file that ships with usher: its path below `templates/`, and its text.
type Embedded = (&'static str, &'static str);

/// The files that ship with usher.
pub(crate) const EMBEDDED: [&[Embedded]; 6] = [
    embedded![
        "style.css",
        "layout.html.hbs",
        "layout.txt.hbs",
        "quote.html.hbs",
        "button.html.hbs",
        "link.html.hbs",
    ],
    language!("en"),
    language!("de"),
    language!("es"),
    language!("fr"),
    language!("ja"),
];

/// A file that is in force.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where it came from, for error messages.
    pub(crate) file: String,
    pub(crate) text: String,
}

/// The files in force, by their path below `templates/`.
pub(crate) type Sources = BTreeMap<String, Source>;

/// The files that ship with usher and, in their place or beside them, those in `overrides`.
pub(crate) fn gather(overrides: Option<&Path>) -> (Sources, Vec<TemplateError>) {
    let embedded = EMBEDDED.iter().flat_map(|sources| sources.iter());
    let mut sources: Sources = embedded
        .map(|(name, text)| {
            let source = Source {
                file: format!("templates/{name}"),
                text: (*text).to_owned(),
            };
            ((*name).to_owned(), source)
        })
        .collect();
    let mut errors = Vec::new();
    let paths = match overrides.map(|folder| files_below(folder, 2).map(|paths| (folder, paths))) {
        None => return (sources, errors),
        Some(Err(error)) => return (sources, vec![error]),
        Some(Ok((folder, paths))) => paths.into_iter().map(move |path| (folder, path)),
    };
    for (folder, path) in paths {
        let Some(name) = path.strip_prefix(folder).ok().and_then(Path::to_str) else {
            continue;
        };
        if is_known(name) {
            match read(&path) {
                Ok(text) => {
                    let file = path.display().to_string();
                    sources.insert(key(name), Source { file, text });
                }
                Err(source) => errors.push(TemplateError::Unreadable { path, source }),
            }
        } else if [".hbs", ".css", LOCALE].iter().any(|end| name.ends_with(end)) {
            // `de/organisation_invite/body.txt.hbs` would otherwise lie there unread, and nobody would know why.
            errors.push(TemplateError::UnknownFile { path, names: names() });
        }
    }
    (sources, errors)
}

/// The text of a file that is no larger than a template may be.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        let reason = format!("it is larger than {} KiB", MAX_FILE / 1024);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

/// Languages are looked up in lower case.
fn key(name: &str) -> String {
    match name.split_once(MAIN_SEPARATOR) {
        Some((tag, rest)) => format!("{}/{}", tag.to_ascii_lowercase(), rest.replace(MAIN_SEPARATOR, "/")),
        None => name.to_owned(),
    }
}

fn is_known(name: &str) -> bool {
    let is_mail = |name: &str| MailKind::ALL.iter().any(|mail| mail.as_str() == name);
    let parts: Vec<&str> = name.split(MAIN_SEPARATOR).collect();
    match parts[..] {
        [file] => SHARED.contains(&file),
        [tag, file] => language::is_tag(tag) && file == LOCALE,
        [tag, mail, file] => language::is_tag(tag) && is_mail(mail) && PARTS.contains(&file),
        _ => false,
    }
}

fn names() -> String {
    let mails: Vec<&str> = MailKind::ALL.iter().map(|mail| mail.as_str()).collect();
    format!(
        "{}, <language>/{LOCALE} and <language>/<mail>/<part>, where a mail is {} and a part {}",
        SHARED.join(", "),
        mails.join(", "),
        PARTS.join(", ")
    )
}

/// The files of a folder and of the folders in it, so many levels down: templates lie no deeper.
fn files_below(folder: &Path, levels: usize) -> Result<Vec<PathBuf>, TemplateError> {
    let list = || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let paths = list().map_err(|source| TemplateError::Unreadable {
        path: folder.to_owned(),
        source,
    })?;
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path);
        } else if levels > 0 {
            files.extend(files_below(&path, levels - 1)?);
        }
    }
    files.sort();
    Ok(files)
}
