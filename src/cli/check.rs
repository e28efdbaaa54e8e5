//! `usher check`: one line per check; exits with 1 if one fails.

mod send_to;

use anstream::println;
use anstyle::AnsiColor;
use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};
use url::Url;

use super::paint::{FAINT, colour, paint};
use crate::app::{Clients, SetupError};
use crate::clock::Clock;
use crate::config::{Config, Environment, SessionKeySource, Settings};
use crate::store::Store;
use usher_clerk::probe::{Probe, key_set_of, probe};
use usher_clerk::{BackendClient, BackendError};
use usher_mail::{MailSetupError, Mailer};

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

/// Prints the lines, and counts failures.
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

/// Checks everything that can be checked without changes and, unless `send_to` is given, without sending mail.
pub(super) async fn run(settings: Settings, send_to: Option<&str>) -> anyhow::Result<()> {
    let mut report = Report::default();
    let Some((config, clients)) = set_up(settings, &mut report) else {
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
    report.line("Clerk's API", &backend(clients.clerk.as_ref()).await);
    report.line("clock", &clerk_clock(&config, &clock, date).await);
    clients.mailer.close().await;
    match report.bad {
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
                report.line("configuration", &Bad(error.to_string()));
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
            report.line("templates", &Bad(format!("TEMPLATES_DIR: {first}{all}")));
        }
        _ => report.line("configuration", &Bad(error.to_string())),
    }
    None
}

/// The database, and whether `usher serve` could work with it. A missing file is not created.
async fn check_database(config: &Config, clock: &Clock, report: &mut Report) {
    let url = config.database_url.expose();
    if matches!(Store::file_exists(url), Ok(false)) {
        let found = Doubtful("there is no file yet: usher serve makes it, or usher migrate".to_owned());
        return report.line("database", &found);
    }
    let store = match Store::open(url, clock.clone()).await {
        Ok(store) => store,
        Err(error) => return report.line("database", &Bad(format!("USHER_DATABASE_URL: {error}"))),
    };
    match store.ping().await {
        Ok(()) => {
            report.line("database", &Good(format!("{:?} answers", store.dialect())));
            report.line("schema", &schema(&store, config).await);
            report.line("database clock", &database_clock(&store, clock).await);
        }
        Err(error) => report.line("database", &Bad(format!("USHER_DATABASE_URL: {error}"))),
    }
    store.close().await;
}

fn configuration(config: &Config) -> Found {
    match config.environment {
        Environment::Production => Good("production".to_owned()),
        Environment::Development => Doubtful("development: secrets are generated, mails may go to files".to_owned()),
    }
}

fn templates(config: &Config, clients: &Clients) -> Found {
    match clients.mailer.templates().samples() {
        Ok(samples) => {
            let from = config.templates_dir.as_ref();
            let from = from.map_or_else(|| "built in".to_owned(), |folder| folder.display().to_string());
            Good(format!("{} samples rendered, {from}", samples.len()))
        }
        Err(error) => Bad(error.to_string()),
    }
}

/// By the look that a start takes before it changes anything.
async fn schema(store: &Store, config: &Config) -> Found {
    match store.plan_changes(&config.rules()).await {
        Ok(steps) if steps.is_empty() => Good("up to date".to_owned()),
        Ok(_) => match store.is_migrated().await {
            Ok(_) => Doubtful(
                "older than this version: usher serve brings it up to date, or usher migrate (--dry-run tells how)"
                    .to_owned(),
            ),
            Err(_) => Doubtful("there is none yet: usher serve makes it, or usher migrate".to_owned()),
        },
        Err(error) => Bad(error.to_string()),
    }
}

/// Jobs are due by the database's clock, and invites expire by this machine's.
async fn database_clock(store: &Store, clock: &Clock) -> Found {
    match store.database_time().await {
        Ok(Some(time)) => skew(clock.now(), time, "the database"),
        Ok(None) => Absent("the database is in this process"),
        Err(error) => Bad(error.to_string()),
    }
}

async fn mail_server(mailer: &Mailer) -> Found {
    match mailer.check().await {
        Ok(()) => match mailer.outbox() {
            Some(folder) => Doubtful(format!("none: mails go to {}", folder.display())),
            None => Good("connected and logged in".to_owned()),
        },
        Err(error) => Bad(format!("SMTP_URL: {error}")),
    }
}

async fn sender(config: &Config, mailer: &Mailer) -> Found {
    match mailer.check_sender().await {
        Ok(()) if mailer.outbox().is_some() => Good(config.mail_from.clone()),
        // Most servers wait for the recipient or the content before they refuse anything.
        Ok(()) => Good(format!(
            "{}; what else the server has against sender, account or content, only a real mail shows: --send-to ADDRESS",
            config.mail_from
        )),
        Err(error) => Bad(format!("MAIL_FROM: {error}")),
    }
}

async fn test_mail(config: &Config, mailer: &Mailer, clock: &Clock, to: &str) -> Found {
    match send_to::send(config, mailer, clock, to).await {
        Ok(sent) => Good(sent.description),
        Err(error) => Bad(error.to_string()),
    }
}

/// And what time it is at Clerk's, if Clerk was asked.
async fn session_keys(config: &Config) -> (Found, Option<DateTime<Utc>>) {
    let issuer = match &config.session_keys {
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

async fn backend(clerk: Option<&BackendClient>) -> Found {
    let Some(clerk) = clerk else {
        return Absent("no CLERK_SECRET_KEY: people are known from webhooks only");
    };
    match clerk.user("user_check").await {
        Ok(_) | Err(BackendError::InvalidId) => Good("takes the secret key".to_owned()),
        Err(BackendError::Refused) => Bad("CLERK_SECRET_KEY is refused".to_owned()),
        Err(error) => Bad(format!("CLERK_API_URL: {error}")),
    }
}

async fn clerk_clock(config: &Config, clock: &Clock, mut date: Option<DateTime<Utc>>) -> Found {
    if date.is_none()
        && config.clerk_secret_key.is_some()
        && let Ok(url) = Url::parse(&config.clerk_api_url)
    {
        date = probe(url).await.ok().and_then(|probe| probe.date);
    }
    match date {
        Some(date) => skew(clock.now(), date, "Clerk"),
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
