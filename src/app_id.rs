//! The ids that the app gives to its organizations and projects: UUIDs, numbers, cuids, Clerk's `org_…`, whatever it has.
//!
//! Inside, each is a UUID, so that one SQL text serves both databases and an app's own tables with UUIDs. An id that is none
//! has one computed from it; how the app spells it is stored once, beside, and is what answers say.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

/// In characters.
const MAX_LENGTH: usize = 255;
/// Beside ASCII letters and digits.
const MARKS: &[u8] = b"-_.:~|=";
/// As a regular expression, for the documentation.
const PATTERN: &str = "^(?!\\.{1,2}$)[A-Za-z0-9_.:~|=-]{1,255}$";

/// An organization's or a project's id, as the app spells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AppId {
    key: Uuid,
    /// If it is no UUID.
    spelling: Option<String>,
}

impl AppId {
    /// What ids may be, for errors.
    pub const RULE: &str = "must be 1 to 255 of the characters A-Z a-z 0-9 - _ . : ~ | = and not . or ..";

    /// UUIDs are the same in whatever case; everything else is compared byte by byte.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_character = |byte: u8| byte.is_ascii_alphanumeric() || MARKS.contains(&byte);
        if text.is_empty() || text.len() > MAX_LENGTH || matches!(text, "." | "..") || !text.bytes().all(is_character) {
            return None;
        }
        // With hyphens only: `Uuid` reads other forms, too, which the app may tell apart.
        if text.len() == 36
            && let Ok(key) = text.parse()
        {
            return Some(Self { key, spelling: None });
        }
        Some(Self {
            key: key_of(text),
            spelling: Some(text.to_owned()),
        })
    }

    /// # Errors
    ///
    /// [`AppId::RULE`]
    pub fn read(value: Value) -> Result<Self, String> {
        value
            .as_str()
            .and_then(Self::parse)
            .ok_or_else(|| Self::RULE.to_owned())
    }

    /// What it is inside.
    #[must_use]
    pub const fn key(&self) -> Uuid {
        self.key
    }

    /// How the app spells it, if it is no UUID.
    #[must_use]
    pub fn spelling(&self) -> Option<&str> {
        self.spelling.as_deref()
    }

    /// As the app spells it.
    #[must_use]
    pub fn shown(key: Uuid, spelling: Option<String>) -> String {
        spelling.unwrap_or_else(|| key.to_string())
    }
}

impl From<Uuid> for AppId {
    fn from(key: Uuid) -> Self {
        Self { key, spelling: None }
    }
}

impl std::fmt::Display for AppId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.spelling {
            Some(spelling) => f.write_str(spelling),
            None => self.key.fmt(f),
        }
    }
}

/// A UUID of version 8 (RFC 9562) from 122 bits of a SHA-256: no two spellings that anybody finds have the same.
fn key_of(text: &str) -> Uuid {
    let hash = Sha256::new()
        .chain_update("usher app id\0")
        .chain_update(text)
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl PartialSchema for AppId {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(MAX_LENGTH))
            .pattern(Some(PATTERN))
            .description(Some("An organization's or a project's id, as the app spells it."))
            .into()
    }
}

impl ToSchema for AppId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_as_the_app_spells_them() {
        let uuid = "A0000000-0000-4000-8000-00000000000F";
        for (text, shown) in [
            ("42", "42"),
            ("org_2abc", "org_2abc"),
            ("clh3am7y10000s6k5x0z1", "clh3am7y10000s6k5x0z1"),
            ("a.b:c~d|e=f-g_h", "a.b:c~d|e=f-g_h"),
            ("...", "..."),
            (uuid, "a0000000-0000-4000-8000-00000000000f"),
            ("a000000000004000800000000000000f", "a000000000004000800000000000000f"),
        ] {
            assert_eq!(AppId::parse(text).unwrap().to_string(), shown);
        }
        assert_eq!(AppId::parse(uuid), AppId::parse(&uuid.to_lowercase()));
        let keys = ["Org", "org", "org ", "org\u{301}", "42", "042"].map(|text| AppId::parse(text).map(|id| id.key()));
        let known: Vec<Uuid> = keys.into_iter().flatten().collect();
        assert_eq!(known.len(), 4);
        assert!((1..known.len()).all(|n| !known[..n].contains(&known[n])));
    }

    #[test]
    fn what_can_be_no_id_is_refused() {
        let long = "x".repeat(256);
        for text in [
            "", ".", "..", "a/b", "a b", "a\0b", "é", "a%2f", "a+b", "a,b", "a@b", &long,
        ] {
            assert_eq!(AppId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_key_of_a_spelling_never_changes() {
        assert_eq!(
            AppId::parse("org_2abc").unwrap().key().to_string(),
            "2d727fe1-699d-8613-96bf-5169f99faab5"
        );
    }
}
