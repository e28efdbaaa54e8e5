//! The settings about events: where the app is told what happened, and how that is signed.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::{Host, Url};

use crate::config::error::{ConfigError, wrong};
use crate::config::values::list;
use crate::config::{DevSecrets, EventEndpoint, Settings};
use crate::secret::Secret;
use crate::store::{EventType, Queue};

const ENDPOINTS: &str = "USHER_EVENTS";
const SECRET: &str = "USHER_EVENTS_SECRET";
/// In characters.
const MAX_NAME: usize = 32;
/// The least length of a key, in bytes.
const MIN_KEY: usize = 16;

impl Settings {
    /// `ours` are usher's own addresses.
    pub(super) fn event_endpoints(&self, ours: [SocketAddr; 2]) -> Result<Vec<EventEndpoint>, ConfigError> {
        let mut endpoints: Vec<EventEndpoint> = Vec::new();
        let given = self.usher_events.as_ref().map(Secret::expose);
        for (position, entry) in (1..).zip(list(given)) {
            // Without the entry, whose address may hold a secret.
            let refused = |problem: &str| wrong(ENDPOINTS, format!("entry {position} {problem}"));
            let endpoint = read(&entry, ours).map_err(|problem| refused(&problem))?;
            if endpoints.iter().any(|earlier| earlier.name == endpoint.name) {
                return Err(refused("has the name of an earlier entry"));
            }
            endpoints.push(endpoint);
        }
        let most = Queue::DELIVERIES.len();
        if endpoints.len() > most {
            return Err(wrong(
                ENDPOINTS,
                format!(
                    "names more than {most} endpoints, and there are {most} at most: remove some, or let one of them pass \
                     events on"
                ),
            ));
        }
        Ok(endpoints)
    }

    pub(super) fn event_secrets(&self, is_needed: bool, dev: Option<&DevSecrets>) -> Result<Vec<Secret>, ConfigError> {
        let secrets = match (&self.usher_events_secret, dev) {
            (Some(given), _) => list(Some(given.expose())),
            (None, Some(dev)) => dev.events_secret.iter().cloned().collect(),
            (None, None) => Vec::new(),
        };
        if secrets.is_empty() && is_needed {
            let problem =
                "is missing, and USHER_EVENTS names endpoints; make one with: echo whsec_$(openssl rand -base64 32)";
            return Err(wrong(SECRET, problem));
        }
        for secret in &secrets {
            let key = secret.strip_prefix("whsec_").map(|key| STANDARD.decode(key));
            if !matches!(key, Some(Ok(key)) if key.len() >= MIN_KEY) {
                let problem = "must be whsec_ and base64 of at least 16 bytes; make one with: echo whsec_$(openssl rand -base64 32)";
                return Err(wrong(SECRET, problem));
            }
        }
        Ok(secrets.into_iter().map(Secret::from).collect())
    }
}

fn read(entry: &str, ours: [SocketAddr; 2]) -> Result<EventEndpoint, String> {
    let (head, url) = entry
        .split_once('=')
        .ok_or("must be name=https://…, such as app=https://app.example.com/hooks/usher")?;
    let (name, types) = match head.split_once(':') {
        Some((name, types)) => (name.trim(), self::types(types)?),
        None => (head.trim(), Vec::new()),
    };
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if !is_name {
        return Err(format!(
            "has a name that is not 1 to {MAX_NAME} letters, digits, - or _"
        ));
    }
    let url = Url::parse(url.trim()).map_err(|_| "has an address that is no URL")?;
    check(&url, ours)?;
    Ok(EventEndpoint {
        name: name.to_owned(),
        url,
        types,
    })
}

/// Reads `invite.accepted+membership.*`.
fn types(text: &str) -> Result<Vec<EventType>, String> {
    let mut types = Vec::new();
    for name in text.split('+').map(str::trim) {
        let prefix = name.strip_suffix('*').filter(|prefix| prefix.ends_with('.'));
        let found = EventType::ALL.iter().filter(|known| match prefix {
            Some(prefix) => known.as_str().starts_with(prefix),
            None => known.as_str() == name,
        });
        let before = types.len();
        types.extend(found);
        if types.len() == before {
            let all: Vec<&str> = EventType::ALL.iter().map(|known| known.as_str()).collect();
            return Err(format!(
                "names a type of events that does not exist; there are {}",
                all.join(", ")
            ));
        }
    }
    Ok(types)
}

fn check(url: &Url, ours: [SocketAddr; 2]) -> Result<(), String> {
    let host = url
        .host()
        .filter(|_| matches!(url.scheme(), "http" | "https"))
        .ok_or("must have an http:// or https:// address")?;
    if url.scheme() == "http" && !is_near(&host) {
        return Err(
            "must have an https:// address; http:// is for loopback, private addresses and names without a dot"
                .to_owned(),
        );
    }
    if ours
        .iter()
        .any(|ours| is_ours(&host, url.port_or_known_default(), *ours))
    {
        return Err("leads to usher itself".to_owned());
    }
    Ok(())
}

/// Whether the address is within the operator's own network.
fn is_near(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => !name.contains('.') || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback() || address.is_private(),
        Host::Ipv6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

fn is_ours(host: &Host<&str>, port: Option<u16>, ours: SocketAddr) -> bool {
    if port != Some(ours.port()) {
        return false;
    }
    let is_this = |address: IpAddr| {
        address == ours.ip() || (address.is_loopback() && (ours.ip().is_loopback() || ours.ip().is_unspecified()))
    };
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => is_this((*address).into()),
        Host::Ipv6(address) => is_this((*address).into()),
    }
}
