//! Where people go after they accept: an address of the app's, at an origin that is allowed.

use serde_json::Value;
use url::Url;

use crate::fields::text;

const MAX_LENGTH: usize = 2_048;

/// The origins that invites may lead to. One rule for all: a request is checked by it, and a stored address again each time
/// it is given out, because the origins may have changed. `usher_origin` in SQL is the same rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedirectOrigins(Vec<String>);

impl RedirectOrigins {
    /// As browsers write them: `https://app.example.com`.
    #[must_use]
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The address, if people may still be led there.
    #[must_use]
    pub fn allowed(&self, url: Option<&str>) -> Option<String> {
        url.filter(|url| self.check(url).is_ok()).map(str::to_owned)
    }

    /// Reads the field of a request.
    pub(super) fn read(&self) -> impl FnOnce(Value) -> Result<String, String> {
        move |value| {
            let url = text(value)?;
            self.check(&url)?;
            Ok(url)
        }
    }

    fn check(&self, url: &str) -> Result<(), String> {
        if url.len() > MAX_LENGTH {
            return Err(format!("must have at most {MAX_LENGTH} characters"));
        }
        let origin = origin(url).ok_or(
            "must be an address such as https://app.example.com/welcome, in ASCII and without a user, spaces and backslashes",
        )?;
        if self.0.contains(&origin) {
            return Ok(());
        }
        Err(match self.0.join(", ") {
            none if none.is_empty() => {
                "leads to an origin that is not allowed: set REDIRECT_URLS or APP_URL".to_owned()
            }
            origins => format!("must lead to an origin of REDIRECT_URLS: {origins}"),
        })
    }
}

/// Scheme, host and port, if they are written as browsers write them. Everything else, such as user info, extra slashes or
/// a number for a host, could be read in two ways.
fn origin(url: &str) -> Option<String> {
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return None;
    }
    let parsed = Url::parse(url).ok()?;
    let default_port = match parsed.scheme() {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    let written = format!("{scheme}://{host}").to_ascii_lowercase();
    let written = written.strip_suffix(default_port).unwrap_or(&written);
    let origin = parsed.origin().ascii_serialization();
    (written == origin).then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> RedirectOrigins {
        let origins = [
            "https://app.example.com",
            "http://localhost:3000",
            "https://xn--mnchen-3ya.example",
        ];
        RedirectOrigins::new(origins.map(str::to_owned).to_vec())
    }

    #[test]
    fn an_address_at_an_allowed_origin_is_given_back_as_it_is() {
        for url in [
            "https://app.example.com",
            "https://app.example.com/",
            "https://app.example.com/welcome?plan=pro&next=https://evil.example#top",
            "HTTPS://App.Example.COM/Welcome",
            "https://app.example.com:443/welcome",
            "https://app.example.com#@evil.example",
            "https://app.example.com?@evil.example",
            "https://app.example.com/@evil.example",
            "https://app.example.com/%0d%0a",
            "http://localhost:3000/onboarding",
            "https://xn--mnchen-3ya.example/",
        ] {
            assert_eq!(origins().allowed(Some(url)).as_deref(), Some(url));
        }
        assert_eq!(origins().allowed(None), None);
    }

    #[test]
    fn no_other_address_is_allowed() {
        let long = format!("https://app.example.com/{}", "x".repeat(5_000));
        for url in [
            "",
            "javascript:alert(1)",
            "data:text/html,x",
            "//evil.example",
            "/welcome",
            "app.example.com",
            "https:app.example.com",
            "https:/app.example.com",
            "https:///app.example.com",
            "https:////evil.example",
            "https://app.example.com@evil.example",
            "https://user@app.example.com",
            "https://@app.example.com",
            "https://app.example.com:pass@evil.example",
            "https://app.example.com.evil.example",
            "https://evil.example/https://app.example.com",
            "https://evil.example#https://app.example.com",
            "https://evil.example\\@app.example.com",
            "https://app.example.com\\@evil.example",
            "https:\\\\app.example.com",
            "https://app.example.com\t.evil.example",
            "https://app.example.com/\n",
            "\nhttps://app.example.com",
            " https://app.example.com",
            "java\nscript:alert(1)",
            "http://app.example.com",
            "https://app.example.com:444",
            "https://app.example.com:0443",
            "https://app.example.com:",
            "https://app.example.com:80",
            "http://localhost",
            "http://localhost:3001",
            "https://app.example.com.",
            "https://%61pp.example.com",
            "https://m\u{fc}nchen.example/",
            "https://app.ex\u{430}mple.com",
            "https://app\u{3002}example.com",
            "https://app.example.com/\u{0}",
            "https://app.example.com/\u{7f}",
            "ftp://app.example.com",
            "wss://app.example.com",
            "blob:https://app.example.com/1",
            "https://*",
            "https://",
            &long,
        ] {
            assert_eq!(origins().allowed(Some(url)), None, "{url}");
        }
        assert_eq!(
            RedirectOrigins::default().allowed(Some("https://app.example.com")),
            None
        );
    }
}
