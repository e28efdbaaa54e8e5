//! What can be wrong with templates.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a template can't be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The folder or one of its files can't be read.
    #[error("can't read {}: {source}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file in the folder that no mail uses: most likely a misspelt name.
    #[error("{}: no mail uses this file; the names are {names}", path.display())]
    UnknownFile {
        /// The file.
        path: PathBuf,
        /// What it could be called.
        names: String,
    },
    /// A language has some of a mail's files, but not this one.
    #[error("{name} is missing: add it, or remove the other files of this mail")]
    Missing {
        /// The file's path below the folder.
        name: String,
    },
    /// The language that everything falls back to is not there.
    #[error("there are no templates for `{wanted}`, or not for all mails; the languages are {there}")]
    NoLanguage {
        /// The language.
        wanted: String,
        /// What could be chosen.
        there: String,
    },
    /// `{{{value}}}` or `{{&value}}`, which print a stranger's words unescaped.
    #[error("{file}, line {line}: {{{{{{ and {{{{& print values unescaped, write {{{{ instead")]
    Unescaped {
        /// The file.
        file: String,
        /// Counted from 1.
        line: usize,
    },
    /// Not handlebars, not HTML that can be given its style, or not what a language needs.
    #[error("{file}, line {line}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A name in the template that the mail has no value for, a missing partial, and the like.
    #[error("{file}{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Render {
        /// The file.
        file: String,
        /// Counted from 1, where handlebars knows it.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
}

/// All that is wrong with the templates, a line each.
#[derive(Debug)]
pub struct TemplateErrors(pub Vec<TemplateError>);

impl fmt::Display for TemplateErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for TemplateErrors {}
