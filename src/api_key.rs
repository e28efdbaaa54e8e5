//! The app's API keys: named, hashed, and optionally limited to organizations.

use std::collections::HashSet;
use std::fmt;

use hex::FromHex as _;
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use uuid::Uuid;

use crate::app_id::AppId;
use crate::secret::Secret;

/// In characters. A random key of this length can't be guessed, so a fast hash is enough.
const MIN_KEY: usize = 32;
/// In characters.
const MAX_NAME: usize = 64;
/// Between the name and the hash.
const SHA256: &str = "sha256";

/// A key as usher stores it: only its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// For logs and rate limits.
    pub name: String,
    /// SHA-256.
    pub hash: [u8; 32],
    /// The organizations that it may see and change. `None` means all.
    pub organizations: Option<HashSet<Uuid>>,
    /// The same as the app spells them, in order.
    spelt: Vec<String>,
}

/// What is wrong with an entry. Never contains the entry, which may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyError {
    #[error("has a key of less than {MIN_KEY} characters; make one with: usher api-key")]
    ShortKey,
    #[error("has a key with a character that is neither a letter nor one of -._~+/=")]
    KeyCharacters,
    #[error("has a hash that is not the 64 hexadecimal digits of a SHA-256; make both with: usher api-key")]
    Hash,
    #[error("needs a name before its hash, such as app:sha256:…")]
    NoName,
    #[error("has a name that is not 1 to {MAX_NAME} letters, digits, - or _")]
    Name,
    #[error("must name organizations by their ids after the @, joined by +")]
    Organizations,
    #[error("has the name of an earlier entry")]
    SameName,
    #[error("has the key of an earlier entry")]
    SameKey,
}

impl ApiKey {
    /// A key for all organizations.
    #[must_use]
    pub fn new(name: &str, key: &str) -> Self {
        Self {
            name: name.to_owned(),
            hash: Sha256::digest(key).into(),
            organizations: None,
            spelt: Vec::new(),
        }
    }

    /// The same key, for these organizations only.
    #[must_use]
    pub fn limited_to(self, organizations: &[AppId]) -> Self {
        let mut spelt: Vec<String> = organizations.iter().map(AppId::to_string).collect();
        spelt.sort();
        spelt.dedup();
        Self {
            organizations: Some(organizations.iter().map(AppId::key).collect()),
            spelt,
            ..self
        }
    }

    /// A new key. It is shown once and not stored.
    #[must_use]
    pub fn generate() -> Secret {
        Secret::from(format!("usher_{}", hex::encode(rand::random::<[u8; 32]>())))
    }

    /// Reads a comma-separated list of entries: a key, `name:key` or `name:sha256:hash`, each optionally limited by
    /// `@organization` or `@organization+organization`. A key without a name is called `key-1`, `key-2` … by its position.
    ///
    /// # Errors
    /// The position of the first invalid entry, counted from 1, and what is wrong with it.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, (usize, ApiKeyError)> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let mut keys: Vec<Self> = Vec::new();
        for (position, entry) in (1..).zip(entries) {
            let key = Self::parse(entry, position).map_err(|error| (position, error))?;
            if keys.iter().any(|earlier| earlier.name == key.name) {
                return Err((position, ApiKeyError::SameName));
            }
            if keys.iter().any(|earlier| earlier.hash == key.hash) {
                return Err((position, ApiKeyError::SameKey));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn parse(entry: &str, position: usize) -> Result<Self, ApiKeyError> {
        let (key, organizations) = match entry.split_once('@') {
            Some((key, ids)) => (key, Some(organizations(ids)?)),
            None => (entry, None),
        };
        let (name, hash) = match key.split_once(':') {
            None => (format!("key-{position}"), hash_of(key)?),
            // Otherwise the hash itself would be taken for a key.
            Some((SHA256, _)) => return Err(ApiKeyError::NoName),
            Some((name, rest)) => {
                let hash = match rest.split_once(':') {
                    Some((SHA256, digits)) => <[u8; 32]>::from_hex(digits).map_err(|_| ApiKeyError::Hash)?,
                    _ => hash_of(rest)?,
                };
                (checked_name(name)?.to_owned(), hash)
            }
        };
        let key = Self {
            name,
            hash,
            organizations: None,
            spelt: Vec::new(),
        };
        Ok(match organizations {
            Some(organizations) => key.limited_to(&organizations),
            None => key,
        })
    }

    /// Checks that `name` is valid in an entry.
    pub fn check_name(name: &str) -> Result<(), ApiKeyError> {
        checked_name(name).map(|_| ())
    }

    /// The key's entry for the configuration, with its hash.
    #[must_use]
    pub fn entry(&self) -> String {
        format!("{}:{SHA256}:{}{}", self.name, hex::encode(self.hash), self.limit())
    }

    /// Whether this key may see and change an organization and everything in it.
    #[must_use]
    pub fn may_use(&self, organization_id: Uuid) -> bool {
        self.organizations
            .as_ref()
            .is_none_or(|organizations| organizations.contains(&organization_id))
    }

    fn limit(&self) -> String {
        match &self.organizations {
            Some(_) => format!("@{}", self.spelt.join("+")),
            None => String::new(),
        }
    }
}

/// The name and the limit, which are not secret.
impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.limit())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({self})")
    }
}

/// Finds the presented key. Takes the same time whichever it is, and if there is none.
#[must_use]
pub fn find<'a>(keys: &'a [ApiKey], presented: &str) -> Option<&'a ApiKey> {
    let presented: [u8; 32] = Sha256::digest(presented).into();
    let none = u64::MAX;
    let found = (0..).zip(keys).fold(none, |found, (i, key)| {
        u64::conditional_select(&found, &i, key.hash.ct_eq(&presented))
    });
    usize::try_from(found).ok().and_then(|i| keys.get(i))
}

fn hash_of(key: &str) -> Result<[u8; 32], ApiKeyError> {
    if key.len() < MIN_KEY {
        return Err(ApiKeyError::ShortKey);
    }
    // The characters of a bearer token (RFC 6750).
    if !key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
    {
        return Err(ApiKeyError::KeyCharacters);
    }
    Ok(Sha256::digest(key).into())
}

fn checked_name(name: &str) -> Result<&str, ApiKeyError> {
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    match name {
        SHA256 => Err(ApiKeyError::NoName),
        _ if is_name => Ok(name),
        _ => Err(ApiKeyError::Name),
    }
}

fn organizations(ids: &str) -> Result<Vec<AppId>, ApiKeyError> {
    ids.split('+')
        .map(|id| AppId::parse(id).ok_or(ApiKeyError::Organizations))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";
    const ACME: &str = "11111111-1111-4111-8111-111111111111";
    const ZETA: &str = "22222222-2222-4222-8222-222222222222";

    fn shown(text: &str) -> Result<Vec<String>, (usize, ApiKeyError)> {
        Ok(ApiKey::parse_list(text)?.iter().map(ApiKey::to_string).collect())
    }

    #[test]
    fn an_entry_is_a_key_a_named_key_or_a_named_hash_and_may_be_limited() {
        let hash = hex::encode(ApiKey::new("app", KEY).hash);
        for (text, expected) in [
            (KEY.to_owned(), vec!["key-1".to_owned()]),
            (format!(" {KEY} , ,{OTHER},"), vec!["key-1".into(), "key-2".into()]),
            (format!("app:{KEY}"), vec!["app".into()]),
            (format!("app:sha256:{hash}"), vec!["app".into()]),
            (format!("app:sha256:{}", hash.to_uppercase()), vec!["app".into()]),
            (format!("{KEY}@{ACME}"), vec![format!("key-1@{ACME}")]),
            (
                format!("app:sha256:{hash}@{ZETA}+{ACME},{OTHER}"),
                vec![format!("app@{ACME}+{ZETA}"), "key-2".into()],
            ),
        ] {
            let keys = ApiKey::parse_list(&text).unwrap();
            assert_eq!(shown(&text), Ok(expected), "{text}");
            assert_eq!(find(&keys, KEY), keys.first(), "{text}");
            let entries: Vec<String> = keys.iter().map(ApiKey::entry).collect();
            assert_eq!(ApiKey::parse_list(&entries.join(",")), Ok(keys), "{text}");
        }
    }

    #[test]
    fn a_wrong_entry_is_named_by_its_position_and_never_told() {
        let hash = hex::encode(ApiKey::new("app", KEY).hash);
        for (text, expected) in [
            ("short".to_owned(), (1, ApiKeyError::ShortKey)),
            (format!("{KEY},app:short"), (2, ApiKeyError::ShortKey)),
            (format!("app:{KEY} {KEY}"), (1, ApiKeyError::KeyCharacters)),
            (format!("app:more:{KEY}"), (1, ApiKeyError::KeyCharacters)),
            (format!("clé:{KEY}"), (1, ApiKeyError::Name)),
            (format!(":{KEY}"), (1, ApiKeyError::Name)),
            (format!("sha256:{hash}"), (1, ApiKeyError::NoName)),
            ("app:sha256:".to_owned(), (1, ApiKeyError::Hash)),
            (format!("app:sha256:{hash}0"), (1, ApiKeyError::Hash)),
            (format!("app:sha256:{}é", &hash[..62]), (1, ApiKeyError::Hash)),
            (format!("{KEY}@"), (1, ApiKeyError::Organizations)),
            (format!("{KEY}@ac me"), (1, ApiKeyError::Organizations)),
            (format!("{KEY}@{ACME}@{ZETA}"), (1, ApiKeyError::Organizations)),
            (format!("app:{KEY},app:{OTHER}"), (2, ApiKeyError::SameName)),
            (format!("key-2:{KEY},{OTHER}"), (2, ApiKeyError::SameName)),
            (format!("app:sha256:{hash},b:{KEY}@{ACME}"), (2, ApiKeyError::SameKey)),
        ] {
            assert_eq!(ApiKey::parse_list(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn only_a_known_key_is_found_and_its_limit_holds() {
        let keys = ApiKey::parse_list(&format!("a:{KEY},b:{OTHER}@{ACME}")).unwrap();
        let name = |presented| find(&keys, presented).map(|key| key.name.as_str());
        assert_eq!((name(KEY), name(OTHER)), (Some("a"), Some("b")));
        for wrong in [
            "",
            &KEY[1..],
            &hex::encode(keys[0].hash),
            "0123456789abcdef0123456789abcdeg",
        ] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        let (acme, zeta) = (ACME.parse().unwrap(), ZETA.parse().unwrap());
        assert!(keys[0].may_use(acme) && keys[0].may_use(zeta));
        assert!(keys[1].may_use(acme) && !keys[1].may_use(zeta));
        assert_eq!(find(&[], KEY), None);
    }
}
