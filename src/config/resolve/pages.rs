//! The settings of usher's own pages, and which pages may call from the browser.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use url::Url;
use usher_clerk::is_https_or_loopback;

use crate::config::error::{ConfigError, Problems, wrong};
use crate::config::values::{list, url};
use crate::config::{Environment, InviteUrl, PublishableKey, Settings};
use crate::invites::RedirectOrigins;

impl Settings {
    /// `USHER_PUBLIC_URL` without a slash at the end. In development, by default, the address that usher listens on.
    pub(super) fn public_url(
        &self,
        environment: Environment,
        listen: SocketAddr,
    ) -> Result<Option<String>, ConfigError> {
        const VARIABLE: &str = "USHER_PUBLIC_URL";
        let Some(text) = self.usher_public_url.as_deref() else {
            return Ok((environment == Environment::Development).then(|| format!("http://{}", host_of(listen))));
        };
        let url = url(VARIABLE, text)?;
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(VARIABLE, "must have no user, no password, no ? and no #"));
        }
        Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
    }

    pub(super) fn app_url(&self) -> Result<Option<String>, ConfigError> {
        let read = |text: &str| url("APP_URL", text).map(String::from);
        self.app_url.as_deref().map(read).transpose()
    }

    /// `REDIRECT_URLS`, by default the origin of `APP_URL`.
    pub(super) fn redirects(&self, environment: Environment, all: &mut Problems) -> RedirectOrigins {
        const VARIABLE: &str = "REDIRECT_URLS";
        let in_production = environment == Environment::Production;
        let Some(given) = self.redirect_urls.as_deref() else {
            let app = self
                .app_url
                .as_deref()
                .and_then(|url| redirect_origin(url, in_production).ok());
            return RedirectOrigins::new(app.into_iter().map(|(origin, _)| origin).collect());
        };
        let mut origins = Vec::new();
        for (position, entry) in (1..).zip(list(Some(given))) {
            match redirect_origin(&entry, in_production) {
                Ok((origin, true)) => origins.push(origin),
                Ok((_, false)) => all.add(wrong(
                    VARIABLE,
                    format!("entry {position} must end after the host or the port; an invite names the path"),
                )),
                Err(problem) => all.add(wrong(VARIABLE, format!("entry {position} {problem}"))),
            }
        }
        RedirectOrigins::new(origins)
    }

    /// `CLERK_PUBLISHABLE_KEY` is `pk_test_` or `pk_live_` and the host of Clerk's Frontend API with a `$`, in base64.
    pub(super) fn publishable_key(&self) -> Result<Option<PublishableKey>, ConfigError> {
        const VARIABLE: &str = "CLERK_PUBLISHABLE_KEY";
        let Some(key) = self.clerk_publishable_key.as_deref().map(str::trim) else {
            return Ok(None);
        };
        let frontend_api = frontend_api(key).ok_or_else(|| {
            wrong(
                VARIABLE,
                "must be the publishable key that Clerk's dashboard shows under API keys; it begins with pk_test_ or pk_live_",
            )
        })?;
        Ok(Some(PublishableKey {
            key: key.to_owned(),
            frontend_api,
        }))
    }
}

/// The origin of an address, and whether it is nothing more.
fn redirect_origin(text: &str, in_production: bool) -> Result<(String, bool), &'static str> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or("must be an origin such as https://app.example.com")?;
    if url.host_str().is_none_or(|host| host.contains('*')) || !url.username().is_empty() || url.password().is_some() {
        return Err("must name one host, without a user and without *");
    }
    if in_production && !is_https_or_loopback(&url) {
        return Err("must begin with https://, or be on this machine");
    }
    let is_only = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    Ok((url.origin().ascii_serialization(), is_only))
}

fn frontend_api(key: &str) -> Option<String> {
    let encoded = key.strip_prefix("pk_test_").or_else(|| key.strip_prefix("pk_live_"))?;
    let decoded = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    let host = String::from_utf8(decoded).ok()?.strip_suffix('$')?.to_owned();
    // The host goes into a header, so it must be nothing else.
    let is_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:".contains(&byte);
    let url = Url::parse(&format!("https://{host}")).ok()?;
    (host.bytes().all(is_host) && host.contains('.') && url.host_str() == host.split(':').next()).then_some(host)
}

/// How a browser on this machine reaches usher.
fn host_of(listen: SocketAddr) -> String {
    match listen.ip() {
        ip if ip.is_unspecified() => format!("localhost:{}", listen.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => listen.to_string(),
    }
}

/// The origins whose pages may call from the browser: the app's, usher's own and, in development, that of `INVITE_URL`.
pub(super) fn page_origins(
    environment: Environment,
    parties: &[String],
    public_url: Option<&str>,
    invite_url: &InviteUrl,
) -> Vec<String> {
    let mut origins = parties.to_vec();
    origins.extend(public_url.and_then(origin));
    if environment == Environment::Development {
        origins.extend(origin(&invite_url.0));
    }
    origins.sort();
    origins.dedup();
    origins
}

/// Scheme, host and port, as browsers send them.
pub(super) fn origin(url: &str) -> Option<String> {
    Url::parse(url).ok().map(|url| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_origins_of_the_app() {
        let read = |environment, redirect_urls: Option<&str>, app_url: Option<&str>| {
            let settings = Settings {
                redirect_urls: redirect_urls.map(str::to_owned),
                app_url: app_url.map(str::to_owned),
                ..Settings::default()
            };
            let mut all = Problems::default();
            let read = settings.redirects(environment, &mut all);
            all.end(read.names().join(" ")).map_err(|errors| errors.to_string())
        };
        let (production, development) = (Environment::Production, Environment::Development);
        for (environment, given, app, origins) in [
            (production, None, None, ""),
            (
                production,
                None,
                Some("https://App.example.com/home?x#y"),
                "https://app.example.com",
            ),
            (production, None, Some("http://app.example.com/home"), ""),
            (
                development,
                None,
                Some("http://app.test:3000/home"),
                "http://app.test:3000",
            ),
            (
                production,
                Some("https://a.example, HTTPS://m\u{fc}nchen.example:443/ ,http://localhost:3000,http://[::1]:80"),
                Some("https://app.example.com"),
                "https://a.example https://xn--mnchen-3ya.example http://localhost:3000 http://[::1]",
            ),
            (development, Some("http://app.test"), None, "http://app.test"),
        ] {
            assert_eq!(read(environment, given, app).as_deref(), Ok(origins), "{given:?}");
        }
        for wrong in [
            "app.example.com",
            "*",
            "https://*.example.com",
            "https://u:hunter2@app.example.com",
            "https://app.example.com/welcome",
            "https://app.example.com/?x",
            "https://app.example.com#x",
            "http://app.example.com",
            "javascript:alert(1)",
            "myapp://open",
        ] {
            let said = read(production, Some(&format!("https://a.example,{wrong}")), None).unwrap_err();
            assert!(
                said.contains("REDIRECT_URLS entry 2 ") && !said.contains("hunter2"),
                "{wrong}: {said}"
            );
        }
    }

    #[test]
    fn a_publishable_key_names_the_frontend_api() {
        let key = |host: &str| format!("pk_test_{}", base64::engine::general_purpose::STANDARD.encode(host));
        assert_eq!(
            frontend_api(&key("clerk.example.com$")).as_deref(),
            Some("clerk.example.com")
        );
        for wrong in [
            "clerk.example.com",
            "localhost$",
            "clerk.example.com/x$",
            "a b.c$",
            "x;y.z$",
            "$",
            "",
        ] {
            assert_eq!(frontend_api(&key(wrong)), None, "{wrong}");
        }
        assert_eq!(frontend_api("sk_test_Y2xlcmsuZXhhbXBsZS5jb20k"), None);
        assert_eq!(frontend_api("pk_test_?"), None);
    }
}
