//! URLs for display: every part that may be a secret is masked.

use url::Url;

const MASK: &str = "****";

/// Parameters without secrets. All others are masked, because they may contain some.
const HARMLESS: &[&str] = &[
    "application_name",
    "body",
    "cache",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "immutable",
    "mode",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "subject",
    "tls",
    "user",
];

/// A URL, or several separated by commas, without possible secrets. One that can't be parsed is masked as a whole.
pub(super) fn addresses(text: &str) -> String {
    match address(text) {
        Some(shown) => shown,
        // One URL may also contain a comma, as in Postgres's list of hosts.
        None if text.contains(',') => {
            let each = text
                .split(',')
                .map(|part| address(part.trim()).unwrap_or_else(|| MASK.to_owned()));
            each.collect::<Vec<_>>().join(",")
        }
        None => MASK.to_owned(),
    }
}

/// A text that may be a URL; if it is not, it is shown as it is.
pub(super) fn text_or_address(text: &str) -> String {
    if text.contains(':') || text.contains('@') {
        addresses(text)
    } else {
        text.to_owned()
    }
}

fn address(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let (before, fragment) = split_before(text, '#');
    let (before, query) = split_before(before, '?');
    let query = query.map(masked_query).unwrap_or_default();
    let Some(at) = before.find("://") else {
        // `mailto:` and `sqlite:` have no login.
        return (!has_login(&url)).then(|| format!("{before}{query}{}", fragment.unwrap_or_default()));
    };
    let (scheme, rest) = before.split_at(at + 3);
    let end = rest.find(['/', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A password with an unescaped slash or the like extends beyond the parsed login.
    if path.contains('@') || query.contains('@') || fragment.is_some_and(|fragment| fragment.contains('@')) {
        return None;
    }
    let authority = match authority.rsplit_once('@') {
        Some((login, host)) => format!("{}@{host}", masked_login(scheme, login)),
        None => authority.to_owned(),
    };
    Some(format!(
        "{scheme}{authority}{path}{query}{}",
        fragment.unwrap_or_default()
    ))
}

fn has_login(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// The user of a database is shown: it is not secret, and helps to find wrong rights. In other URLs it may be a key.
fn masked_login(scheme: &str, login: &str) -> String {
    let is_database = scheme.starts_with("postgres");
    match login.split_once(':') {
        Some((user, password)) if is_database && user != password => format!("{user}:{MASK}"),
        None if is_database => login.to_owned(),
        Some(_) => format!("{MASK}:{MASK}"),
        None => MASK.to_owned(),
    }
}

/// `query` begins with its question mark.
fn masked_query(query: &str) -> String {
    let parameters = query[1..].split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, value)) => {
            let is_harmless = HARMLESS.contains(&name.to_lowercase().as_str())
                || value.is_empty()
                || (value.starts_with('{') && value.ends_with('}'));
            let value = if is_harmless { value } else { MASK };
            format!("{name}={value}")
        }
        None if parameter.is_empty() => String::new(),
        None => MASK.to_owned(),
    });
    format!("?{}", parameters.collect::<Vec<_>>().join("&"))
}

/// The text before the character, and the rest including it.
fn split_before(text: &str, character: char) -> (&str, Option<&str>) {
    match text.find(character) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_wherever_it_stands_in_an_address() {
        for text in [
            "postgres://usher:hunter2@localhost/app",
            "postgres://hunter2:hunter2@localhost/app",
            "postgres://usher@localhost/app?password=hunter2",
            "postgres://localhost/app?user=usher&PASSWORD=hunter2&sslmode=require",
            "postgres://localhost/app?sslpassword=hunter2",
            "postgres://localhost/app?options=-c%20x.y%3Dhunter2",
            "postgres://localhost/app?hunter2",
            "postgres://u:12/hunter2@localhost/app",
            "postgres://u:hunter2/x@localhost/app",
            "postgres://u:pa#hunter2@localhost/app",
            "postgres://u:pa?hunter2@localhost/app",
            "postgres://u:1?x=hunter2@localhost/app",
            "sqlite://usher.db?key=hunter2",
            "smtp://hunter2:hunter2@mail.example.com:587?tls=required",
            "smtp://apikey:hunter2@mail.example.com:587?auth=hunter2",
            "https://user:hunter2@clerk.example.com",
            "https://hunter2@clerk.example.com",
            "https://clerk.example.com/?api_key=hunter2",
            "https://example.com/stop?email={email}&key=hunter2",
            "mailto:stop@example.com,https://u:hunter2@example.com/{email}",
            "http:hunter2@example.com",
            "hunter2",
        ] {
            let shown = addresses(text);
            assert!(!shown.contains("hunter2"), "{text} is shown as {shown}");
        }
    }

    #[test]
    fn what_opens_nothing_is_shown_as_it_is() {
        for text in [
            "postgres://usher@localhost:5432/app?sslmode=require&host=/run/postgresql",
            "sqlite:///var/lib/usher/usher.db",
            "smtp://localhost:2525",
            "smtps://mail.example.com",
            "https://clerk.example.com",
            "https://app.example.com/invite#{token}",
            "https://app.example.com/invite?token={token}",
            "mailto:stop@example.com?subject=stop,https://example.com/stop?email={email}",
        ] {
            assert_eq!(addresses(text), text);
        }
        assert_eq!(
            addresses("postgres://usher:x@localhost/app"),
            "postgres://usher:****@localhost/app"
        );
        assert_eq!(
            addresses("smtp://u:p@localhost?tls=required"),
            "smtp://****:****@localhost?tls=required"
        );
    }
}
