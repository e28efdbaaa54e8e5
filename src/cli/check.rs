//! `usher check`: one line per check; exits with 1 if one fails.

mod accept_page;
mod optional;
mod send_to;

use anstyle::AnsiColor;
use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};
use url::Url;

use super::paint::{FAINT, colour, paint};
use crate::app::{Clients, SetupError};
use crate::clock::Clock;
use crate::config::{Config, Environment, SessionKeySource, Settings};
use crate::store::{AppShape, Difference, Store};
use usher_clerk::probe::{Probe, key_set_of, probe};
use usher_clerk::{BackendClient, BackendError};
use usher_mail::{MailSetupError, Mailer};

/// A clock that is further off is worth a word.
const NOTICED: TimeDelta = TimeDelta::seconds(3);
/// Session tokens live for a minute, and five seconds' skew is forgiven: beyond this people can't sign in.
const TOO_FAR: TimeDelta = TimeDelta::seconds(30);

/// How a check came out, in a few words.
enum Check {
    Pass(String),
    /// Right enough to go on.
    Warn(String),
    Fail(String),
    /// Not configured, so there is nothing to check.
    Skip(&'static str),
}

use Check::{Fail, Pass, Skip, Warn};

/// Prints the lines, and counts failures.
#[derive(Default)]
struct Report {
    failed: usize,
}

impl Report {
    fn line(&mut self, what: &str, found: &Check) {
        let (mark, style, text) = match found {
            Pass(text) => ("ok  ", colour(AnsiColor::Green), text.as_str()),
            Warn(text) => ("warn", colour(AnsiColor::Yellow), text.as_str()),
            Fail(text) => ("FAIL", colour(AnsiColor::Red), text.as_str()),
            Skip(text) => ("-   ", FAINT, *text),
        };
        self.failed += usize::from(matches!(found, Fail(_)));
        println!("{}  {what:<14} {text}", paint(style, mark));
    }

    fn absent(&mut self, absent: &[optional::Absent]) {
        for optional::Absent { name, consequence } in absent {
            self.line("not set", &Warn(format!("{name}: {consequence}")));
        }
    }
}

/// Checks everything that can be checked without changes and, unless `send_to` is given, without sending mail.
pub(super) async fn run(settings: Settings, send_to: Option<&str>) -> anyhow::Result<()> {
    let mut report = Report::default();
    let absent = optional::absent(&settings);
    let Some((config, clients)) = set_up(settings, &mut report) else {
        report.absent(&absent);
        bail!("nothing else can be checked before that is right");
    };
    let clock = Clock::System;
    // Setting up the mailer has already rendered all templates with samples and parsed the sender.
    report.line("templates", &templates(&config, &clients));
    check_database(&config, &clock, &mut report).await;
    report.line("mail server", &mail_server(&clients.mailer).await);
    report.line("sender", &sender(&config, &clients.mailer).await);
    if let Some(to) = send_to {
        report.line("test mail", &test_mail(&config, &clients.mailer, &clock, to).await);
    }
    let (keys, date) = session_keys(&config).await;
    report.line("session keys", &keys);
    report.line("accept page", &accept_page::check(&config));
    report.line("Clerk's API", &backend(clients.clerk.as_ref()).await);
    report.line("clock", &clerk_clock(&config, &clock, date).await);
    report.absent(&absent);
    clients.mailer.close().await;
    match report.failed {
        0 => Ok(()),
        1 => bail!("one check failed"),
        bad => bail!("{bad} checks failed"),
    }
}

/// What `usher serve` is made of; where it can't be, the report says everything that is in its way.
fn set_up(settings: Settings, report: &mut Report) -> Option<(Config, Clients)> {
    let config = match settings.resolve() {
        Ok(config) => config,
        Err(errors) => {
            for error in errors.0 {
                report.line("configuration", &Fail(error.to_string()));
            }
            return None;
        }
    };
    let found = configuration(&config);
    let error = match Clients::new(&config) {
        Ok(clients) => {
            report.line("configuration", &found);
            return Some((config, clients));
        }
        Err(error) => error,
    };
    match &error {
        SetupError::Mail(MailSetupError::Templates(errors)) => {
            report.line("configuration", &found);
            let all = match errors.0.len() {
                0 | 1 => String::new(),
                many => format!("; all {many}: usher templates check"),
            };
            let first = errors.0.first().map(ToString::to_string).unwrap_or_default();
            report.line("templates", &Fail(format!("TEMPLATES_DIR: {first}{all}")));
        }
        _ => report.line("configuration", &Fail(error.to_string())),
    }
    None
}

/// The database, and whether `usher serve` could work with it. A missing file is not created.
async fn check_database(config: &Config, clock: &Clock, report: &mut Report) {
    let url = config.database_url.expose();
    if matches!(Store::file_exists(url), Ok(false)) {
        let found = Warn("there is no file yet: usher serve makes it, or usher migrate".to_owned());
        return report.line("database", &found);
    }
    let store = match Store::open_with(url, &config.layout, clock.clone()).await {
        Ok(store) => store,
        Err(error) => return report.line("database", &Fail(format!("USHER_DATABASE_URL: {error}"))),
    };
    match store.check_connection().await {
        Ok(()) => {
            report.line("database", &Pass(format!("{:?} answers", store.dialect())));
            let found = schema(&store, config).await;
            report.line("schema", &found);
            catalog(&store, config, matches!(found, Fail(_)), report).await;
            report.line("database clock", &database_clock(&store, clock).await);
        }
        Err(error) => report.line("database", &Fail(format!("USHER_DATABASE_URL: {error}"))),
    }
    store.close().await;
}

fn configuration(config: &Config) -> Check {
    match config.environment {
        Environment::Production => Pass("production".to_owned()),
        Environment::Development => Warn("development: secrets are generated, mails may go to files".to_owned()),
    }
}

fn templates(config: &Config, clients: &Clients) -> Check {
    match clients.mailer.templates().samples() {
        Ok(samples) => {
            let from = config.templates_dir.as_ref();
            let from = from.map_or_else(|| "built in".to_owned(), |folder| folder.display().to_string());
            Pass(format!("{} samples rendered, {from}", samples.len()))
        }
        Err(error) => Fail(error.to_string()),
    }
}

/// By the look that a start takes before it changes anything.
async fn schema(store: &Store, config: &Config) -> Check {
    match store.plan_changes(&config.rules()).await {
        Ok(steps) if steps.is_empty() => Pass("up to date".to_owned()),
        Ok(_) => match store.is_migrated().await {
            Ok(_) => Warn(
                "older than this version: usher serve brings it up to date, or usher migrate (--dry-run tells how)"
                    .to_owned(),
            ),
            Err(_) => Warn("there is none yet: usher serve makes it, or usher migrate".to_owned()),
        },
        Err(error) => Fail(error.to_string()),
    }
}

/// By the look that `usher serve` takes twice a minute. A database without a schema has nothing that could differ; where the schema
/// has failed, its migrations are told of already.
async fn catalog(store: &Store, config: &Config, has_failed: bool, report: &mut Report) {
    if store.is_migrated().await.is_err() {
        return;
    }
    match store.differences(&config.rules(), &mut AppShape::default()).await {
        Ok(found) if found.is_empty() && !has_failed => report.line("catalog", &Pass("as usher needs it".to_owned())),
        Ok(found) => {
            for found in found
                .into_iter()
                .filter(|found| !has_failed || found.object != Difference::MIGRATIONS)
            {
                let must_be_mended = found.is_needed && !found.can_be_put_back();
                report.line(
                    "catalog",
                    &if must_be_mended {
                        Fail(found.says)
                    } else {
                        Warn(found.says)
                    },
                );
            }
        }
        Err(error) if !has_failed => report.line("catalog", &Fail(error.to_string())),
        Err(_) => {}
    }
}

/// Jobs are due by the database's clock, and invites expire by this machine's.
async fn database_clock(store: &Store, clock: &Clock) -> Check {
    match store.database_time().await {
        Ok(Some(time)) => skew(clock.now(), time, "the database"),
        Ok(None) => Skip("the database is in this process"),
        Err(error) => Fail(error.to_string()),
    }
}

async fn mail_server(mailer: &Mailer) -> Check {
    match mailer.check().await {
        Ok(()) => match mailer.outbox() {
            Some(folder) => Warn(format!("none: mails go to {}", folder.display())),
            None => Pass("connected and logged in".to_owned()),
        },
        Err(error) => Fail(format!("SMTP_URL: {error}")),
    }
}

async fn sender(config: &Config, mailer: &Mailer) -> Check {
    match mailer.check_sender().await {
        Ok(()) if mailer.outbox().is_some() => Pass(config.mail_from.clone()),
        // Most servers wait for the recipient or the content before they refuse anything.
        Ok(()) => Pass(format!(
            "{}; what else the server has against sender, account or content, only a real mail shows: --send-to ADDRESS",
            config.mail_from
        )),
        Err(error) => Fail(format!("MAIL_FROM: {error}")),
    }
}

async fn test_mail(config: &Config, mailer: &Mailer, clock: &Clock, to: &str) -> Check {
    match send_to::send(config, mailer, clock, to).await {
        Ok(sent) => Pass(sent.description),
        Err(error) => Fail(error.to_string()),
    }
}

/// And what time it is at Clerk's, if Clerk was asked.
async fn session_keys(config: &Config) -> (Check, Option<DateTime<Utc>>) {
    let issuer = match &config.session_keys {
        Some(SessionKeySource::Pem(_)) => return (Pass("CLERK_JWT_KEY is a key".to_owned()), None),
        Some(SessionKeySource::Jwks(issuer)) => issuer,
        None => {
            return (
                Warn("neither CLERK_JWT_KEY nor CLERK_ISSUER: nobody can use /v1/me".to_owned()),
                None,
            );
        }
    };
    let Some(url) = key_set_of(issuer) else {
        return (Fail("CLERK_ISSUER makes no address".to_owned()), None);
    };
    match probe(url).await {
        Ok(Probe {
            status: 200,
            keys: Some(keys @ 1..),
            date,
        }) => (Pass(format!("{keys} at CLERK_ISSUER")), date),
        Ok(Probe { status, date, .. }) => (Fail(format!("CLERK_ISSUER: no key set there, status {status}")), date),
        Err(why) => (Fail(format!("CLERK_ISSUER: {why}")), None),
    }
}

async fn backend(clerk: Option<&BackendClient>) -> Check {
    let Some(clerk) = clerk else {
        return Warn(
            "no CLERK_SECRET_KEY: people are known from webhooks only, and may have to wait for them".to_owned(),
        );
    };
    match clerk.user("user_check").await {
        Ok(_) | Err(BackendError::InvalidId) => Pass("takes the secret key".to_owned()),
        Err(BackendError::Refused) => Fail("CLERK_SECRET_KEY is refused".to_owned()),
        Err(error) => Fail(format!("CLERK_API_URL: {error}")),
    }
}

async fn clerk_clock(config: &Config, clock: &Clock, mut date: Option<DateTime<Utc>>) -> Check {
    if date.is_none()
        && config.clerk_secret_key.is_some()
        && let Ok(url) = Url::parse(&config.clerk_api_url)
    {
        date = probe(url).await.ok().and_then(|probe| probe.date);
    }
    match date {
        Some(date) => skew(clock.now(), date, "Clerk"),
        None => Skip("Clerk was not asked, so there is nothing to compare with"),
    }
}

fn skew(ours: DateTime<Utc>, theirs: DateTime<Utc>, whose: &str) -> Check {
    let off = (ours - theirs).abs();
    let words = format!("{} s from {whose}'s", off.num_seconds());
    if off > TOO_FAR {
        Fail(format!("{words}: set this machine's clock"))
    } else if off > NOTICED {
        Warn(words)
    } else {
        Pass(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_a_little_off_and_no_more() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for (seconds, expected) in [(0, "pass"), (-3, "pass"), (4, "warn"), (-30, "warn"), (31, "fail")] {
            let found = match skew(now, now + TimeDelta::seconds(seconds), "Clerk") {
                Pass(_) => "pass",
                Warn(_) => "warn",
                Fail(_) => "fail",
                Skip(_) => "skip",
            };
            assert_eq!(found, expected, "{seconds} s");
        }
    }
}
