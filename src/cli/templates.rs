//! `usher templates`: checks and previews the mail templates.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use chrono::DateTime;

use crate::config::Settings;
use usher_mail::{MailConfig, Mailer, MessageIdentity, Sample, Templates, TransportConfig};

/// Check and preview the mail templates.
#[derive(Debug, clap::Subcommand)]
pub enum TemplatesCommand {
    /// Render every mail in every language with all combinations of optional values. Errors name file and line.
    Check,
    /// Write every mail in every language as HTML, text and .eml, with an index page.
    Preview(Preview),
}

#[derive(Debug, clap::Args)]
pub struct Preview {
    /// The folder. Files of the same name are replaced.
    #[arg(default_value = "var/preview")]
    folder: PathBuf,
    /// Open the page afterwards.
    #[arg(long)]
    open: bool,
}

impl TemplatesCommand {
    /// Needs no secrets, so that it runs wherever templates are edited.
    pub(super) fn run(self, settings: &Settings) -> anyhow::Result<()> {
        match self {
            Self::Check => check(settings),
            Self::Preview(preview) => preview.run(settings),
        }
    }
}

fn load(settings: &Settings) -> anyhow::Result<Templates> {
    let templates = Templates::check(settings.templates_dir.as_deref(), settings.mail_default_locale());
    templates.map_err(|errors| {
        let count = errors.0.len();
        let things = if count == 1 { "problem" } else { "problems" };
        anyhow::Error::msg(format!("{errors}")).context(format!("the mail templates have {count} {things}"))
    })
}

fn check(settings: &Settings) -> anyhow::Result<()> {
    let templates = load(settings)?;
    for language in templates.languages() {
        match templates.missing(language)[..] {
            [] => println!("{language}: all mails are well"),
            ref missing => println!(
                "{language}: well, but {} will be sent in {}",
                missing.join(", "),
                settings.mail_default_locale()
            ),
        }
    }
    Ok(())
}

impl Preview {
    fn run(self, settings: &Settings) -> anyhow::Result<()> {
        let samples = load(settings)?.samples()?;
        let mailer = Mailer::new(MailConfig {
            from: settings
                .mail_from
                .clone()
                .unwrap_or_else(|| "Example <no-reply@example.com>".to_owned()),
            reply_to: settings.mail_reply_to.clone(),
            transport: TransportConfig::Outbox {
                dir: self.folder.clone(),
            },
            templates_dir: settings.templates_dir.clone(),
            default_locale: settings.mail_default_locale().to_owned(),
            unsubscribe: settings.mail_unsubscribe.clone(),
        })?;
        for sample in &samples {
            self.write(&mailer, sample)?;
        }
        let index = self.folder.join("index.html");
        write(&index, index_page(&samples)?.as_bytes())?;
        println!("{} mails, shown by {}", samples.len(), index.display());
        if self.open {
            open(&index)?;
        }
        Ok(())
    }

    fn write(&self, mailer: &Mailer, Sample { language, name, mail }: &Sample) -> anyhow::Result<()> {
        let id = MessageIdentity {
            message_id: format!("{language}.{name}@preview"),
            date: DateTime::UNIX_EPOCH,
        };
        let text = format!("Subject: {}\n\n{}", mail.subject, mail.text);
        let path = |extension: &str| self.folder.join(language).join(format!("{name}.{extension}"));
        write(&path("html"), mail.html.as_bytes())?;
        write(&path("txt"), text.as_bytes())?;
        write(&path("eml"), &mailer.message("grace@example.com", &id, mail)?)
    }
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let problem = || format!("{} can't be written", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(problem)?;
    }
    fs::write(path, content).with_context(problem)
}

/// Links to all mails, by language.
fn index_page(samples: &[Sample]) -> anyhow::Result<String> {
    let mut languages: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        languages.entry(&sample.language).or_default().push(sample);
    }
    let mut page = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
                    <title>Mails</title>\n<style>body { font-family: sans-serif; margin: 2em; } td { padding: 0.2em 1em 0.2em 0; }</style>\n"
        .to_owned();
    for (language, samples) in languages {
        writeln!(page, "<h2>{language}</h2>\n<table>")?;
        for Sample { name, mail, .. } in samples {
            let subject = escaped(&mail.subject);
            writeln!(
                page,
                "<tr><td><a href=\"{language}/{name}.html\">{name}</a></td><td>{subject}</td>\
                 <td><a href=\"{language}/{name}.txt\">text</a></td><td><a href=\"{language}/{name}.eml\">eml</a></td></tr>"
            )?;
        }
        writeln!(page, "</table>")?;
    }
    Ok(page)
}

/// Subjects are plain text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// With the system's default browser.
fn open(page: &Path) -> anyhow::Result<()> {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let status = Command::new(opener).arg(page).status();
    let status = status.with_context(|| format!("{opener} can't be run; open {} yourself", page.display()))?;
    ensure!(status.success(), "{opener} failed; open {} yourself", page.display());
    Ok(())
}
