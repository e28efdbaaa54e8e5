//! `usher check`: what a deploy runs first. One line for each thing that must be right, and 1 if one is not.

use anstream::println;
use anstyle::AnsiColor;
use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};

use super::paint::{FAINT, colour, paint};
use crate::app::{App, SetupError};
use crate::clerk::BackendError;
use crate::clerk::probe::{Probe, key_set_of, probe};
use crate::clock::Clock;
use crate::config::{Config, Environment, SessionKeySource, Settings};
use crate::mail::MailSetupError;

/// A clock that is further off is worth a word.
const NOTICED: TimeDelta = TimeDelta::seconds(3);
/// Session tokens live for a minute, and five seconds' skew is forgiven: beyond this people can't sign in.
const TOO_FAR: TimeDelta = TimeDelta::seconds(30);

/// How a check came out, in a few words.
enum Found {
    Good(String),
    /// Right enough to go on.
    Doubtful(String),
    Bad(String),
    /// Not configured, so there is nothing to check.
    Absent(&'static str),
}

use Found::{Absent, Bad, Doubtful, Good};

/// Prints the lines, and remembers whether one was bad.
#[derive(Default)]
struct Report {
    bad: usize,
}

impl Report {
    fn line(&mut self, what: &str, found: &Found) {
        let (mark, style, text) = match found {
            Good(text) => ("ok  ", colour(AnsiColor::Green), text.as_str()),
            Doubtful(text) => ("warn", colour(AnsiColor::Yellow), text.as_str()),
            Bad(text) => ("FAIL", colour(AnsiColor::Red), text.as_str()),
            Absent(text) => ("-   ", FAINT, *text),
        };
        self.bad += usize::from(matches!(found, Bad(_)));
        println!("{}  {what:<14} {text}", paint(style, mark));
    }
}

/// Checks everything that can be checked without changing anything or writing to anybody.
pub(super) async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut report = Report::default();
    let Some(app) = set_up(settings, &mut report).await else {
        bail!("nothing else can be checked before that is right");
    };
    // To set up the app, all templates were rendered with samples, and the sender was read.
    report.line("templates", &templates(&app));
    let database = database(&app).await;
    let is_there = !matches!(database, Bad(_));
    report.line("database", &database);
    if is_there {
        report.line("schema", &schema(&app).await);
        report.line("database clock", &database_clock(&app).await);
    }
    report.line("mail server", &mail_server(&app).await);
    report.line("sender", &sender(&app).await);
    let (keys, date) = session_keys(&app).await;
    report.line("session keys", &keys);
    report.line("Clerk's API", &backend(&app).await);
    report.line("clock", &clock(&app, date).await);
    app.mailer.close().await;
    app.store.close().await;
    match report.bad {
        0 => Ok(()),
        1 => bail!("one check failed"),
        bad => bail!("{bad} checks failed"),
    }
}

/// The app, as `usher serve` has it; where there is none, the report says why.
async fn set_up(settings: Settings, report: &mut Report) -> Option<App> {
    let config = match settings.resolve() {
        Ok(config) => config,
        Err(error) => {
            report.line("configuration", &Bad(error.to_string()));
            return None;
        }
    };
    let found = configuration(&config);
    let error = match App::new(config, Clock::System).await {
        Ok(app) => {
            report.line("configuration", &found);
            return Some(app);
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
            report.line("templates", &Bad(format!("TEMPLATES_DIR: {first}{all}")));
        }
        _ => report.line("configuration", &Bad(error.to_string())),
    }
    None
}

fn configuration(config: &Config) -> Found {
    match config.environment {
        Environment::Production => Good("production".to_owned()),
        Environment::Development => Doubtful("development: secrets are generated, mails may go to files".to_owned()),
    }
}

fn templates(app: &App) -> Found {
    match app.mailer.templates().samples() {
        Ok(samples) => {
            let from = app.config.templates_dir.as_ref();
            let from = from.map_or_else(|| "built in".to_owned(), |folder| folder.display().to_string());
            Good(format!("{} samples rendered, {from}", samples.len()))
        }
        Err(error) => Bad(error.to_string()),
    }
}

async fn database(app: &App) -> Found {
    match app.store.ping().await {
        Ok(()) => Good(format!("{:?} answers", app.store.dialect())),
        Err(error) => Bad(format!("USHER_DATABASE_URL: {error}")),
    }
}

async fn schema(app: &App) -> Found {
    match app.store.is_migrated().await {
        Ok(true) => Good("up to date".to_owned()),
        Ok(false) => Doubtful("older than this version: usher serve brings it up to date, or usher migrate".to_owned()),
        Err(_) => Doubtful("there is none yet: usher serve makes it, or usher migrate".to_owned()),
    }
}

/// Jobs are due by the database's clock, and invites expire by this machine's.
async fn database_clock(app: &App) -> Found {
    match app.store.database_time().await {
        Ok(Some(time)) => skew(app.clock.now(), time, "the database"),
        Ok(None) => Absent("the database is in this process"),
        Err(error) => Bad(error.to_string()),
    }
}

async fn mail_server(app: &App) -> Found {
    match app.mailer.check().await {
        Ok(()) => match app.mailer.outbox() {
            Some(folder) => Doubtful(format!("none: mails go to {}", folder.display())),
            None => Good("connected and logged in".to_owned()),
        },
        Err(error) => Bad(format!("SMTP_URL: {error}")),
    }
}

async fn sender(app: &App) -> Found {
    match app.mailer.check_sender().await {
        Ok(()) => Good(app.config.mail_from.clone()),
        Err(error) => Bad(format!("MAIL_FROM: {error}")),
    }
}

/// And what time it is at Clerk's, if Clerk was asked.
async fn session_keys(app: &App) -> (Found, Option<DateTime<Utc>>) {
    let issuer = match &app.config.session_keys {
        Some(SessionKeySource::Pem(_)) => return (Good("CLERK_JWT_KEY is a key".to_owned()), None),
        Some(SessionKeySource::Jwks(issuer)) => issuer,
        None => {
            return (
                Absent("neither CLERK_JWT_KEY nor CLERK_ISSUER: nobody can use /v1/me"),
                None,
            );
        }
    };
    let Some(url) = key_set_of(issuer) else {
        return (Bad("CLERK_ISSUER makes no address".to_owned()), None);
    };
    match probe(url).await {
        Ok(Probe {
            status: 200,
            keys: Some(keys @ 1..),
            date,
        }) => (Good(format!("{keys} at CLERK_ISSUER")), date),
        Ok(Probe { status, date, .. }) => (Bad(format!("CLERK_ISSUER: no key set there, status {status}")), date),
        Err(why) => (Bad(format!("CLERK_ISSUER: {why}")), None),
    }
}

async fn backend(app: &App) -> Found {
    let Some(clerk) = &app.clerk else {
        return Absent("no CLERK_SECRET_KEY: people are known from webhooks only");
    };
    match clerk.user("user_check").await {
        Ok(_) | Err(BackendError::InvalidId) => Good("takes the secret key".to_owned()),
        Err(BackendError::Refused) => Bad("CLERK_SECRET_KEY is refused".to_owned()),
        Err(error) => Bad(format!("CLERK_API_URL: {error}")),
    }
}

async fn clock(app: &App, mut date: Option<DateTime<Utc>>) -> Found {
    if date.is_none() && app.clerk.is_some() {
        let answered = probe(app.config.clerk_api_url.clone()).await;
        date = answered.ok().and_then(|probe| probe.date);
    }
    match date {
        Some(date) => skew(app.clock.now(), date, "Clerk"),
        None => Absent("Clerk was not asked, so there is nothing to compare with"),
    }
}

fn skew(ours: DateTime<Utc>, theirs: DateTime<Utc>, whose: &str) -> Found {
    let off = (ours - theirs).abs();
    let words = format!("{} s from {whose}'s", off.num_seconds());
    if off > TOO_FAR {
        Bad(format!("{words}: set this machine's clock"))
    } else if off > NOTICED {
        Doubtful(words)
    } else {
        Good(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_a_little_off_and_no_more() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for (seconds, expected) in [
            (0, "good"),
            (-3, "good"),
            (4, "doubtful"),
            (-30, "doubtful"),
            (31, "bad"),
        ] {
            let found = match skew(now, now + TimeDelta::seconds(seconds), "Clerk") {
                Good(_) => "good",
                Doubtful(_) => "doubtful",
                Bad(_) => "bad",
                Absent(_) => "absent",
            };
            assert_eq!(found, expected, "{seconds} s");
        }
    }
}
