//! The mails' words: handlebars templates for each language, embedded in the binary, each file replaceable from a folder.
//!
//! Strict on purpose. A template that names a value which doesn't exist, that would print a value unescaped, or whose
//! file name nobody asks for is refused at the start, not when the first invite should have gone out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};

use handlebars::{Context, Handlebars, no_escape};
use serde_json::Value;

use self::{
    depth::TooDeep,
    language::{ever_broader, lookup},
    sources::{LOCALE, PARTS, STYLE, Source, Sources},
};
use super::{
    messages::{AcceptedNotice, Mail, OrganizationInvite, ProjectInvite, Reminder},
    text::{OneLine, wrapped},
};

mod depth;
mod language;
mod sources;
mod style;

pub use self::language::Language;

type MakeExamples = fn(&Language) -> Examples;

/// Every mail there is, with what makes its examples.
const MAILS: [(&str, MakeExamples); 4] = [
    (OrganizationInvite::TEMPLATE, Examples::of::<OrganizationInvite>),
    (ProjectInvite::TEMPLATE, Examples::of::<ProjectInvite>),
    (Reminder::TEMPLATE, Examples::of::<Reminder>),
    (AcceptedNotice::TEMPLATE, Examples::of::<AcceptedNotice>),
];

/// A mail's words, ready to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The language it is written in (BCP 47).
    pub language: String,
    /// One line without control characters.
    pub subject: String,
    /// The plain text part.
    pub text: String,
    /// The HTML part.
    pub html: String,
    /// Whether its reader never asked for it, and so is told how to get no more of its kind.
    pub is_unsolicited: bool,
}

/// The bodies hold the link and so the token, which must not reach a log.
impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendered")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// A mail as it would be sent, made of example values.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its language.
    pub language: String,
    /// Its template, with `-bare` where everything optional is missing.
    pub name: String,
    /// The mail.
    pub mail: Rendered,
}

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

/// All templates, parsed.
pub struct Templates {
    /// Subjects and text parts: values as they are.
    text: Handlebars<'static>,
    /// HTML parts: values escaped. Two registries, because handlebars knows one escape function per registry.
    html: Handlebars<'static>,
    /// Where each template came from, for error messages.
    files: BTreeMap<String, String>,
    /// By their tags in lower case.
    languages: BTreeMap<String, Vocabulary>,
    default_language: String,
}

/// What can be said in one language.
#[derive(Debug)]
struct Vocabulary {
    language: Language,
    /// The names of the templates for subject, text and HTML, by mail.
    mails: BTreeMap<&'static str, [String; 3]>,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.languages()).finish()
    }
}

impl Templates {
    /// Loads the embedded templates and, in their place or beside them, the files in `overrides`. Languages that have no
    /// template for a mail fall back to `default_language`.
    ///
    /// # Errors
    ///
    /// If the folder can't be read or holds a template with an unknown name, if any template can't be parsed, prints
    /// values unescaped or fails to render its mail's examples, or if the default language is not there.
    pub fn load(overrides: Option<&Path>, default_language: &str) -> Result<Self, TemplateErrors> {
        // The embedded ones have been tried out by the tests.
        Self::read(overrides, default_language, overrides.is_some())
    }

    /// Loads as [`Templates::load`] does, and tries everything out in any case.
    ///
    /// # Errors
    ///
    /// All that is wrong.
    pub fn check(overrides: Option<&Path>, default_language: &str) -> Result<Self, TemplateErrors> {
        Self::read(overrides, default_language, true)
    }

    fn read(overrides: Option<&Path>, default_language: &str, try_out: bool) -> Result<Self, TemplateErrors> {
        let or_errors = |errors: Vec<_>| {
            if errors.is_empty() {
                Ok(())
            } else {
                Err(TemplateErrors(errors))
            }
        };
        let (sources, mut errors) = sources::gather(overrides, &MAILS.map(|(mail, _)| mail));
        if let Some((name, TooDeep { line, reason })) = depth::that_holds_itself(&sources) {
            let file = sources.get(name).map_or(name, |source| source.file.as_str()).to_owned();
            errors.push(TemplateError::Syntax { file, line, reason });
            return Err(TemplateErrors(errors));
        }
        if try_out {
            // Without their style, the templates' lines are those of their files.
            let templates = Self::build(&sources, None, default_language, &mut errors);
            if errors.is_empty() {
                errors.extend(templates.failures());
                errors.extend(templates.unknown_conditions(&sources));
            }
            or_errors(std::mem::take(&mut errors))?;
        }
        let style = sources.get(STYLE).map(|source| source.text.as_str());
        let templates = Self::build(&sources, style, default_language, &mut errors);
        or_errors(errors)?;
        Ok(templates)
    }

    fn build(sources: &Sources, style: Option<&str>, wanted: &str, errors: &mut Vec<TemplateError>) -> Self {
        let mut templates = Self {
            text: registry(),
            html: registry(),
            files: BTreeMap::new(),
            languages: BTreeMap::new(),
            default_language: String::new(),
        };
        templates.text.register_escape_fn(no_escape);
        for (name, source) in sources {
            let name = name.strip_suffix(".hbs");
            if let Some(error) = name.and_then(|name| templates.add(name, source, style).err()) {
                errors.push(error);
            }
        }
        templates.languages = languages(sources, errors);
        let is_complete = |vocabulary: &Vocabulary| vocabulary.mails.len() == MAILS.len();
        let complete = |tag: &str| templates.languages.get(tag).is_some_and(is_complete);
        match lookup([wanted], complete) {
            Some(tag) => templates.default_language = tag,
            None => errors.push(TemplateError::NoLanguage {
                wanted: wanted.to_owned(),
                there: templates.languages().collect::<Vec<_>>().join(", "),
            }),
        }
        templates
    }

    /// The languages that there are templates for.
    pub fn languages(&self) -> impl Iterator<Item = &str> {
        self.languages.keys().map(String::as_str)
    }

    /// The mails that a language has no templates for: its readers get them in the default language.
    pub fn missing(&self, language: &str) -> Vec<&'static str> {
        let vocabulary = self.languages.get(language);
        let is_there = |mail: &str| vocabulary.is_some_and(|vocabulary| vocabulary.mails.contains_key(mail));
        MAILS
            .map(|(mail, _)| mail)
            .into_iter()
            .filter(|mail| !is_there(mail))
            .collect()
    }

    /// Renders one mail in the first of these languages that there are templates for.
    ///
    /// # Errors
    ///
    /// Only for a [`Mail`] whose samples differ from what it holds in operation: [`Templates::load`] tried the rest.
    pub fn render<M: Mail>(&self, mail: &M, languages: &[Option<&str>]) -> Result<Rendered, TemplateError> {
        let default = self.default_language.as_str();
        let wanted = languages.iter().flatten().copied().chain([default]);
        let found = lookup(wanted, |tag| {
            let vocabulary = self.languages.get(tag);
            vocabulary.is_some_and(|vocabulary| vocabulary.mails.contains_key(M::TEMPLATE))
        });
        let vocabulary = self.languages.get(found.as_deref().unwrap_or(default));
        match vocabulary.and_then(|vocabulary| Some((vocabulary, vocabulary.mails.get(M::TEMPLATE)?))) {
            Some((Vocabulary { language, .. }, parts)) => {
                self.write(parts, language, Words::of(mail, language), M::IS_UNSOLICITED)
            }
            None => Err(TemplateError::NoLanguage {
                wanted: default.to_owned(),
                there: self.languages().collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Every mail in every language, once with everything optional and once without: what a preview shows.
    ///
    /// # Errors
    ///
    /// The first template that fails; never once [`Templates::check`] has returned.
    pub fn samples(&self) -> Result<Vec<Sample>, TemplateError> {
        let mut samples = Vec::new();
        for (Vocabulary { language, mails }, mail, examples) in self.all_mails() {
            let parts = &mails[mail];
            for (suffix, words) in [("", examples.full), ("-bare", examples.bare)] {
                samples.push(Sample {
                    language: language.tag.clone(),
                    name: format!("{mail}{suffix}"),
                    mail: self.write(parts, language, words, examples.is_unsolicited)?,
                });
            }
        }
        Ok(samples)
    }

    /// What fails with any combination of what is optional.
    fn failures(&self) -> Vec<TemplateError> {
        let mut failures = BTreeMap::new();
        for (Vocabulary { language, mails }, mail, examples) in self.all_mails() {
            for words in examples.combinations() {
                if let Err(error) = self.write(&mails[mail], language, words, false) {
                    failures.entry(error.to_string()).or_insert(error);
                }
            }
        }
        failures.into_values().collect()
    }

    /// The mails' own templates that ask for a value which doesn't exist: handlebars takes it for empty, however strict.
    fn unknown_conditions(&self, sources: &Sources) -> Vec<TemplateError> {
        let mut unknown = BTreeMap::new();
        for (Vocabulary { mails, .. }, mail, examples) in self.all_mails() {
            let there = |name: &str| examples.full.body.get(name).is_some() || matches!(name, "lang" | "dir");
            let used = mails[mail]
                .iter()
                .filter_map(|name| sources.get(&format!("{name}.hbs")));
            for Source { file, text } in used {
                let asked = conditions(text).filter(|(_, name)| !there(name) && !is_named_within(text, name));
                for (line, name) in asked {
                    unknown
                        .entry((file.clone(), line))
                        .or_insert_with(|| TemplateError::Render {
                            file: file.clone(),
                            line: Some(line),
                            reason: format!("the mail has no value {name:?} to ask for"),
                        });
                }
            }
        }
        unknown.into_values().collect()
    }

    fn all_mails(&self) -> impl Iterator<Item = (&Vocabulary, &'static str, Examples)> {
        self.languages.values().flat_map(|vocabulary| {
            let is_there = |mail: &str| vocabulary.mails.contains_key(mail);
            MAILS
                .into_iter()
                .filter(move |(mail, _)| is_there(mail))
                .map(move |(mail, examples)| (vocabulary, mail, examples(&vocabulary.language)))
        })
    }

    fn add(&mut self, name: &str, source: &Source, style: Option<&str>) -> Result<(), TemplateError> {
        let Source { file, text } = source;
        let text = text.replace("\r\n", "\n");
        if let Some(line) = first_unescaped(&text) {
            let file = file.clone();
            return Err(TemplateError::Unescaped { file, line });
        }
        let is_html = name.ends_with(".html");
        let syntax = |line, reason| TemplateError::Syntax {
            file: file.clone(),
            line,
            reason,
        };
        depth::check(&text, is_html).map_err(|error| syntax(error.line, error.reason))?;
        let text = match style {
            Some(style) if is_html => style::inlined(&text, style).map_err(|error| syntax(error.line, error.reason))?,
            _ => text,
        };
        let registry = if is_html { &mut self.html } else { &mut self.text };
        registry
            .register_template_string(name, text)
            .map_err(|error| syntax(error.pos().map_or(1, |(line, _)| line), error.reason().to_string()))?;
        self.files.insert(name.to_owned(), file.clone());
        Ok(())
    }

    fn write(
        &self,
        [subject, text, html]: &[String; 3],
        language: &Language,
        words: Words,
        is_unsolicited: bool,
    ) -> Result<Rendered, TemplateError> {
        let in_language = |mut words: Value| {
            words["lang"] = language.tag.as_str().into();
            words["dir"] = language.dir.as_str().into();
            Context::from(words)
        };
        let (in_subject, words) = (in_language(words.subject), in_language(words.body));
        Ok(Rendered {
            language: language.tag.clone(),
            subject: OneLine::from(self.part(&self.text, subject, &in_subject)?).into(),
            text: wrapped(&self.part(&self.text, text, &words)?),
            html: self.part(&self.html, html, &words)?,
            is_unsolicited,
        })
    }

    fn part(&self, registry: &Handlebars<'_>, name: &str, words: &Context) -> Result<String, TemplateError> {
        registry.render_with_context(name, words).map_err(|error| {
            // In a partial, that's where the fault is.
            let culprit = error.template_name.as_deref().unwrap_or(name);
            TemplateError::Render {
                file: self.files.get(culprit).cloned().unwrap_or_else(|| culprit.to_owned()),
                line: error.line_no,
                reason: error.reason().to_string(),
            }
        })
    }
}

fn registry() -> Handlebars<'static> {
    let mut registry = Handlebars::new();
    registry.set_strict_mode(true);
    registry
}

/// What each folder says, and what it takes from the broader languages: `de-CH` needs to say only what is not as in `de`.
fn languages(sources: &Sources, errors: &mut Vec<TemplateError>) -> BTreeMap<String, Vocabulary> {
    let tags: BTreeSet<&str> = sources
        .keys()
        .filter_map(|name| Some(name.split_once('/')?.0))
        .collect();
    let mut languages = BTreeMap::new();
    for tag in tags {
        let find = |file: &str| {
            ever_broader(tag)
                .map(|tag| format!("{tag}/{file}"))
                .find(|name| sources.contains_key(name))
        };
        let mut mails = BTreeMap::new();
        for (mail, _) in MAILS {
            let parts = PARTS.map(|part| find(&format!("{mail}/{part}")).ok_or(part));
            match parts {
                [Ok(subject), Ok(text), Ok(html)] => {
                    let template = |name: String| name.trim_end_matches(".hbs").to_owned();
                    mails.insert(mail, [subject, text, html].map(template));
                }
                [Err(_), Err(_), Err(_)] => {}
                some => errors.extend(
                    some.into_iter()
                        .filter_map(Result::err)
                        .map(|part| TemplateError::Missing {
                            name: format!("{tag}/{mail}/{part}"),
                        }),
                ),
            }
        }
        match find(LOCALE).and_then(|name| sources.get(&name)) {
            None => errors.push(TemplateError::Missing {
                name: format!("{tag}/{LOCALE}"),
            }),
            Some(source) => match parsed(tag, source) {
                Ok(language) => {
                    languages.insert(tag.to_owned(), Vocabulary { language, mails });
                }
                Err(error) => errors.push(error),
            },
        }
    }
    languages
}

fn parsed(tag: &str, Source { file, text }: &Source) -> Result<Language, TemplateError> {
    let wrong = |line, reason| TemplateError::Syntax {
        file: file.clone(),
        line,
        reason,
    };
    let mut language: Language = serde_json::from_str(text).map_err(|error| wrong(error.line(), error.to_string()))?;
    if !language.writes_whole_dates() {
        return Err(wrong(
            text.lines()
                .position(|line| line.contains("\"date\""))
                .map_or(1, |line| line + 1),
            "date needs {day}, {month}, {year}, {hour} and {minute}".to_owned(),
        ));
    }
    tag.clone_into(&mut language.tag);
    Ok(language)
}

/// What one mail's templates may say.
#[derive(Clone)]
struct Words {
    subject: Value,
    body: Value,
}

impl Words {
    fn of<M: Mail>(mail: &M, language: &Language) -> Self {
        Self {
            subject: mail.subject_words(language),
            body: mail.words(language),
        }
    }
}

/// Examples of one mail, as its templates see them.
struct Examples {
    full: Words,
    bare: Words,
    is_unsolicited: bool,
}

impl Examples {
    fn of<M: Mail>(language: &Language) -> Self {
        Self {
            full: Words::of(&M::sample(), language),
            bare: Words::of(&M::bare_sample(), language),
            is_unsolicited: M::IS_UNSOLICITED,
        }
    }

    /// With everything optional, without any of it, and all in between: every branch of a template.
    fn combinations(&self) -> Vec<Words> {
        let optional = self
            .bare
            .body
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| value.is_null());
        let mut combinations = vec![self.full.clone()];
        for (name, _) in optional {
            let without = combinations.clone().into_iter().map(|mut words| {
                words.subject[name] = Value::Null;
                words.body[name] = Value::Null;
                words
            });
            combinations.extend(without.collect::<Vec<_>>());
        }
        combinations
    }
}

/// The values that a template asks for with `if` and `unless`, and their lines.
fn conditions(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.match_indices("{{").filter_map(|(offset, _)| {
        let inside = source[offset..].trim_start_matches(['{', '~']).trim_start();
        let asked = ["#if ", "#unless ", "else if ", "else unless "]
            .iter()
            .find_map(|word| inside.strip_prefix(word))?;
        let name = asked
            .trim_start()
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .next()?;
        // What is not a plain name, `@last` for one, is handlebars' own.
        (!name.is_empty()).then(|| (source[..offset].matches('\n').count() + 1, name))
    })
}

/// Whether a template may have made a name itself: the item of an `each`, a block's parameter, a partial's argument.
fn is_named_within(source: &str, name: &str) -> bool {
    let is_parameter = |block: &str| {
        let parameters = block.split('|').next().unwrap_or_default();
        parameters.split_whitespace().any(|parameter| parameter == name)
    };
    name == "this" || source.contains(&format!("{name}=")) || source.split("as |").skip(1).any(is_parameter)
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

#[cfg(test)]
mod tests {
    use std::fs;

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

    fn hostile_mails(templates: &Templates, value: &str) -> [Rendered; 4] {
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
        let reminder = Reminder {
            app_name: value.into(),
            organization_name: value.into(),
            project_name: Some(value.into()),
            inviter_name: Some(value.into()),
            role: value.into(),
            email: value.into(),
            ..Reminder::sample()
        };
        [
            templates.render(&organization, &[]),
            templates.render(&project, &[]),
            templates.render(&reminder, &[]),
            templates.render(&notice, &[]),
        ]
        .map(Result::unwrap)
    }

    #[test]
    fn no_name_makes_a_link_in_any_part_of_any_mail_in_any_language() {
        let templates = Templates::load(None, "en").unwrap();
        for name in [
            "Eve Bcc: all https://phish.example/login Your account",
            "phish.example",
            "www.phish.example",
            "eve@phish.example",
            "mailto:eve@phish.example",
            "ｈｔｔｐｓ：／／phish．example",
            "phish。example",
            "营业https://phish.example/登录",
            "\u{202e}https://phish.example\u{202c}",
            "https\u{200b}://phish\u{2060}.\u{ad}example",
            "https:\n//phish\r\n.example",
        ] {
            let sample = ProjectInvite {
                organization_name: name.into(),
                project_name: name.into(),
                inviter_name: Some(name.into()),
                message: None,
                ..ProjectInvite::sample()
            };
            let organization = OrganizationInvite {
                organization_name: name.into(),
                inviter_name: Some(name.into()),
                message: None,
                ..OrganizationInvite::sample()
            };
            let reminder = Reminder {
                organization_name: name.into(),
                project_name: Some(name.into()),
                inviter_name: Some(name.into()),
                ..Reminder::sample()
            };
            let notice = AcceptedNotice {
                organization_name: name.into(),
                project_name: Some(name.into()),
                invitee_name: Some(name.into()),
                inviter_name: Some(name.into()),
                ..AcceptedNotice::sample()
            };
            for language in ["de", "en", "es", "fr", "ja"] {
                let wanted = [Some(language)];
                for mail in [
                    templates.render(&sample, &wanted),
                    templates.render(&organization, &wanted),
                    templates.render(&reminder, &wanted),
                    templates.render(&notice, &wanted),
                ] {
                    let mail = mail.unwrap();
                    for part in [&mail.subject, &mail.text, &mail.html] {
                        // As a mail program may read it, whatever is drawn as nothing left out.
                        let read: String = part
                            .chars()
                            .filter(|&c| !usher_base::unicode::is_ignorable(c))
                            .collect();
                        let read = read.replace(['．', '。'], ".").replace('：', ":").replace('／', "/");
                        // The one link that there is, and what stands in the layout's own head.
                        let read = read.replace("https://app.example.com/", "");
                        for link in ["phish.e", "://phish", "@phish", "mailto:eve", "https://", "www.phish"] {
                            assert!(!read.contains(link), "{language} {name:?}: {link} in {part}");
                        }
                    }
                    let subject = &mail.subject;
                    // Who joined is told by the invited address where their name says nothing.
                    let names = subject.replace("grace@example.com", "");
                    assert!(!names.contains("://") && !names.contains('@'), "{subject}");
                    assert!(subject.chars().count() <= 2 * 60 + 40, "{subject}");
                }
            }
        }
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
    fn every_mail_can_be_sent_in_every_language_with_anything_missing() {
        let templates = Templates::check(None, "en").unwrap();
        assert_eq!(
            templates.languages().collect::<Vec<_>>(),
            ["de", "en", "es", "fr", "ja"]
        );
        let samples = templates.samples().unwrap();
        assert_eq!(samples.len(), 5 * MAILS.len() * 2);
        for Sample { language, name, mail } in samples {
            assert!(templates.missing(&language).is_empty(), "{language}");
            assert!(!mail.subject.is_empty() && !mail.text.is_empty(), "{language}/{name}");
            assert!(mail.html.starts_with("<!DOCTYPE html>"), "{language}/{name}");
            assert!(
                mail.html.contains(&format!("<html lang=\"{language}\" dir=\"ltr\">")),
                "{language}/{name}"
            );
            for remote in ["http://", "<img", "<link", "@import", "url(", "src="] {
                assert!(
                    !mail.html.contains(remote),
                    "{language}/{name} loads something: {remote}"
                );
            }
            assert!(
                !mail.text.contains("\n\n\n"),
                "{language}/{name} has no holes:\n{}",
                mail.text
            );
            for line in mail.text.lines().filter(|line| !line.contains("://")) {
                assert!(
                    textwrap::core::display_width(line) <= 80,
                    "{language}/{name} is too wide: {line}"
                );
            }
        }
    }

    #[test]
    fn styles_are_written_into_the_tags() {
        let mail = Templates::load(None, "en")
            .unwrap()
            .render(&Reminder::sample(), &[])
            .unwrap();
        let button = mail
            .html
            .lines()
            .find(|line| line.contains("Accept the invitation"))
            .unwrap();
        for style in [
            "class=\"button\"",
            "background-color: #3b5fd9",
            "padding: 14px 28px",
            "color: #ffffff",
        ] {
            assert!(button.contains(style), "{style} in {button}");
        }
        assert!(
            mail.html.contains("@media (prefers-color-scheme: dark)"),
            "dark mode is left to the style element"
        );
        assert_eq!(mail.html.matches("<style>").count(), 1);
    }

    #[test]
    fn a_mail_is_in_the_language_of_its_reader() {
        let templates = Templates::load(None, "fr").unwrap();
        let cases: [(&[Option<&str>], &str, &str); 5] = [
            (&[Some("de-AT"), Some("ja")], "de", "Ihre Rolle: Editor\n"),
            (&[None, Some("ja")], "ja", "あなたの役割：編集者\n"),
            (&[Some("tlh"), Some("es-419")], "es", "Tu rol: editor\n"),
            (&[Some("tlh"), None], "fr", "Votre rôle\u{a0}: éditeur\n"),
            (&[], "fr", "29 novembre 2026 à 14\u{a0}h\u{a0}30 (UTC)"),
        ];
        for (wanted, language, words) in cases {
            let mail = templates.render(&Reminder::sample(), wanted).unwrap();
            assert_eq!(mail.language, language, "{wanted:?}");
            assert!(mail.text.contains(words), "{}", mail.text);
        }
    }

    #[test]
    fn an_invite_says_all_that_the_invitee_must_know() {
        let templates = Templates::load(None, "en").unwrap();
        let invite = ProjectInvite::sample();
        let mail = templates.render(&invite, &[]).unwrap();
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
        let mail = Templates::load(None, "en").unwrap().render(&invite, &[]).unwrap();
        assert!(
            mail.text.contains("\n> one\n> \n> two\n> --\n> Best\n"),
            "{}",
            mail.text
        );
        assert!(mail.html.contains("one<br><br>two<br>--<br>Best"), "{}", mail.html);
    }

    #[test]
    fn hostile_values_change_neither_markup_nor_lines() {
        let templates = Templates::load(None, "en").unwrap();
        let tame = hostile_mails(&templates, "x");
        // An empty value takes another branch of the template and so makes another, equally fixed, skeleton.
        for value in HOSTILE.iter().filter(|value| !value.is_empty()) {
            let hostile = hostile_mails(&templates, value);
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
            }
        }
    }

    #[test]
    fn handlebars_in_a_value_is_only_text() {
        let invite = OrganizationInvite {
            organization_name: "{{app_name}} & {{{link}}}".into(),
            ..OrganizationInvite::sample()
        };
        let mail = Templates::load(None, "en").unwrap().render(&invite, &[]).unwrap();
        assert!(mail.subject.contains("{{app_name}} & {{{link}}}"), "{}", mail.subject);
        assert!(mail.html.contains("{{app_name}} &amp; {{{link}}}"), "{}", mail.html);
    }

    #[test]
    fn a_long_message_and_an_empty_one_both_fit() {
        let templates = Templates::load(None, "en").unwrap();
        let with = |message: &str| OrganizationInvite {
            message: Some(message.into()),
            ..OrganizationInvite::sample()
        };
        let long = templates.render(&with(&"lorem ".repeat(1_700)), &[]).unwrap();
        assert!(long.text.len() > 10_000);
        let empty = templates.render(&with(" \r\n "), &[]).unwrap();
        let none = OrganizationInvite {
            message: None,
            ..OrganizationInvite::sample()
        };
        assert_eq!(empty, templates.render(&none, &[]).unwrap());
    }

    #[test]
    fn a_file_in_the_folder_replaces_its_template_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("en/project_invite")).unwrap();
        fs::write(
            folder.path().join("en/project_invite/subject.txt.hbs"),
            "Hi {{email}}\r\n",
        )
        .unwrap();
        fs::write(folder.path().join("README.md"), "{{{notes}}}").unwrap();
        let templates = Templates::load(Some(folder.path()), "en").unwrap();
        let mail = templates.render(&ProjectInvite::sample(), &[]).unwrap();
        assert_eq!(mail.subject, "Hi grace@example.com");
        let embedded = Templates::load(None, "en")
            .unwrap()
            .render(&ProjectInvite::sample(), &[])
            .unwrap();
        assert_eq!((mail.text, mail.html), (embedded.text, embedded.html));
    }

    #[test]
    fn a_bad_template_is_refused_at_the_start_with_file_and_line() {
        let cases = [
            (
                "en/project_invite/body.txt",
                "one\ntwo {{{link}}}\n",
                "en/project_invite/body.txt.hbs, line 2:",
            ),
            (
                "en/project_invite/body.html",
                "{{&link}}",
                "en/project_invite/body.html.hbs, line 1:",
            ),
            ("en/project_invite/body.html", "\n\n{{ ~ &link}}", "line 3:"),
            ("en/project_invite/body.html", "{{~{link}~}}", "line 1:"),
            ("en/project_invite/body.html", "{{{{raw}}}}{{{{/raw}}}}", "line 1:"),
            (
                "layout.html",
                "{{> @partial-block}}\n{{{x}}}",
                "layout.html.hbs, line 2:",
            ),
            (
                "en/project_invite/body.txt",
                "a\n{{#if link}}\n",
                "en/project_invite/body.txt.hbs, line ",
            ),
            (
                "en/project_invite/body.txt",
                "a\nb {{organisation_name}}",
                "en/project_invite/body.txt.hbs, line 2:",
            ),
            (
                "en/project_invite/body.txt",
                "{{#if message}}{{else}}{{oops}}{{/if}}",
                "oops",
            ),
            (
                "en/project_invite/body.txt",
                "{{#if message}}a{{else if inviter_nam}}b{{/if}}",
                "en/project_invite/body.txt.hbs, line 1: the mail has no value \"inviter_nam\"",
            ),
            (
                "en/accepted_notice/subject.txt",
                "a\n{{~#unless message}}b{{/unless}}",
                "en/accepted_notice/subject.txt.hbs, line 2: the mail has no value \"message\"",
            ),
            ("en/project_invite/body.html", "{{> footer}}", "footer"),
            (
                "en/organisation_invite/body.txt",
                "x",
                "en/organisation_invite/body.txt.hbs: no mail uses this file",
            ),
        ];
        for (name, source, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(format!("{name}.hbs"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, source).unwrap();
            let error = Templates::load(Some(folder.path()), "en").unwrap_err().to_string();
            assert!(error.contains(expected), "{source:?}: {error}");
        }
    }

    #[test]
    fn a_template_may_ask_for_names_that_it_made() {
        let folder = folder_with(&[(
            "en/project_invite/body.txt.hbs",
            "{{#if message}}{{#each message as |line|}}{{#if line}}{{line}}{{/if}}{{/each}}
             {{#each message}}{{#if this}}{{this}}{{/if}}{{/each}}{{/if}}",
        )]);
        if let Err(errors) = Templates::check(Some(folder.path()), "en") {
            panic!("{errors}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        let folder = folder_with(&[
            (
                "en/reminder/body.txt.hbs",
                "{{#if project_name}}{{else}}\n{{projekt_name}}{{/if}}",
            ),
            ("en/reminder/body.html.hbs", "<p>\n{{oops}}</p>"),
            ("pt/reminder/subject.txt.hbs", "Lembrete"),
            ("pt/locale.json", "{\n\"dir\": \"up\"}"),
            (
                "nl/locale.json",
                r#"{"dir": "ltr", "months": ["","","","","","","","","","","",""], "date": "{day}", "roles": {}}"#,
            ),
            ("link.html.hbs", "<table>\n\n{{#if link}}<tr></tr>{{/if}}</table>"),
            ("layout.htm.hbs", ""),
        ]);
        let errors = Templates::check(Some(folder.path()), "en").unwrap_err().to_string();
        for expected in [
            "layout.htm.hbs: no mail uses this file",
            "pt/reminder/body.txt.hbs is missing",
            "pt/reminder/body.html.hbs is missing",
            "pt/locale.json, line 2: unknown variant `up`",
            "nl/locale.json, line 1: date needs",
        ] {
            assert!(errors.contains(expected), "no “{expected}” in:\n{errors}");
        }
        for file in [
            "pt/reminder/subject.txt.hbs",
            "pt/locale.json",
            "nl/locale.json",
            "layout.htm.hbs",
        ] {
            fs::remove_file(folder.path().join(file)).unwrap();
        }
        let errors = Templates::check(Some(folder.path()), "en").unwrap_err().to_string();
        for expected in [
            "en/reminder/body.txt.hbs, line 2: ",
            "en/reminder/body.html.hbs, line 2: ",
        ] {
            assert!(errors.contains(expected), "no “{expected}” in:\n{errors}");
        }
        fs::remove_dir_all(folder.path().join("en")).unwrap();
        let errors = Templates::check(Some(folder.path()), "en").unwrap_err().to_string();
        assert!(
            errors.contains("link.html.hbs, line 1: the HTML is not well-formed"),
            "{errors}"
        );
    }

    #[test]
    fn a_folder_adds_languages_and_varies_them() {
        let portuguese = r#"{"dir": "ltr", "months": ["1","2","3","4","5","6","7","8","9","10","11","12"],
                             "date": "{day}/{month}/{year} {hour}:{minute}", "roles": {"editor": "redator"}}"#;
        let folder = folder_with(&[
            ("pt/locale.json", portuguese),
            ("pt/reminder/subject.txt.hbs", "Lembrete"),
            ("pt/reminder/body.txt.hbs", "{{role}} {{expires_at}}"),
            ("pt/reminder/body.html.hbs", "<p>{{lang}}</p>"),
            ("de-CH/reminder/subject.txt.hbs", "Grüezi"),
        ]);
        let templates = Templates::load(Some(folder.path()), "en").unwrap();
        let brazilian = templates.render(&Reminder::sample(), &[Some("pt-BR")]).unwrap();
        assert_eq!(
            (brazilian.subject.as_str(), brazilian.text.as_str()),
            ("Lembrete", "redator 29/11/2026 14:30\n")
        );
        assert!(
            brazilian.html.starts_with("<p style=") && brazilian.html.contains(">pt</p>"),
            "{}",
            brazilian.html
        );
        let swiss = templates.render(&Reminder::sample(), &[Some("de-CH")]).unwrap();
        let german = templates.render(&Reminder::sample(), &[Some("de-DE")]).unwrap();
        assert_eq!((swiss.subject.as_str(), &swiss.text), ("Grüezi", &german.text));
        assert_eq!((swiss.language.as_str(), german.language.as_str()), ("de-ch", "de"));

        // What a language can't say is said in another one that the reader knows, or else in the default one.
        assert_eq!(templates.missing("pt").len(), 3);
        let project = |wanted| templates.render(&ProjectInvite::sample(), wanted).unwrap().language;
        assert_eq!(project(&[Some("pt-BR"), Some("es")]), "es");
        assert_eq!(project(&[Some("pt-BR")]), "en");
        let error = Templates::load(Some(folder.path()), "pt").unwrap_err().to_string();
        assert!(
            error.contains("no templates for `pt`, or not for all mails; the languages are de, de-ch, en"),
            "{error}"
        );
    }

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let error = Templates::load(Some(Path::new("/nowhere/at/all")), "en").unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn rendered_mails_keep_the_token_out_of_debug_output() {
        let mail = Templates::load(None, "en")
            .unwrap()
            .render(&OrganizationInvite::sample(), &[])
            .unwrap();
        assert!(!format!("{mail:?}").contains("AZNk0tQ9c2"));
    }
}
