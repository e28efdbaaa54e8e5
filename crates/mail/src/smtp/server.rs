//! Where the mail server is, and how a connection to it begins: greeting, EHLO, encryption, login.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use tokio::sync::mpsc::UnboundedSender;
use url::{Host, Url};

use super::connection::{Connection, limits, replied, within};
use super::permits::Permit;
use super::reply::Reply;
use super::wire::{Listener, Tls, Wire};
use crate::failure::{Cause, Failure, Step};

/// Where the server is and how to speak to it.
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    encryption: Encryption,
    pub(crate) hello: Hello,
    credentials: Option<Credentials>,
}

enum Encryption {
    None,
    /// If the server offers it.
    Opportunistic(Tls),
    /// STARTTLS or nothing.
    Required(Tls),
    FromTheStart(Tls),
}

/// What we call ourselves in EHLO. Never this machine's own name: in a container that is a random one, which strict servers
/// refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// A domain name, or an address literal as it was set.
    Name(String),
    /// The address that the connection comes from, as `[192.0.2.1]`.
    Literal,
}

#[derive(PartialEq, Eq)]
struct Credentials {
    user: String,
    password: String,
}

/// What the server says to EHLO that it can do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Offers {
    /// Commands in groups (RFC 2920).
    pub(crate) pipelining: bool,
    /// Addresses outside ASCII (RFC 6531), with the 8-bit text that they need (RFC 6152).
    pub(crate) utf8: bool,
    starttls: bool,
    plain: bool,
    login: bool,
    /// So many mails in one connection (RFC 9422).
    pub(crate) mails: Option<usize>,
}

impl Hello {
    /// The name for a sender's domain: itself, if it can be one in the public DNS.
    pub(crate) fn for_domain(domain: &str) -> Self {
        if is_full_name(domain) {
            Self::Name(domain.to_owned())
        } else {
            Self::Literal
        }
    }

    /// A name as it was set.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let literal = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_good = match literal {
            Some(literal) => literal
                .strip_prefix("IPv6:")
                .unwrap_or(literal)
                .parse::<IpAddr>()
                .is_ok(),
            None => is_full_name(text),
        };
        is_good.then(|| Self::Name(text.to_owned()))
    }

    fn said_from(&self, local: SocketAddr) -> String {
        match (self, local.ip().to_canonical()) {
            (Self::Name(name), _) => name.clone(),
            (Self::Literal, IpAddr::V4(ip)) => format!("[{ip}]"),
            (Self::Literal, IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
        }
    }
}

/// Letters, digits and hyphens in at least two parts, the last of which is no number.
fn is_full_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_a_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253
        && name.split('.').all(is_label)
        && name.rsplit_once('.').is_some_and(|(_, last)| !is_a_number(last))
}

impl Offers {
    fn of(reply: &Reply) -> Self {
        let mut offers = Self::default();
        let mut has_smtputf8 = false;
        let mut has_8bitmime = false;
        for line in &reply.lines {
            let line = line.trim().to_ascii_uppercase().replacen("AUTH=", "AUTH ", 1);
            let mut words = line.split_whitespace();
            match words.next() {
                Some("PIPELINING") => offers.pipelining = true,
                Some("SMTPUTF8") => has_smtputf8 = true,
                Some("8BITMIME") => has_8bitmime = true,
                Some("STARTTLS") => offers.starttls = true,
                Some("AUTH") => words.for_each(|mechanism| match mechanism {
                    "PLAIN" => offers.plain = true,
                    "LOGIN" => offers.login = true,
                    _ => {}
                }),
                Some("LIMITS") => {
                    let most = words.find_map(|limit| limit.strip_prefix("MAILMAX=")?.parse().ok());
                    offers.mails = most.filter(|&mails| mails > 0);
                }
                _ => {}
            }
        }
        offers.utf8 = has_smtputf8 && has_8bitmime;
        offers
    }
}

impl Server {
    /// The error never repeats the URL.
    pub(crate) fn from_url(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        let host = match url.host() {
            Some(Host::Domain(name)) if !name.is_empty() => name.to_owned(),
            Some(Host::Ipv4(ip)) => ip.to_string(),
            Some(Host::Ipv6(ip)) => ip.to_string(),
            _ => return Err("there is no host in it".to_owned()),
        };
        let mut wanted_tls = None;
        for (key, value) in url.query_pairs() {
            // A misspelt `tls` must not turn encryption off.
            match &*key {
                "tls" => wanted_tls = Some(value.into_owned()),
                _ => return Err("the only parameter it can have is tls".to_owned()),
            }
        }
        let (default_port, encryption) = match (url.scheme(), wanted_tls.as_deref()) {
            ("smtps", None) => (465, Encryption::FromTheStart(Tls::to(&host)?)),
            ("smtp", Some("required")) => (587, Encryption::Required(Tls::to(&host)?)),
            ("smtp", Some("opportunistic")) => (587, Encryption::Opportunistic(Tls::to(&host)?)),
            ("smtp", None) => (25, Encryption::None),
            ("smtp" | "smtps", _) => {
                return Err("tls is required or opportunistic, and only for smtp://".to_owned());
            }
            _ => return Err("it starts with smtp:// or smtps://".to_owned()),
        };
        let credentials = match (decoded(url.username())?, url.password().map(decoded).transpose()?) {
            (user, None) if user.is_empty() => None,
            (user, Some(password)) if !user.is_empty() => Some(Credentials { user, password }),
            _ => return Err("user name and password belong together".to_owned()),
        };
        let hello = match url.path().trim_matches('/') {
            "" => Hello::Literal,
            name => Hello::parse(name).ok_or("its path is no name for EHLO; leave it out, or set SMTP_HELO_NAME")?,
        };
        Ok(Self {
            port: url.port().unwrap_or(default_port),
            host,
            encryption,
            hello,
            credentials,
        })
    }

    /// Said once, at the start.
    pub(crate) fn warn_of_a_password_in_clear(&self) {
        let host = &self.host;
        if self.credentials.is_some() && matches!(self.encryption, Encryption::None) && !is_loopback(host) {
            tracing::warn!(smtp.host = %host, "SMTP_URL sends the password to {host} in clear: add ?tls=required or use smtps://");
        }
    }

    /// A connection that is ready for MAIL FROM. Whoever listens hears all that is said.
    pub(crate) async fn open(
        &self,
        permit: &mut Permit,
        lines: Option<UnboundedSender<String>>,
    ) -> Result<Connection, Failure> {
        let listener = lines.map(|lines| Listener::new(lines, self.secrets()));
        let connecting = Wire::connect(&self.host, self.port, listener);
        let mut wire = within(limits::CONNECT, Step::Connect, permit, connecting).await?;
        if let Encryption::FromTheStart(tls) = &self.encryption {
            within(limits::HANDSHAKE, Step::Connect, permit, wire.encrypt(tls)).await?;
        }
        replied(
            Step::Greeting,
            within(limits::GREETING, Step::Greeting, permit, wire.hear()).await?,
        )?;
        let mut offers = self.say_hello(&mut wire, permit).await?;
        let tls = match &self.encryption {
            Encryption::Required(_) if !offers.starttls => {
                return Err(Failure::new(Step::StartTls, Cause::NotOffered("STARTTLS")));
            }
            Encryption::Required(tls) => Some(tls),
            Encryption::Opportunistic(tls) if offers.starttls => Some(tls),
            _ => None,
        };
        if let Some(tls) = tls {
            let asking = wire.ask("STARTTLS\r\n");
            replied(
                Step::StartTls,
                within(limits::COMMAND, Step::StartTls, permit, asking).await?,
            )?;
            within(limits::HANDSHAKE, Step::StartTls, permit, wire.encrypt(tls)).await?;
            offers = self.say_hello(&mut wire, permit).await?;
        }
        if let Some(credentials) = &self.credentials {
            let asking = log_in(&mut wire, credentials, &offers);
            let answer = within(limits::COMMAND, Step::Login, permit, asking).await?;
            let Some(mut reply) = answer else {
                return Err(Failure::new(
                    Step::Login,
                    Cause::NotOffered("a login by PLAIN or LOGIN"),
                ));
            };
            // A server may repeat what it was told, and its words are kept.
            for secret in self.secrets() {
                reply
                    .lines
                    .iter_mut()
                    .for_each(|line| *line = line.replace(&secret, "…"));
            }
            replied(Step::Login, reply)?;
        }
        Ok(Connection::new(wire, offers))
    }

    async fn say_hello(&self, wire: &mut Wire, permit: &mut Permit) -> Result<Offers, Failure> {
        let hello = format!("EHLO {}\r\n", self.hello.said_from(wire.local));
        let reply = within(limits::COMMAND, Step::Hello, permit, wire.ask(&hello)).await?;
        replied(Step::Hello, reply).map(|reply| Offers::of(&reply))
    }

    fn secrets(&self) -> Vec<String> {
        let Some(Credentials { user, password }) = &self.credentials else {
            return Vec::new();
        };
        let mut secrets = vec![plain(user, password), STANDARD.encode(user), STANDARD.encode(password)];
        secrets.push(password.clone());
        secrets
    }
}

/// The server's answer to the login; `None` if it offers none that we know.
async fn log_in(
    wire: &mut Wire,
    Credentials { user, password }: &Credentials,
    offers: &Offers,
) -> Result<Option<Reply>, super::reply::WireError> {
    let (first, shown, answers) = if offers.plain {
        let first = format!("AUTH PLAIN {}\r\n", plain(user, password));
        (first, "AUTH PLAIN …", vec![plain(user, password)])
    } else if offers.login {
        let answers = vec![STANDARD.encode(user), STANDARD.encode(password)];
        ("AUTH LOGIN\r\n".to_owned(), "AUTH LOGIN", answers)
    } else {
        return Ok(None);
    };
    wire.say_in_secret(&first, shown).await?;
    let mut reply = wire.hear().await?;
    for answer in answers {
        if reply.code != 334 {
            break;
        }
        wire.say_in_secret(&format!("{answer}\r\n"), "…").await?;
        reply = wire.hear().await?;
    }
    Ok(Some(reply))
}

/// RFC 4616.
fn plain(user: &str, password: &str) -> String {
    STANDARD.encode(format!("\0{user}\0{password}"))
}

fn decoded(part: &str) -> Result<String, String> {
    let decoded: Vec<u8> = percent_decode_str(part).collect();
    // A stray % stays as it is; each other one has made one byte of three.
    if decoded.len() + 2 * part.matches('%').count() != part.len() {
        return Err("the user name or password has a stray % in it".to_owned());
    }
    String::from_utf8(decoded).map_err(|_| "the user name or password is not UTF-8".to_owned())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_how() {
        let cases = [
            ("smtp://localhost", Ok(("localhost", 25))),
            ("smtp://localhost:1025/", Ok(("localhost", 1025))),
            ("smtp://127.0.0.1:25", Ok(("127.0.0.1", 25))),
            ("smtp://[::1]:25", Ok(("::1", 25))),
            ("smtp://u:p@mx.example.com?tls=required", Ok(("mx.example.com", 587))),
            ("smtp://mx.example.com?tls=opportunistic", Ok(("mx.example.com", 587))),
            ("smtps://u:p@mx.example.com", Ok(("mx.example.com", 465))),
            ("smtps://u:p@127.0.0.1", Ok(("127.0.0.1", 465))),
            (
                "smtps://u%40x:p%2Fw%25@mx.example.com:2465/mail.example.com",
                Ok(("mx.example.com", 2465)),
            ),
            ("smtp://mx.example.com?tls=yes", Err("tls is required or")),
            ("smtps://mx.example.com?tls=required", Err("tls is required or")),
            ("smtp://mx.example.com?tsl=required", Err("the only parameter")),
            ("smtp://user@mx.example.com", Err("belong together")),
            ("smtp://:secret@mx.example.com", Err("belong together")),
            ("smtp://u:s%zzecret@mx.example.com", Err("stray %")),
            ("smtp://u:secret%4@mx.example.com", Err("stray %")),
            ("smtp://u:%%41@mx.example.com", Err("stray %")),
            ("smtp://u:%ff@mx.example.com", Err("not UTF-8")),
            ("smtp://mx.example.com/me", Err("no name for EHLO")),
            ("https://mx.example.com", Err("starts with smtp://")),
            ("smtp://", Err("no host")),
            ("smtp:mx.example.com", Err("no host")),
            ("mx.example.com", Err("")),
            ("", Err("")),
        ];
        for (url, expected) in cases {
            match (Server::from_url(url), expected) {
                (Ok(server), Ok((host, port))) => {
                    assert_eq!((server.host.as_str(), server.port), (host, port))
                }
                (Err(error), Err(reason)) => {
                    assert!(error.contains(reason) && !error.contains("ecret"), "{url}: {error}");
                }
                (result, _) => panic!("{url}: {:?}", result.map(|server| server.host)),
            }
        }
    }

    #[test]
    fn the_password_is_percent_decoded() {
        let server = Server::from_url("smtp://u%40x:p%2Fw%25+@localhost/me.example.com").unwrap();
        let expected = Credentials {
            user: "u@x".to_owned(),
            password: "p/w%+".to_owned(),
        };
        assert!(server.credentials == Some(expected));
        assert_eq!(server.hello, Hello::Name("me.example.com".to_owned()));
    }

    #[test]
    fn ehlo_names_a_domain_or_an_address_and_never_this_machine() {
        let from = |address: &str| address.parse::<SocketAddr>().unwrap();
        let v4 = from("192.0.2.7:40000");
        for (domain, address, said) in [
            ("example.com", v4, "example.com"),
            ("xn--bcher-kva.example", v4, "xn--bcher-kva.example"),
            ("localhost", v4, "[192.0.2.7]"),
            ("[192.0.2.1]", v4, "[192.0.2.7]"),
            ("10.0.0.1", v4, "[192.0.2.7]"),
            ("under_score.example", v4, "[192.0.2.7]"),
            ("localhost", from("[::ffff:192.0.2.7]:1"), "[192.0.2.7]"),
            ("localhost", from("[2001:db8::7]:1"), "[IPv6:2001:db8::7]"),
        ] {
            assert_eq!(Hello::for_domain(domain).said_from(address), said, "{domain}");
        }
        for good in [
            "mail.example.com",
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
            "a-1.b2.example",
        ] {
            assert_eq!(Hello::parse(good), Some(Hello::Name(good.to_owned())));
        }
        for bad in [
            "",
            "mail",
            "3f2a9c",
            "-a.example",
            "a..example",
            "a b.example",
            "[mail]",
            "192.0.2.1",
            "a.example\r\nMAIL",
        ] {
            assert_eq!(Hello::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn offers_are_read_however_they_are_written() {
        let offers = |lines: &[&str]| {
            let lines = lines.iter().map(|&line| line.to_owned()).collect();
            Offers::of(&Reply { code: 250, lines })
        };
        assert_eq!(offers(&["mx.example.com", "", "SIZE 1000", "HELP"]), Offers::default());
        let all = offers(&[
            "mx",
            "pipelining",
            "8bitmime",
            "SMTPUTF8",
            "StartTLS ",
            "AUTH=LOGIN PLAIN",
            "LIMITS RCPTMAX=5 MAILMAX=10",
        ]);
        let expected = Offers {
            pipelining: true,
            utf8: true,
            starttls: true,
            plain: true,
            login: true,
            mails: Some(10),
        };
        assert_eq!(all, expected);
        assert!(!offers(&["mx", "SMTPUTF8"]).utf8);
    }
}
