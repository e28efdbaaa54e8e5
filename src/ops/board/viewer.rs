//! Who looks at the board: the holder of a key by their session, a person that a trusted proxy names, or, on this machine
//! only, a person without a name.

use axum::extract::Request;
use usher_base::Throttle;

use super::Board;
use super::access::{Stop, peer, refused};
use crate::config::{Config, OpsProxy};
use crate::cookies::cookies;
use crate::ops_key::{OpsKeys, OpsRole};

/// The session's cookie.
pub(super) const COOKIE: &str = "usher_board";
/// Characters of a name in the proxy's header.
const MAX_NAME: usize = 200;

/// What the configuration allows.
pub(super) struct Access {
    /// Their holders sign in.
    pub keys: OpsKeys,
    /// Names those who come through it.
    proxy: Option<OpsProxy>,
    /// All who reach the address may look, without a name.
    is_open: bool,
}

impl Access {
    pub(super) fn of(config: &Config) -> Self {
        let keys = match &config.development_ops_key {
            Some(key) => OpsKeys::development(key),
            None => config.ops_keys.clone(),
        };
        let needs_name = !config.ops_keys.is_empty() || config.ops_proxy.is_some();
        Self {
            keys,
            proxy: config.ops_proxy.clone(),
            is_open: !needs_name && config.admin_listen.ip().is_loopback(),
        }
    }

    /// There are no keys, and other machines can reach the address.
    pub(super) fn is_off(&self) -> bool {
        self.keys.is_empty() && self.proxy.is_none() && !self.is_open
    }
}

/// Who looks.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    /// Of their key, or as the proxy names them.
    pub name: Option<String>,
    pub role: OpsRole,
    /// Whether a session of the board can end.
    pub has_session: bool,
    /// What the token of forms is made of.
    pub subject: String,
    /// For forms.
    pub token: String,
}

impl Viewer {
    pub(super) fn operates(&self) -> bool {
        self.role == OpsRole::Operate
    }
}

/// `None` if they have to sign in first. A name that no trusted proxy sent stops the request.
pub(super) fn who_looks(board: &Board, request: &Request) -> Result<Option<Viewer>, Stop> {
    if let Some(proxy) = &board.access.proxy
        && let Some(name) = named_by(proxy, request)?
    {
        // A cookie has no NUL, so this is the subject of no session.
        let subject = format!("\0{name}");
        return Ok(Some(Viewer {
            token: board.sessions.form_token(&subject),
            name: Some(name),
            role: proxy.role,
            has_session: false,
            subject,
        }));
    }
    let cookie = cookies(request.headers()).find(|(name, _)| *name == COOKIE);
    let cookie = cookie.map_or("", |(_, value)| value);
    let holder = board.sessions.verify(&board.access.keys, cookie, board.app.clock.now());
    let of_session = holder.map(|(key, role)| Viewer {
        name: Some(key.name.clone()),
        role,
        has_session: true,
        subject: cookie.to_owned(),
        token: board.sessions.form_token(cookie),
    });
    let without_name = board.access.is_open.then(|| Viewer {
        name: None,
        role: OpsRole::View,
        has_session: false,
        subject: String::new(),
        token: String::new(),
    });
    Ok(of_session.or(without_name))
}

/// The name that the proxy sends, if it sends one.
fn named_by(proxy: &OpsProxy, request: &Request) -> Result<Option<String>, Stop> {
    static REFUSED: Throttle = Throttle::per_minute();
    let mut values = request.headers().get_all(&proxy.header).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let peer = peer(request);
    if !peer.is_some_and(|peer| proxy.calls_from(peer)) {
        if REFUSED.admit().is_some() {
            let peer = peer.map(|peer| peer.to_string());
            tracing::warn!(
                peer,
                "refused a request to the board: it names a user in {}, and its address is not in USHER_OPS_USER_PROXIES",
                proxy.header
            );
        }
        return Err(refused(
            "This address may not name users",
            "The header of USHER_OPS_USER_HEADER came from an address that is not in USHER_OPS_USER_PROXIES.",
        ));
    }
    let name = value.to_str().unwrap_or_default().trim();
    if values.next().is_some() || name.is_empty() || name.len() > MAX_NAME {
        return Err(refused(
            "The proxy names no user",
            "USHER_OPS_USER_HEADER must come once, with a name of at most 200 characters in ASCII.",
        ));
    }
    Ok(Some(name.to_owned()))
}
