//! Keys for the board: each has a name, which the audit shows, and what it may do. API keys are not among them.

use std::fmt;

use crate::api_key::{self, ApiKey, ApiKeyError};
use crate::names::named;
use crate::secret::Secret;

named! {
    /// What the holder of a key for the board may do.
    OpsRole("role of an ops key") {
        /// Looks only, and sees addresses masked.
        View = "view",
        /// Also sees payloads, and retries, cancels, deletes and replays.
        Operate = "operate",
    }
}

/// The keys for the board, in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpsKeys {
    keys: Vec<ApiKey>,
    /// Of each key.
    roles: Vec<OpsRole>,
}

/// What is wrong with an entry. Never contains the entry, which may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpsKeyError {
    #[error("must end with :view or :operate")]
    Role,
    #[error("needs a name before its key or hash, such as ada:sha256:…:view")]
    NoName,
    #[error("names organizations, but the board shows all; leave out the @")]
    Organizations,
    #[error("has the key of an entry of USHER_API_KEYS; make one of its own with: usher ops-key")]
    IsApiKey,
    #[error("{0}")]
    Key(ApiKeyError),
}

impl OpsKeys {
    /// Reads a comma-separated list of `name:sha256:hash:view` or `name:key:operate`.
    ///
    /// # Errors
    /// The position of the first invalid entry, counted from 1, and what is wrong with it.
    pub fn parse(text: &str, api_keys: &[ApiKey]) -> Result<Self, (usize, OpsKeyError)> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let (mut named, mut roles) = (Vec::new(), Vec::new());
        for (position, entry) in (1..).zip(entries) {
            let (key, role) = split(entry).map_err(|error| (position, error))?;
            named.push(key);
            roles.push(role);
        }
        let keys =
            ApiKey::parse_list(&named.join(",")).map_err(|(position, error)| (position, OpsKeyError::Key(error)))?;
        let is_api_key = |key: &ApiKey| api_keys.iter().any(|api_key| api_key.hash == key.hash);
        match keys.iter().position(is_api_key) {
            Some(index) => Err((index + 1, OpsKeyError::IsApiKey)),
            None => Ok(Self { keys, roles }),
        }
    }

    /// The one key of the link that development prints.
    #[must_use]
    pub fn development(key: &Secret) -> Self {
        Self {
            keys: vec![ApiKey::new("development", key.expose())],
            roles: vec![OpsRole::Operate],
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Finds the presented key, in the same time whichever it is.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<(&ApiKey, OpsRole)> {
        let found = api_key::find(&self.keys, presented)?;
        self.named(&found.name)
    }

    /// The key with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(&ApiKey, OpsRole)> {
        let mut all = self.keys.iter().zip(self.roles.iter().copied());
        all.find(|(key, _)| key.name == name)
    }
}

/// An entry of `USHER_OPS_KEYS` for a key that is given by its hash.
#[must_use]
pub fn entry(key: &ApiKey, role: OpsRole) -> String {
    format!("{}:{role}", key.entry())
}

/// The names and what they may do, which are not secret.
impl fmt::Display for OpsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.keys.iter().zip(&self.roles);
        let shown: Vec<String> = shown.map(|(key, role)| format!("{}:{role}", key.name)).collect();
        f.write_str(&shown.join(","))
    }
}

fn split(entry: &str) -> Result<(&str, OpsRole), OpsKeyError> {
    let (key, role) = entry.rsplit_once(':').ok_or(OpsKeyError::Role)?;
    let role = role.parse().map_err(|_| OpsKeyError::Role)?;
    if key.contains('@') {
        return Err(OpsKeyError::Organizations);
    }
    if !key.contains(':') {
        return Err(OpsKeyError::NoName);
    }
    Ok((key, role))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn an_entry_is_a_name_a_key_and_what_it_may_do() {
        let made = entry(&ApiKey::new("bob", OTHER), OpsRole::View);
        let keys = OpsKeys::parse(&format!("ada:{KEY}:operate, {made}"), &[]).unwrap();
        assert_eq!(keys.to_string(), "ada:operate,bob:view");
        let found = |key| keys.find(key).map(|(key, role)| (key.name.as_str(), role));
        assert_eq!(found(KEY), Some(("ada", OpsRole::Operate)));
        assert_eq!(found(OTHER), Some(("bob", OpsRole::View)));
        assert_eq!(found("0123456789abcdef0123456789abcdeg"), None);
        assert!(OpsKeys::parse(" , ", &[]).unwrap().is_empty());
    }

    #[test]
    fn an_invalid_entry_is_named_by_its_position() {
        let api_key = [ApiKey::new("app", OTHER)];
        for (text, expected) in [
            (KEY.to_owned(), (1, OpsKeyError::Role)),
            (format!("ada:{KEY}"), (1, OpsKeyError::Role)),
            (format!("ada:{KEY}:all"), (1, OpsKeyError::Role)),
            (format!("{KEY}:view"), (1, OpsKeyError::NoName)),
            (
                format!("sha256:{}:view", "0".repeat(64)),
                (1, OpsKeyError::Key(ApiKeyError::NoName)),
            ),
            (format!("ada:{KEY}@acme:view"), (1, OpsKeyError::Organizations)),
            (
                "ada:short:view".to_owned(),
                (1, OpsKeyError::Key(ApiKeyError::ShortKey)),
            ),
            (
                format!("ada:{KEY}:view,ada:{OTHER}:view"),
                (2, OpsKeyError::Key(ApiKeyError::SameName)),
            ),
            (format!("ada:{KEY}:view,bob:{OTHER}:view"), (2, OpsKeyError::IsApiKey)),
        ] {
            assert_eq!(OpsKeys::parse(&text, &api_key), Err(expected), "{text}");
        }
    }
}
