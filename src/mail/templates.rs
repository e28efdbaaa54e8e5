//! The mails' words: handlebars templates, embedded in the binary, each file replaceable from a folder.
//!
//! Strict on purpose. A template that names a value which doesn't exist, that would print a value unescaped, or whose
//! file name nobody asks for is refused at the start, not when the first invite should have gone out.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use handlebars::{Handlebars, no_escape};

use super::{
    messages::{AcceptedNotice, Mail, OrganizationInvite, ProjectInvite},
    text::OneLine,
};

macro_rules! embedded {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("../../templates/", $name, ".hbs")))),*]
    };
}

/// Every template there is: its name (the file's path without `.hbs`) and the text that ships with usher.
const EMBEDDED: &[(&str, &str)] = embedded![
    "layout.html",
    "organization_invite/subject.txt",
    "organization_invite/body.txt",
    "organization_invite/body.html",
    "project_invite/subject.txt",
    "project_invite/body.txt",
    "project_invite/body.html",
    "accepted_notice/subject.txt",
    "accepted_notice/body.txt",
    "accepted_notice/body.html",
];

/// A mail's words, ready to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The name of its template.
    pub template: &'static str,
    /// One line without control characters.
    pub subject: String,
    /// The plain text part.
    pub text: String,
    /// The HTML part.
    pub html: String,
}

/// The bodies hold the link and so the token, which must not reach a log.
impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendered")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// Why a template can't be used.
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
    /// A template in the folder that no mail uses: most likely a misspelt name.
    #[error("{} is not the name of a template; the names are {}", path.display(), names())]
    UnknownFile {
        /// The file.
        path: PathBuf,
    },
    /// `{{{value}}}` or `{{&value}}`, which print a stranger's words unescaped.
    #[error("{file}, line {line}: {{{{{{ and {{{{& print values unescaped, write {{{{ instead")]
    Unescaped {
        /// The template.
        file: String,
        /// Counted from 1.
        line: usize,
    },
    /// Not handlebars.
    #[error("{file}, line {line}: {reason}")]
    Syntax {
        /// The template.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A name in the template that the mail has no value for, a missing partial, and the like.
    #[error("{file}{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Render {
        /// The template.
        file: String,
        /// Counted from 1, where handlebars knows it.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
}

/// All templates, parsed and tried out.
#[derive(Debug)]
pub struct Templates {
    /// Subjects and text parts: values as they are.
    text: Handlebars<'static>,
    /// HTML parts: values escaped. Two registries, because handlebars knows one escape function per registry.
    html: Handlebars<'static>,
    /// Where each template came from, for error messages.
    files: BTreeMap<&'static str, String>,
}

impl Templates {
    /// Loads the embedded templates and, in their place, the files of the same name in `overrides`.
    ///
    /// # Errors
    ///
    /// If the folder can't be read or holds a template with an unknown name, or if any template can't be parsed, prints
    /// values unescaped or fails to render its mail's samples.
    pub fn load(overrides: Option<&Path>) -> Result<Self, TemplateError> {
        if let Some(folder) = overrides {
            refuse_unknown_files(folder)?;
        }
        let mut templates = Self {
            text: registry(),
            html: registry(),
            files: BTreeMap::new(),
        };
        templates.text.register_escape_fn(no_escape);
        for (name, embedded) in EMBEDDED {
            match overrides.map(|folder| folder.join(format!("{name}.hbs"))) {
                Some(path) if path.exists() => {
                    let source = fs::read_to_string(&path).map_err(|source| TemplateError::Unreadable {
                        path: path.clone(),
                        source,
                    })?;
                    templates.add(name, path.display().to_string(), &source)?;
                }
                _ => templates.add(name, format!("templates/{name}.hbs"), embedded)?,
            }
        }
        templates.samples()?;
        Ok(templates)
    }

    /// Renders one mail.
    ///
    /// # Errors
    ///
    /// Only for a [`Mail`] whose samples differ from what it holds in operation: [`Templates::load`] tried the rest.
    pub fn render<M: Mail>(&self, mail: &M) -> Result<Rendered, TemplateError> {
        Ok(Rendered {
            template: M::TEMPLATE,
            subject: OneLine::from(self.part(mail, "subject.txt")?).into(),
            text: self.part(mail, "body.txt")?,
            html: self.part(mail, "body.html")?,
        })
    }

    /// Every mail with its samples, under the template's name: what a preview shows.
    ///
    /// # Errors
    ///
    /// The first template that fails; never once [`Templates::load`] has returned.
    pub fn samples(&self) -> Result<Vec<(&'static str, Rendered)>, TemplateError> {
        fn both<M: Mail>(templates: &Templates) -> Result<[(&'static str, Rendered); 2], TemplateError> {
            Ok([
                (M::TEMPLATE, templates.render(&M::sample())?),
                (M::TEMPLATE, templates.render(&M::bare_sample())?),
            ])
        }
        let samples = [
            both::<OrganizationInvite>(self)?,
            both::<ProjectInvite>(self)?,
            both::<AcceptedNotice>(self)?,
        ];
        Ok(samples.into_iter().flatten().collect())
    }

    fn add(&mut self, name: &'static str, file: String, source: &str) -> Result<(), TemplateError> {
        if let Some(line) = first_unescaped(source) {
            return Err(TemplateError::Unescaped { file, line });
        }
        let registry = if name.ends_with(".html") {
            &mut self.html
        } else {
            &mut self.text
        };
        if let Err(error) = registry.register_template_string(name, source) {
            return Err(TemplateError::Syntax {
                file,
                line: error.pos().map_or(1, |(line, _)| line),
                reason: error.reason().to_string(),
            });
        }
        self.files.insert(name, file);
        Ok(())
    }

    fn part<M: Mail>(&self, mail: &M, part: &str) -> Result<String, TemplateError> {
        let name = format!("{}/{part}", M::TEMPLATE);
        let registry = if part.ends_with(".html") {
            &self.html
        } else {
            &self.text
        };
        let written = registry.render(&name, mail).map_err(|error| {
            // In a partial, that's where the fault is.
            let culprit = error.template_name.as_deref().unwrap_or(&name);
            TemplateError::Render {
                file: self.files.get(culprit).cloned().unwrap_or_else(|| culprit.to_owned()),
                line: error.line_no,
                reason: error.reason().to_string(),
            }
        })?;
        Ok(written.replace("\r\n", "\n"))
    }
}

fn registry() -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    registry
}

/// The line of the first expression that handlebars would print unescaped. It looks at comments as well, which is the
/// safe way to be wrong.
fn first_unescaped(source: &str) -> Option<usize> {
    let mut offset = 0;
    while let Some(found) = source[offset..].find("{{") {
        offset += found + "{{".len();
        // Handlebars allows `{{~{`, `{{ &` and the like.
        let inside = source[offset..].trim_start_matches(|c: char| c == '~' || c.is_whitespace());
        if inside.starts_with(['{', '&']) {
            return Some(source[..offset].lines().count());
        }
    }
    None
}

/// `organisation_invite/body.txt.hbs` would otherwise lie there unread, and nobody would know why.
fn refuse_unknown_files(folder: &Path) -> Result<(), TemplateError> {
    for path in files_below(folder)? {
        let known = |name: &str| path == folder.join(format!("{name}.hbs"));
        if path.extension().is_some_and(|extension| extension == "hbs") && !EMBEDDED.iter().any(|(name, _)| known(name))
        {
            return Err(TemplateError::UnknownFile { path });
        }
    }
    Ok(())
}

/// The files of a folder and of the folders in it: templates lie no deeper.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, TemplateError> {
    let list =
        |folder: &Path| -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut files = Vec::new();
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| TemplateError::Unreadable { path, source }
    };
    for path in list(folder).map_err(unreadable(folder))? {
        if path.is_dir() {
            files.extend(list(&path).map_err(unreadable(&path))?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn names() -> String {
    let names: Vec<String> = EMBEDDED.iter().map(|(name, _)| format!("{name}.hbs")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody might type into a name field on a bad day.
    const HOSTILE: &[&str] = &[
        "<script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "Acme\r\nBcc: everyone@example.com\r\n\r\n<html>",
        "Acme\0\u{1b}[2J\u{7f}\u{9b}",
        "Acme\u{2028}\u{2029}Ltd",
        "\u{202e}moc.elpmaxe\u{2066}",
        "{{app_name}} {{{link}}} {{&link}} {{> layout.html}} {{#each this}}",
        "${7*7} #{7*7} <%= 7*7 %>",
        "<!--[if mso]><![endif]--></style></title></table>",
        "",
    ];

    fn hostile_mails(value: &str) -> (OrganizationInvite, ProjectInvite, AcceptedNotice) {
        let organization = OrganizationInvite {
            app_name: value.into(),
            organization_name: value.into(),
            inviter_name: Some(value.into()),
            role: value.into(),
            message: Some(value.into()),
            email: value.into(),
            ..OrganizationInvite::sample()
        };
        let project = ProjectInvite {
            app_name: value.into(),
            organization_name: value.into(),
            project_name: value.into(),
            inviter_name: Some(value.into()),
            role: value.into(),
            message: Some(value.into()),
            email: value.into(),
            ..ProjectInvite::sample()
        };
        let notice = AcceptedNotice {
            app_name: value.into(),
            organization_name: value.into(),
            project_name: Some(value.into()),
            invitee_name: Some(value.into()),
            invitee_email: value.into(),
            inviter_name: Some(value.into()),
        };
        (organization, project, notice)
    }

    /// The tags of an HTML text with all that is in them: what a value must not be able to change, except that a message
    /// of several lines breaks them.
    fn skeleton(html: &str) -> Vec<String> {
        html.split('<')
            .skip(1)
            .map(|tag| tag.split('>').next().unwrap().to_owned())
            .filter(|tag| tag != "br")
            .collect()
    }

    #[test]
    fn every_template_renders_every_sample() {
        let samples = Templates::load(None).unwrap().samples().unwrap();
        assert_eq!(samples.len(), 6);
        for (name, mail) in samples {
            assert!(!mail.subject.is_empty() && !mail.text.is_empty(), "{name}");
            assert!(mail.html.trim_end().ends_with("</html>"), "{name}");
            assert!(
                !mail.html.contains("http://") && !mail.html.contains("<img"),
                "{name} loads nothing"
            );
            assert!(!mail.text.contains("\n\n\n"), "{name} has no holes:\n{}", mail.text);
        }
    }

    #[test]
    fn an_invite_says_all_that_the_invitee_must_know() {
        let templates = Templates::load(None).unwrap();
        let invite = ProjectInvite::sample();
        let mail = templates.render(&invite).unwrap();
        for part in [&mail.text, &mail.html] {
            for fact in [
                "Ada Lovelace",
                "Difference Engine No. 2",
                "Analytical Engines",
                "editor",
                "The drawings are in the first folder.",
                "29 November 2026, 14:30 UTC",
                "grace@example.com",
                invite.link.as_str(),
            ] {
                assert!(part.contains(fact), "{fact} is missing in\n{part}");
            }
        }
        assert!(
            mail.html.matches(invite.link.as_str()).count() >= 2,
            "a button and the bare link"
        );
    }

    #[test]
    fn a_message_is_quoted_line_by_line() {
        let invite = OrganizationInvite {
            message: Some("one\r\n\r\ntwo\u{2028}--\nBest".into()),
            ..OrganizationInvite::sample()
        };
        let mail = Templates::load(None).unwrap().render(&invite).unwrap();
        assert!(
            mail.text.contains("\n> one\n> \n> two\n> --\n> Best\n"),
            "{}",
            mail.text
        );
        assert!(mail.html.contains("one<br><br>two<br>--<br>Best"), "{}", mail.html);
    }

    #[test]
    fn hostile_values_change_neither_markup_nor_lines() {
        let templates = Templates::load(None).unwrap();
        let (organization, project, notice) = hostile_mails("x");
        let tame = [
            templates.render(&organization).unwrap(),
            templates.render(&project).unwrap(),
            templates.render(&notice).unwrap(),
        ];
        // An empty value takes another branch of the template and so makes another, equally fixed, skeleton.
        for value in HOSTILE.iter().filter(|value| !value.is_empty()) {
            let (organization, project, notice) = hostile_mails(value);
            let hostile = [
                templates.render(&organization).unwrap(),
                templates.render(&project).unwrap(),
                templates.render(&notice).unwrap(),
            ];
            for (mail, tame) in hostile.iter().zip(&tame) {
                assert_eq!(skeleton(&mail.html), skeleton(&tame.html), "{value:?}");
                assert!(
                    !mail.subject.contains(char::is_control),
                    "{value:?}: {:?}",
                    mail.subject
                );
                for part in [&mail.subject, &mail.text, &mail.html] {
                    let harmful = |c: char| {
                        (c.is_control() && c != '\n')
                            || ('\u{2028}'..='\u{202e}').contains(&c)
                            || ('\u{2066}'..='\u{2069}').contains(&c)
                    };
                    assert!(!part.contains(harmful), "{value:?}");
                }
                let injected = mail
                    .text
                    .lines()
                    .any(|line| line.starts_with("Bcc") || line.starts_with("<html"));
                assert!(!injected, "{}", mail.text);
            }
        }
    }

    #[test]
    fn handlebars_in_a_value_is_only_text() {
        let invite = OrganizationInvite {
            organization_name: "{{app_name}} & {{{link}}}".into(),
            ..OrganizationInvite::sample()
        };
        let mail = Templates::load(None).unwrap().render(&invite).unwrap();
        assert!(mail.subject.contains("{{app_name}} & {{{link}}}"), "{}", mail.subject);
        assert!(mail.html.contains("{{app_name}} &amp; {{{link}}}"), "{}", mail.html);
    }

    #[test]
    fn a_long_message_and_an_empty_one_both_fit() {
        let templates = Templates::load(None).unwrap();
        let with = |message: &str| OrganizationInvite {
            message: Some(message.into()),
            ..OrganizationInvite::sample()
        };
        let long = templates.render(&with(&"lorem ".repeat(1_700))).unwrap();
        assert!(long.text.len() > 10_000);
        let empty = templates.render(&with(" \r\n ")).unwrap();
        let none = OrganizationInvite {
            message: None,
            ..OrganizationInvite::sample()
        };
        assert_eq!(empty, templates.render(&none).unwrap());
    }

    #[test]
    fn a_file_in_the_folder_replaces_its_template_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("project_invite")).unwrap();
        fs::write(folder.path().join("project_invite/subject.txt.hbs"), "Hi {{email}}\r\n").unwrap();
        fs::write(folder.path().join("README.md"), "{{{notes}}}").unwrap();
        let templates = Templates::load(Some(folder.path())).unwrap();
        let mail = templates.render(&ProjectInvite::sample()).unwrap();
        assert_eq!(mail.subject, "Hi grace@example.com");
        let embedded = Templates::load(None).unwrap().render(&ProjectInvite::sample()).unwrap();
        assert_eq!((mail.text, mail.html), (embedded.text, embedded.html));
    }

    #[test]
    fn a_bad_template_is_refused_at_the_start_with_file_and_line() {
        let cases = [
            (
                "project_invite/body.txt",
                "one\ntwo {{{link}}}\n",
                "project_invite/body.txt.hbs, line 2:",
            ),
            (
                "project_invite/body.html",
                "{{&link}}",
                "project_invite/body.html.hbs, line 1:",
            ),
            ("project_invite/body.html", "\n\n{{ ~ &link}}", "line 3:"),
            ("project_invite/body.html", "{{~{link}~}}", "line 1:"),
            ("project_invite/body.html", "{{{{raw}}}}{{{{/raw}}}}", "line 1:"),
            (
                "layout.html",
                "{{> @partial-block}}\n{{{x}}}",
                "layout.html.hbs, line 2:",
            ),
            (
                "project_invite/body.txt",
                "a\n{{#if link}}\n",
                "project_invite/body.txt.hbs, line ",
            ),
            (
                "project_invite/body.txt",
                "a\nb {{organisation_name}}",
                "project_invite/body.txt.hbs, line 2:",
            ),
            (
                "project_invite/body.txt",
                "{{#if message}}{{else}}{{oops}}{{/if}}",
                "oops",
            ),
            ("project_invite/body.html", "{{> footer}}", "footer"),
            (
                "organisation_invite/body.txt",
                "x",
                "organisation_invite/body.txt.hbs is not the name of a template",
            ),
        ];
        for (name, source, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("{name}.hbs"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, source).unwrap();
            let error = Templates::load(Some(folder.path())).unwrap_err().to_string();
            assert!(error.contains(expected), "{source:?}: {error}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let error = Templates::load(Some(Path::new("/nowhere/at/all"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn rendered_mails_keep_the_token_out_of_debug_output() {
        let mail = Templates::load(None)
            .unwrap()
            .render(&OrganizationInvite::sample())
            .unwrap();
        assert!(!format!("{mail:?}").contains("AZNk0tQ9c2"));
    }
}
