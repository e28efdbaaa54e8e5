//! Clerk's URLs and the app's origins, normalized for comparison.

use url::{Host, Url};

use super::error::{ConfigError, wrong};
use usher_clerk::is_https_or_loopback;

const ISSUER: &str = "CLERK_ISSUER";
const API_URL: &str = "CLERK_API_URL";
const PARTIES: &str = "CLERK_AUTHORIZED_PARTIES";

/// Clerk's own hosts, which are not the Frontend API of an instance.
const NO_ISSUERS: &[&str] = &[
    "api.clerk.com",
    "api.clerk.dev",
    "dashboard.clerk.com",
    "clerk.com",
    "www.clerk.com",
];

/// The Frontend API's URL, for both uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issuer {
    /// Where the keys are fetched, with the login for a proxy if there is one.
    pub url: Url,
    /// The issuer in tokens: without login and slash at the end.
    pub name: String,
}

/// Reads `CLERK_ISSUER`. Adds a missing `https://` to a host name; removes the key set's path and slashes from the end.
pub(super) fn issuer(text: &str, keys_are_fetched: bool) -> Result<Issuer, ConfigError> {
    let example = "must be the https:// address of Clerk's Frontend API, such as https://clerk.example.com";
    let text = text.trim();
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&with_scheme)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && is_host(url.host(), text.contains("://")))
        .ok_or_else(|| wrong(ISSUER, example))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(ISSUER, format!("{example}, without ? and #")));
    }
    if url.host_str().is_some_and(|host| NO_ISSUERS.contains(&host)) {
        return Err(wrong(
            ISSUER,
            "is Clerk's own address, not your instance's; the dashboard shows the Frontend API URL under API keys",
        ));
    }
    let path = match url.path().find("/.well-known") {
        Some(at) => &url.path()[..at],
        None => url.path(),
    };
    let path = path.trim_end_matches('/').to_owned();
    url.set_path(&path);
    if keys_are_fetched && !is_https_or_loopback(&url) {
        return Err(wrong(
            ISSUER,
            "must begin with https://, or be on this machine: the keys are fetched from there",
        ));
    }
    let mut name = url.clone();
    // They fail for URLs that can't have a login.
    let _ = name.set_username("");
    let _ = name.set_password(None);
    let name = name.as_str().trim_end_matches('/').to_owned();
    Ok(Issuer { url, name })
}

/// Without a scheme, a word without a dot is not accepted as a host: it may be anything.
fn is_host(host: Option<Host<&str>>, has_scheme: bool) -> bool {
    match host {
        Some(Host::Domain(name)) => !name.is_empty() && (has_scheme || name.contains('.')),
        Some(_) => has_scheme,
        None => false,
    }
}

/// Reads `CLERK_API_URL`, and removes the `/v1` that Clerk's documentation shows.
pub(super) fn api_url(text: &str) -> Result<String, ConfigError> {
    let problem = || {
        wrong(
            API_URL,
            "must be an https:// address such as https://api.clerk.com, without ? and #",
        )
    };
    let mut url = Url::parse(text.trim())
        .ok()
        .filter(|url| is_https_or_loopback(url) && url.query().is_none() && url.fragment().is_none())
        .ok_or_else(problem)?;
    let path = url.path().trim_end_matches('/');
    let path = path
        .strip_suffix("/v1")
        .unwrap_or(path)
        .trim_end_matches('/')
        .to_owned();
    url.set_path(&path);
    Ok(url.to_string())
}

/// Reads `CLERK_AUTHORIZED_PARTIES`, each in the form of the `Origin` header and Clerk's `azp`. Returns all errors.
pub(super) fn origins(text: &str) -> Result<Vec<String>, Vec<ConfigError>> {
    let (mut origins, mut problems) = (Vec::new(), Vec::new());
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    for (position, entry) in (1..).zip(entries) {
        match origin(entry) {
            Ok(origin) if origins.contains(&origin) => {}
            Ok(origin) => origins.push(origin),
            Err(problem) => problems.push(wrong(PARTIES, format!("entry {position} {problem}"))),
        }
    }
    if problems.is_empty() {
        Ok(origins)
    } else {
        Err(problems)
    }
}

/// Scheme, host and port of a URL.
fn origin(text: &str) -> Result<String, &'static str> {
    const EXAMPLE: &str = "must be an origin such as https://app.example.com";
    let url = Url::parse(text).map_err(|_| EXAMPLE)?;
    if !text.contains("://") || !url.has_host() {
        return Err(EXAMPLE);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user or password in it; an origin has neither");
    }
    if url.host_str().is_none_or(|host| host.is_empty() || host.contains('*')) {
        return Err("must name one host; there are no wildcards");
    }
    if matches!(url.scheme(), "http" | "https") {
        return Ok(url.origin().ascii_serialization());
    }
    // A browser extension or an app in a web view: `chrome-extension://…`, `capacitor://localhost`.
    let host = url.host_str().unwrap_or_default().to_lowercase();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Ok(format!("{}://{host}{port}", url.scheme()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_comes_to_what_tokens_name() {
        for (text, name) in [
            ("https://clerk.example.com", "https://clerk.example.com"),
            ("https://clerk.example.com/", "https://clerk.example.com"),
            (" https://clerk.example.com// ", "https://clerk.example.com"),
            ("clerk.example.com", "https://clerk.example.com"),
            ("clerk.example.com/", "https://clerk.example.com"),
            ("HTTPS://Clerk.Example.com:443", "https://clerk.example.com"),
            (
                "https://clerk.example.com/.well-known/jwks.json",
                "https://clerk.example.com",
            ),
            ("clerk.example.com/.well-known/jwks.json", "https://clerk.example.com"),
            (
                "https://clerk.example.com/.well-known/openid-configuration",
                "https://clerk.example.com",
            ),
            ("https://app.example.com/__clerk/", "https://app.example.com/__clerk"),
            (
                "https://app.example.com/__clerk/.well-known/jwks.json",
                "https://app.example.com/__clerk",
            ),
            ("https://u:hunter2@clerk.example.com", "https://clerk.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
        ] {
            assert_eq!(
                issuer(text, true).map(|issuer| issuer.name),
                Ok(name.to_owned()),
                "{text}"
            );
        }
        assert_eq!(issuer("http://clerk:8080", false).unwrap().name, "http://clerk:8080");
    }

    #[test]
    fn an_issuer_that_can_match_no_token_is_refused() {
        for text in [
            "clerk",
            "ftp://clerk.example.com",
            "https://",
            "https://clerk.example.com?x=1",
            "https://clerk.example.com#x",
            "https://api.clerk.com",
            "api.clerk.com/v1/jwks",
            "https://dashboard.clerk.com/apps/app_1",
            "http://clerk.example.com",
            "pk_test_Y2xlcmsu",
            "clerk example.com",
        ] {
            assert!(issuer(text, true).is_err(), "{text}");
        }
    }

    #[test]
    fn origins_come_to_what_browsers_write() {
        let text = "https://app.example.com/, HTTPS://App.Example.com:443/dash?x#y ,http://localhost:3000/,\
                    https://m\u{fc}nchen.example,chrome-extension://Abcdef/,capacitor://localhost,http://[::1]:80";
        assert_eq!(
            origins(text),
            Ok([
                "https://app.example.com",
                "http://localhost:3000",
                "https://xn--mnchen-3ya.example",
                "chrome-extension://abcdef",
                "capacitor://localhost",
                "http://[::1]",
            ]
            .map(str::to_owned)
            .to_vec())
        );
        assert_eq!(origins(" , "), Ok(Vec::new()));
        for entry in [
            "*",
            "null",
            "app.example.com",
            "localhost:3000",
            "https://*.example.com",
            "https://u:hunter2@app.example.com",
            "https://",
            "mailto:a@b",
            "https://app.example.com:99999",
        ] {
            let errors = origins(&format!("https://app.example.com,{entry}")).unwrap_err();
            assert_eq!(errors.len(), 1, "{entry}");
            let said = errors[0].to_string();
            assert!(
                said.starts_with("CLERK_AUTHORIZED_PARTIES entry 2 ") && !said.contains("hunter2"),
                "{said}"
            );
        }
    }

    #[test]
    fn the_api_s_address_has_no_version_in_it() {
        for text in [
            "https://api.clerk.com",
            "https://api.clerk.com/",
            "https://api.clerk.com/v1",
            "https://api.clerk.com/v1/",
        ] {
            assert_eq!(api_url(text).unwrap(), "https://api.clerk.com/", "{text}");
        }
        for text in [
            "api.clerk.com",
            "http://api.clerk.com",
            "https://api.clerk.com?x=1",
            "https://",
        ] {
            assert!(api_url(text).is_err(), "{text}");
        }
    }
}
