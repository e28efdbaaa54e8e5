//! Warnings of variables that look like settings: most are misspelt.

use std::collections::BTreeSet;

use super::dotenv::DotEnv;
use super::settings::Settings;

/// Variables of the tests, which a developer's shell may have.
const FOR_TESTS: &str = "USHER_TEST_";
/// A variable with this prefix is meant for usher.
const OURS: &str = "USHER_";
/// Prefixes of settings that other programs' variables also have: here only near misses are reported.
const SHARED: &[&str] = &[
    "USHER_",
    "CLERK_",
    "SMTP_",
    "MAIL_",
    "INVITE_",
    "APP_",
    "AUTO_",
    "TEMPLATES_",
    "ORGANIZATION_",
    "PROJECT_",
];
/// From this similarity on (Jaro-Winkler, 0 to 1), a name is a misspelling of the other.
const ALIKE: f64 = 0.85;
/// Names of at least this many characters may have two typing errors, shorter ones one.
const LONG: usize = 16;

/// The variables of all settings.
pub(super) fn setting_names() -> Vec<String> {
    let command = <Settings as clap::Args>::augment_args(clap::Command::new("usher"));
    command
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect()
}

/// Warns of variables in the environment and in `.env` that look like settings and are not.
pub fn warn_of_unknown_variables(dot_env: Option<&DotEnv>) {
    #[expect(clippy::disallowed_methods, reason = "this is the reader of the environment")]
    let environment = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let in_file = dot_env.into_iter().flat_map(DotEnv::names).map(str::to_owned);
    let set: BTreeSet<String> = environment.chain(in_file).collect();
    for (name, nearest) in unknown_variables(set.into_iter()) {
        match nearest {
            Some(nearest) => tracing::warn!("{name} is not a setting of usher; did you mean {nearest}?"),
            None => tracing::warn!("{name} is not a setting of usher; usher --help lists them all"),
        }
    }
}

/// The names in `set` that look like settings and are not, each with the nearest setting.
fn unknown_variables(set: impl Iterator<Item = String>) -> Vec<(String, Option<String>)> {
    let known = setting_names();
    let mut unknown = Vec::new();
    for name in set.filter(|name| !known.contains(name) && !name.starts_with(FOR_TESTS)) {
        if name.starts_with(OURS) {
            let nearest = nearest(&known, &name, |known| strsim::jaro_winkler(known, &name) >= ALIKE);
            unknown.push((name, nearest));
        } else if let Some(nearest) = nearest(&known, &name, |known| is_slip(known, &name)) {
            unknown.push((name, Some(nearest)));
        }
    }
    unknown
}

fn nearest(known: &[String], name: &str, is_like: impl Fn(&str) -> bool) -> Option<String> {
    let like = known.iter().filter(|known| is_like(known));
    let alike = |known: &&String| strsim::jaro_winkler(known, name);
    like.max_by(|a, b| alike(a).total_cmp(&alike(b))).cloned()
}

/// Letters that were mixed up, left out or doubled, a plural, an underscore too many or too few; not another word.
fn is_slip(known: &str, name: &str) -> bool {
    let plain = |text: &str| text.replace('_', "");
    let slips = if known.len() < LONG { 1 } else { 2 };
    SHARED.iter().any(|prefix| known.starts_with(prefix))
        && (plain(known) == plain(name) || strsim::osa_distance(known, name) <= slips)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str) -> Vec<(String, Option<String>)> {
        unknown_variables(std::iter::once(name.to_owned()))
    }

    #[test]
    fn misspelt_variables_are_told_with_the_nearest_name() {
        for (name, nearest) in [
            ("USHER_TOKEN_KYE", Some("USHER_TOKEN_KEY")),
            ("USHER_DATABASE_UR", Some("USHER_DATABASE_URL")),
            ("USHER_RATELIMIT", Some("USHER_RATE_LIMIT")),
            ("USHER_LISTENS", Some("USHER_LISTEN")),
            ("USHER_XYZZY", None),
            ("CLERK_ISUER", Some("CLERK_ISSUER")),
            ("CLREK_ISSUER", Some("CLERK_ISSUER")),
            ("UHSER_TOKEN_KEY", Some("USHER_TOKEN_KEY")),
            ("CLERK_JWTKEY", Some("CLERK_JWT_KEY")),
            ("CLERK_SECRETKEY", Some("CLERK_SECRET_KEY")),
            ("CLERK_WEBHOOK_SIGNING_SECRETS", Some("CLERK_WEBHOOK_SIGNING_SECRET")),
            ("CLERK_AUTHORISED_PARTIES", Some("CLERK_AUTHORIZED_PARTIES")),
            ("SMTP_ULR", Some("SMTP_URL")),
            ("SMTP_RATES", Some("SMTP_RATE")),
            ("MAIL_FORM", Some("MAIL_FROM")),
            ("MAIL_REPLYTO", Some("MAIL_REPLY_TO")),
            ("INVITE_URI", Some("INVITE_URL")),
            ("INVITE_TLL", Some("INVITE_TTL")),
            ("APP_NAEM", Some("APP_NAME")),
            ("AUTO_ACEPT", Some("AUTO_ACCEPT")),
            ("TEMPLATE_DIR", Some("TEMPLATES_DIR")),
            ("ORGANISATION_ROLES", Some("ORGANIZATION_ROLES")),
            ("PROJECT_ROLE", Some("PROJECT_ROLES")),
        ] {
            assert_eq!(told(name), [(name.to_owned(), nearest.map(str::to_owned))], "{name}");
        }
    }

    #[test]
    fn other_programs_variables_are_not_spoken_of() {
        for name in [
            "USHER_TOKEN_KEY",
            "USHER_TEST_POSTGRES_URL",
            "PATH",
            "usher_listen",
            "CLERK_PUBLISHABLE_KEY",
            "CLERK_SIGN_IN_URL",
            "CLERK_JWT_ISSUER_DOMAIN",
            "CLERK_API_KEY",
            "CLERK_TELEMETRY_DISABLED",
            "NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY",
            "APP_ENV",
            "APP_KEY",
            "APP_URL",
            "APP_DEBUG",
            "APP_HOME",
            "MAIL_HOST",
            "MAIL_PORT",
            "MAIL_MAILER",
            "MAIL_USERNAME",
            "MAIL_FROM_NAME",
            "MAIL_FROM_ADDRESS",
            "MAIL",
            "MAILCHECK",
            "SMTP_HOST",
            "SMTP_USER",
            "SMTP_PORT",
            "SMTP_PASS",
            "INVITE_CODE",
            "PROJECT_ID",
            "PROJECT_NAME",
            "PROJECT_ROOT",
            "ORGANIZATION_ID",
            "AUTO_UPDATE",
            "TEMPLATES_PATH",
        ] {
            assert!(told(name).is_empty(), "{name}: {:?}", told(name));
        }
    }
}
