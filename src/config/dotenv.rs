//! `.env` in the working directory, read strictly: a line that other parsers may read differently is an error. Its values are
//! not added to the process's environment, which all threads share.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::unknown::setting_names;
use crate::secret::Secret;

/// The file's name. Parent directories are not searched: a file there may belong to another program.
const FILE: &str = ".env";
/// In bytes. A larger file is not a file of settings.
const MAX_BYTES: usize = 1024 * 1024;
/// Variables that libraries read from the environment themselves, so that they have no effect here.
const READ_BY_LIBRARIES: &[&str] = &["PG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_"];

/// The content of `.env`.
#[derive(Debug)]
pub struct DotEnv {
    path: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq)]
struct Entry {
    line: usize,
    name: String,
    value: Secret,
}

/// Why `.env` can't be read. Never contains a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct DotEnvError(Vec<String>);

impl DotEnv {
    /// Reads `.env` in `folder`; `None` if there is none. Errors name every invalid line.
    pub fn read(folder: &Path) -> Result<Option<Self>, DotEnvError> {
        let path = folder.join(FILE);
        let path = std::path::absolute(&path).unwrap_or(path);
        let whole = |problem: String| DotEnvError(vec![format!("{} {problem}", path.display())]);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            // A broken link is an error.
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
            Err(error) if error.kind() == ErrorKind::IsADirectory => {
                return Err(whole("is a folder, and should be a file of settings".to_owned()));
            }
            Err(error) => return Err(whole(format!("can't be read: {error}"))),
        };
        if bytes.len() > MAX_BYTES {
            return Err(whole("is longer than 1 MiB; is it the right file?".to_owned()));
        }
        let entries = text_of(&bytes).and_then(parse).map_err(|problems| {
            let named = |(line, problem)| format!("{}, line {line}: {problem}", path.display());
            DotEnvError(problems.into_iter().map(named).collect())
        })?;
        Ok(Some(Self { path, entries }))
    }

    /// The value of a variable. If it is set more than once, the last one counts.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let entry = self.entries.iter().rev().find(|entry| entry.name == name)?;
        Some(entry.value.expose())
    }

    /// The names, in order and with repetitions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// Says in the log what was read, by name and never by value.
    pub fn announce(&self) {
        let path = self.path.display();
        let known = setting_names();
        let mut settings: Vec<&str> = self
            .names()
            .filter(|name| known.iter().any(|known| known == name))
            .collect();
        let others = self.entries.len() - settings.len();
        settings.sort_unstable();
        settings.dedup();
        tracing::info!(
            "read {} settings from {path} ({}); {others} other lines in it are not usher's. What the environment sets \
             counts more",
            settings.len(),
            settings.join(", "),
        );
        for (name, first, last) in self.repeated() {
            tracing::warn!("{path} sets {name} on line {first} and again on line {last}; the last one counts");
        }
        let unseen: Vec<&str> = self
            .names()
            .filter(|name| {
                READ_BY_LIBRARIES
                    .iter()
                    .any(|known| name.to_uppercase().starts_with(known))
            })
            .collect();
        if !unseen.is_empty() {
            tracing::warn!(
                "{path} sets {}, which counts in the environment only: export it there, or put it into \
                 USHER_DATABASE_URL",
                unseen.join(", ")
            );
        }
    }

    /// Names that are set more than once, each with its first and last line.
    fn repeated(&self) -> Vec<(&str, usize, usize)> {
        let mut repeated = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let is_first = !self.entries[..index].iter().any(|earlier| earlier.name == entry.name);
            let last = self.entries.iter().rev().find(|later| later.name == entry.name);
            if let Some(last) = last.filter(|last| is_first && last.line != entry.line) {
                repeated.push((entry.name.as_str(), entry.line, last.line));
            }
        }
        repeated
    }
}

/// A line's number, from 1, and what is wrong with it.
type Problem = (usize, String);

/// The text without the byte order mark that some editors add.
fn text_of(bytes: &[u8]) -> Result<&str, Vec<Problem>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
        vec![(line, "is not UTF-8; save the file in that encoding".to_owned())]
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn parse(text: &str) -> Result<Vec<Entry>, Vec<Problem>> {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    let mut lines = (1..).zip(text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)));
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut more = || lines.next().map(|(_, line)| line);
        match setting(line, &mut more) {
            Ok((name, value)) => entries.push(Entry {
                line: number,
                name: name.to_owned(),
                value: Secret::from(value),
            }),
            Err(problem) => problems.push((number, problem)),
        }
    }
    if problems.is_empty() {
        Ok(entries)
    } else {
        Err(problems)
    }
}

/// `NAME=value` or `export NAME=value`. `more` returns the next line, for a quoted value of several lines.
fn setting<'a>(line: &'a str, more: &mut dyn FnMut() -> Option<&'a str>) -> Result<(&'a str, String), String> {
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    // An invalid name may be part of a secret, so the error does not contain it.
    let (name, value) = line
        .split_once('=')
        .map(|(name, value)| (name.trim_end(), value))
        .filter(|(name, _)| is_name(name))
        .ok_or("is no setting; write NAME=value, or # before a comment")?;
    let bare = value.trim_start();
    let value = match bare.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(name, quote, &bare[1..], more)?,
        Some('#') if bare.len() < value.len() => String::new(),
        _ => unquoted(name, bare)?,
    };
    if value.contains('\0') {
        return Err(format!("{name} has a NUL character in its value"));
    }
    Ok((name, value))
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

/// A value without quotes: one word, and a comment after a space and `#`.
fn unquoted(name: &str, text: &str) -> Result<String, String> {
    let is_comment = |at: usize| text[..at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = text.match_indices('#').find(|&(at, _)| is_comment(at) && at > 0);
    let value = comment.map_or(text, |(at, _)| &text[..at]).trim_end();
    if value.starts_with('#') {
        return Err(format!(
            "{name} has a value that begins with #; write {name}='…' if it belongs to it, or leave the value empty"
        ));
    }
    if value.contains(char::is_whitespace) {
        return Err(format!(
            "{name} has a space in its value and no quotes around it; write {name}='…'"
        ));
    }
    if value.contains(['"', '\'', '`']) {
        return Err(format!(
            "{name} has a quote within its value; write {name}='…' or {name}=\"…\" around all of it"
        ));
    }
    if value.contains('$') {
        return Err(format!(
            "{name} has a $ in its value, and no variables are put in here; write {name}='…' if it belongs to the value"
        ));
    }
    Ok(value.to_owned())
}

/// A value in quotes, of one or more lines. In single quotes all characters are literal; in double quotes `\n`, `\"`, `\\`,
/// `\$` and a backslash at the end of a line mean the same as in a shell.
fn quoted<'a>(
    name: &str,
    quote: char,
    first: &'a str,
    more: &mut dyn FnMut() -> Option<&'a str>,
) -> Result<String, String> {
    let mut value = String::new();
    let mut line = first;
    loop {
        let mut characters = line.char_indices();
        let mut is_continued = false;
        while let Some((at, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    let rest = line[at + 1..].trim_start();
                    if rest.is_empty() || (rest.starts_with('#') && line[at + 1..].starts_with(char::is_whitespace)) {
                        return Ok(value);
                    }
                    return Err(format!(
                        "{name} has something after the quote that ends its value; write \\{quote} for a quote within \
                         double quotes, and a space and # before a comment"
                    ));
                }
                '\\' if quote == '"' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 'r')) => value.push('\r'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, itself @ ('"' | '\'' | '\\' | '$' | '`' | ' '))) => value.push(itself),
                    None => is_continued = true,
                    Some(_) => {
                        return Err(format!(
                            "{name} has a backslash that stands for nothing; write \\\\ for one, or {name}='…'"
                        ));
                    }
                },
                '$' if quote == '"' => {
                    return Err(format!(
                        "{name} has a $ in its value, and no variables are put in here; write \\$, or {name}='…'"
                    ));
                }
                _ => value.push(character),
            }
        }
        line = more().ok_or_else(|| format!("{name} has a quote before its value and none after it"))?;
        if !is_continued {
            value.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, Vec<Problem>> {
        let pair = |entry: Entry| (entry.name, entry.value.expose().to_owned());
        Ok(parse(text_of(text.as_bytes())?)?.into_iter().map(pair).collect())
    }

    #[test]
    fn what_is_clear_is_read_as_a_shell_would() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=", ""),
            ("A=   ", ""),
            ("A=''", ""),
            ("A= # a comment", ""),
            ("A = b", "b"),
            ("  A=b  ", "b"),
            ("export A=b", "b"),
            ("export\tA=b", "b"),
            ("A=b # a comment", "b"),
            ("A=b#c", "b#c"),
            (
                "A=https://app.example.com/invite#{token}",
                "https://app.example.com/invite#{token}",
            ),
            (
                "A=smtp://u:p@h:587?tls=required&x==",
                "smtp://u:p@h:587?tls=required&x==",
            ),
            ("A=a\\nb", "a\\nb"),
            ("A='My App'", "My App"),
            ("A='$x \\n \"'", "$x \\n \""),
            ("A=\"Team <a@b>\" # sender", "Team <a@b>"),
            ("A=\"a\\nb\\\"\\\\\\$\"", "a\nb\"\\$"),
            ("A=\"a\nb\"", "a\nb"),
            ("A='a\n# no comment\n\nb'", "a\n# no comment\n\nb"),
            ("A=\"a\\\nb\"", "ab"),
            ("\u{feff}A=b\r\n", "b"),
            ("# A=c\r\n\r\nA=b\r\n", "b"),
            ("A=\"a\r\nb\"\r\n", "a\nb"),
            ("A=\u{e4}\u{f6}", "\u{e4}\u{f6}"),
        ] {
            assert_eq!(read(text), Ok(vec![("A".to_owned(), value.to_owned())]), "{text:?}");
        }
        for nothing in ["", "\n\n", "# A=b", "\u{feff}", "  \t"] {
            assert_eq!(read(nothing), Ok(Vec::new()), "{nothing:?}");
        }
    }

    #[test]
    fn what_others_might_read_otherwise_is_refused_by_its_line_and_never_repeated() {
        for text in [
            "A=hunter2 x",
            "A=Team <hunter2@b>",
            "A='hunter2",
            "A=\"hunter2",
            "A='hunter2'x",
            "A='hunter2'#x",
            "A=\"hunter2\" x",
            "A=it's hunter2",
            "A=it's-hunter2",
            "A=pa$hunter2",
            "A=\"pa$hunter2\"",
            "A=\"hunter2\\q\"",
            "A=#hunter2",
            "A: hunter2",
            "hunter2",
            "=hunter2",
            "1A=hunter2",
            "A B=hunter2",
            "set A=hunter2",
            "export hunter2",
            "A-B=hunter2",
            "A=hunter2\0",
        ] {
            let problems = read(&format!("X=1\n\n{text}")).unwrap_err();
            assert_eq!(problems.len(), 1, "{text:?}: {problems:?}");
            assert_eq!(problems[0].0, 3, "{text:?}: {problems:?}");
            assert!(!problems[0].1.contains("hunter2"), "{text:?}: {problems:?}");
        }
    }

    #[test]
    fn every_line_that_is_wrong_is_named_at_once() {
        let problems = read("A=x y\nB=1\nC\nD='a\nb'\nE=$x\n").unwrap_err();
        let lines: Vec<usize> = problems.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 6]);
    }

    #[test]
    fn a_byte_that_is_no_text_is_named_by_its_line() {
        assert_eq!(text_of(b"A=1\nB=\xff\n").unwrap_err()[0].0, 2);
    }

    #[test]
    fn of_two_lines_the_last_counts() {
        let entries = parse("A=1\nB=2\nA=3\nA=4").unwrap();
        let file = DotEnv {
            path: PathBuf::from(FILE),
            entries,
        };
        assert_eq!(file.get("A"), Some("4"));
        assert_eq!(file.repeated(), [("A", 1, 4)]);
    }
}
