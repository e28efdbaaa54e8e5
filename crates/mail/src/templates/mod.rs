//! The mails' words: handlebars templates for each language, embedded in the binary, each file replaceable from a folder.
//!
//! Strict on purpose. A template that names a value which doesn't exist, that would print a value unescaped, or whose
//! file name nobody asks for is refused at the start, not when the first invite should have gone out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use handlebars::{Context, Handlebars, no_escape};
use serde_json::Value;

use self::{
    depth::TooDeep,
    examples::{Examples, MailContext},
    language::{ever_broader, lookup},
    sources::{LOCALE, PARTS, STYLE, Source, Sources},
    syntax::{conditions, first_unescaped, is_named_within},
};
use super::{
    messages::{Mail, MailKind},
    text::{OneLine, wrapped},
};

mod depth;
mod error;
mod examples;
mod language;
mod sources;
mod style;
mod syntax;

pub use self::error::{TemplateError, TemplateErrors};
pub use self::language::Language;

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
    mails: BTreeMap<MailKind, [String; 3]>,
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
        let (sources, mut errors) = sources::gather(overrides);
        if let Some((name, TooDeep { line, reason })) = depth::that_holds_itself(&sources) {
            let file = sources.get(name).map_or(name, |source| source.file.as_str()).to_owned();
            errors.push(TemplateError::Syntax { file, line, reason });
            return Err(TemplateErrors(errors));
        }
        errors.extend(sources.get(STYLE).and_then(tag_in_style));
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
        let is_complete = |vocabulary: &Vocabulary| vocabulary.mails.len() == MailKind::ALL.len();
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
        let is_there = |mail| vocabulary.is_some_and(|vocabulary| vocabulary.mails.contains_key(mail));
        let missing = MailKind::ALL.iter().filter(|mail| !is_there(mail));
        missing.map(|mail| mail.as_str()).collect()
    }

    /// Renders one mail in the first of these languages that there are templates for.
    ///
    /// # Errors
    ///
    /// Only for a [`Mail`] whose samples differ from what it holds in operation: [`Templates::load`] tried the rest.
    pub fn render(&self, mail: impl Into<Mail>, languages: &[Option<&str>]) -> Result<Rendered, TemplateError> {
        let mail = mail.into();
        let kind = mail.kind();
        let default = self.default_language.as_str();
        let wanted = languages.iter().flatten().copied().chain([default]);
        let found = lookup(wanted, |tag| {
            let vocabulary = self.languages.get(tag);
            vocabulary.is_some_and(|vocabulary| vocabulary.mails.contains_key(&kind))
        });
        let vocabulary = self.languages.get(found.as_deref().unwrap_or(default));
        match vocabulary.and_then(|vocabulary| Some((vocabulary, vocabulary.mails.get(&kind)?))) {
            Some((Vocabulary { language, .. }, parts)) => {
                self.write(parts, language, MailContext::of(&mail, language), kind.is_unsolicited())
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
            let parts = &mails[&mail];
            for (suffix, words) in [("", examples.full), ("-bare", examples.bare)] {
                samples.push(Sample {
                    language: language.tag.clone(),
                    name: format!("{}{suffix}", mail.as_str()),
                    mail: self.write(parts, language, words, mail.is_unsolicited())?,
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
                if let Err(error) = self.write(&mails[&mail], language, words, false) {
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
            let used = mails[&mail]
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

    fn all_mails(&self) -> impl Iterator<Item = (&Vocabulary, MailKind, Examples)> {
        self.languages.values().flat_map(|vocabulary| {
            let mails = vocabulary.mails.keys();
            mails.map(move |&mail| (vocabulary, mail, Examples::of(mail, &vocabulary.language)))
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
        words: MailContext,
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

/// A style sheet is not a template, but it is written into templates: a tag in it would become one of theirs.
fn tag_in_style(style: &Source) -> Option<TemplateError> {
    let line = style.text.lines().position(|line| line.contains("{{"))?;
    Some(TemplateError::Syntax {
        file: style.file.clone(),
        line: line + 1,
        reason: "a style sheet can hold no {{tags}}".to_owned(),
    })
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
        for &mail in MailKind::ALL {
            let folder = mail.as_str();
            let parts = PARTS.map(|part| find(&format!("{folder}/{part}")).ok_or(part));
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
                            name: format!("{tag}/{folder}/{part}"),
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

#[cfg(test)]
mod tests;
