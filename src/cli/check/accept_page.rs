//! Whether Clerk's script can work on usher's accept page: Clerk's production instances serve their own domain only.

use url::{Host, Url};

use super::Check::{self, Fail, Pass, Skip, Warn};
use crate::config::{Config, Environment, PublishableKey};

/// By the settings alone; Clerk is not asked.
pub(super) fn check(config: &Config) -> Check {
    let Some(public_url) = config.public_url.as_deref().filter(|url| leads_to(config, url)) else {
        return Skip("INVITE_URL leads to a page of the app");
    };
    let Some(key) = &config.clerk_publishable_key else {
        return Skip("no CLERK_PUBLISHABLE_KEY, so Clerk's script is not loaded");
    };
    let Ok(page) = Url::parse(public_url) else {
        return Fail("USHER_PUBLIC_URL is no address".to_owned());
    };
    match instance_of(key, &page, config.environment) {
        failed @ Fail(_) => failed,
        works => other_instance(key, config.clerk_issuer.as_deref()).unwrap_or(works),
    }
}

fn leads_to(config: &Config, public_url: &str) -> bool {
    config.invite_url.link("").starts_with(&format!("{public_url}/i#"))
}

/// Whether the key's instance works on this page.
fn instance_of(key: &PublishableKey, page: &Url, environment: Environment) -> Check {
    if key.key.starts_with("pk_test_") {
        return match environment {
            Environment::Development => Pass("a development instance of Clerk, which works on any origin".to_owned()),
            Environment::Production => Warn(
                "CLERK_PUBLISHABLE_KEY is of a development instance of Clerk, which is not meant for real users; \
                 use the pk_live_ key"
                    .to_owned(),
            ),
        };
    }
    let domain = domain_of(key);
    let is_within = match page.host() {
        Some(Host::Domain(host)) => host == domain || host.ends_with(&format!(".{domain}")),
        _ => false,
    };
    match (is_within, page.scheme()) {
        (false, _) => Fail(format!(
            "USHER_PUBLIC_URL is not within {domain}, the domain of CLERK_PUBLISHABLE_KEY, so Clerk refuses to work there; \
             serve usher under a name such as https://invites.{domain}"
        )),
        (true, "https") => Pass(format!("within {domain}, the domain of Clerk's instance")),
        (true, _) => Fail("USHER_PUBLIC_URL must begin with https:// for a production instance of Clerk".to_owned()),
    }
}

/// `clerk.example.com` is the Frontend API of `example.com`.
fn domain_of(key: &PublishableKey) -> &str {
    let host = key.frontend_api.split(':').next().unwrap_or_default();
    host.strip_prefix("clerk.").unwrap_or(host)
}

/// What is wrong if the page's session tokens come from another instance than the one that is trusted. An issuer with a path is
/// a proxy of the app's, which may have any name.
fn other_instance(key: &PublishableKey, issuer: Option<&str>) -> Option<Check> {
    let issuer = Url::parse(issuer?).ok()?;
    let is_proxy = issuer.path() != "/";
    let is_same = issuer.authority() == key.frontend_api;
    (!is_same && !is_proxy).then(|| {
        Fail(
            "CLERK_PUBLISHABLE_KEY and CLERK_ISSUER are of different instances of Clerk, so who signs in on the accept page is \
             refused; take both from the same instance's API keys"
                .to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, frontend_api: &str) -> PublishableKey {
        PublishableKey {
            key: format!("pk_{kind}_x"),
            frontend_api: frontend_api.to_owned(),
        }
    }

    fn outcome(check: &Check) -> &'static str {
        match check {
            Pass(_) => "pass",
            Warn(_) => "warn",
            Fail(_) => "fail",
            Skip(_) => "skip",
        }
    }

    #[test]
    fn a_production_instance_works_within_its_domain_over_https() {
        let live = key("live", "clerk.example.com");
        for (page, expected) in [
            ("https://invites.example.com", "pass"),
            ("https://example.com/usher", "pass"),
            ("https://a.b.example.com:8443", "pass"),
            ("http://invites.example.com", "fail"),
            ("https://example.org", "fail"),
            ("https://notexample.com", "fail"),
            ("http://localhost:8080", "fail"),
            ("https://192.0.2.1", "fail"),
        ] {
            let found = instance_of(&live, &Url::parse(page).unwrap(), Environment::Production);
            assert_eq!(outcome(&found), expected, "{page}");
        }
    }

    #[test]
    fn a_development_instance_works_anywhere_and_is_no_good_in_production() {
        let test = key("test", "happy-cat-1.clerk.accounts.dev");
        let page = Url::parse("http://localhost:8080").unwrap();
        for (environment, expected) in [(Environment::Development, "pass"), (Environment::Production, "warn")] {
            assert_eq!(outcome(&instance_of(&test, &page, environment)), expected);
        }
    }

    #[test]
    fn the_issuer_is_the_key_s_instance_unless_it_is_a_proxy() {
        let live = key("live", "clerk.example.com");
        for (issuer, is_wrong) in [
            (None, false),
            (Some("https://clerk.example.com"), false),
            (Some("https://app.example.com/__clerk"), false),
            (Some("https://clerk.example.org"), true),
        ] {
            assert_eq!(other_instance(&live, issuer).is_some(), is_wrong, "{issuer:?}");
        }
    }
}
