//! E-mail addresses: normalized for comparisons, and masked for people and logs.

use std::fmt;

use usher_base::mask::mask;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Octets, RFC 5321 §4.5.3.1.1.
const MAX_LOCAL_PART: usize = 64;
/// Octets, RFC 5321 §4.5.3.1.3 less the angle brackets.
const MAX_ADDRESS: usize = 254;

/// The normalized form of an address, for comparisons: the local part with ASCII letters in lower case and otherwise
/// unchanged, the domain in IDNA ASCII form. No dot, plus or Unicode folding: `mıke@` is not `mike@` (CVE-2019-19844).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[sqlx(transparent)]
pub struct EmailKey(String);

impl EmailKey {
    /// The key as the database stores it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Identifies the address where mails are only counted: the first half of its SHA-256.
    #[must_use]
    pub fn digest(&self) -> Uuid {
        let mut half = [0; 16];
        half.copy_from_slice(&Sha256::digest(self.0.as_bytes())[..16]);
        Uuid::from_bytes(half)
    }
}

impl fmt::Debug for EmailKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask(&self.0))
    }
}

/// An address that mail can be sent to, as it was written, with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct EmailAddress {
    written: String,
    key: EmailKey,
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask(&self.written))
    }
}

/// Why a text is not an address that usher accepts. The text itself is never part of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// There is no `@`, or nothing on one side of it.
    #[error("must look like name@example.com")]
    Shape,
    /// Longer than SMTP allows.
    #[error("is longer than mail servers accept")]
    TooLong,
    /// White space, control or format characters, or characters that need quoting.
    #[error("contains a character that is not allowed before the @")]
    LocalPart,
    #[error("has no valid domain after the @")]
    Domain,
}

impl EmailAddress {
    /// Parses an address as a person typed it.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let written = text.trim();
        let (local, domain) = written.rsplit_once('@').ok_or(EmailError::Shape)?;
        if local.is_empty() || domain.is_empty() {
            return Err(EmailError::Shape);
        }
        if local.len() > MAX_LOCAL_PART || written.len() > MAX_ADDRESS {
            return Err(EmailError::TooLong);
        }
        if !is_dot_atom(local) {
            return Err(EmailError::LocalPart);
        }
        let domain = ascii_domain(domain)?;
        let key = format!("{}@{domain}", local.to_ascii_lowercase());
        if key.len() > MAX_ADDRESS {
            return Err(EmailError::TooLong);
        }
        Ok(Self {
            written: written.to_owned(),
            key: EmailKey(key),
        })
    }

    /// The address as it was written, trimmed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    #[must_use]
    pub fn key(&self) -> &EmailKey {
        &self.key
    }
}

/// RFC 5322's dot-atom, with RFC 6531's letters beyond ASCII; quoted local parts are rejected.
fn is_dot_atom(local: &str) -> bool {
    !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.chars().all(|c| {
            c == '.'
                || c.is_ascii_alphanumeric()
                || "!#$%&'*+-/=?^_`{|}~".contains(c)
                || (!c.is_ascii() && is_visible(c))
        })
}

/// Neither white space, nor a control character, nor a format character that reorders or hides text.
fn is_visible(c: char) -> bool {
    !c.is_whitespace()
        && !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn ascii_domain(domain: &str) -> Result<String, EmailError> {
    let ascii = idna::domain_to_ascii_strict(domain).map_err(|_| EmailError::Domain)?;
    let last = ascii.rsplit('.').next().unwrap_or_default();
    let is_name = ascii.contains('.')
        && ascii.len() <= 253
        && ascii.split('.').all(|label| !label.is_empty() && label.len() <= 63)
        && !last.bytes().all(|b| b.is_ascii_digit());
    if is_name { Ok(ascii) } else { Err(EmailError::Domain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<String, EmailError> {
        EmailAddress::parse(text).map(|address| address.key().as_str().to_owned())
    }

    #[test]
    fn an_address_is_compared_by_ascii_case_and_idna_domain_only() {
        for (written, expected) in [
            ("ada@example.com", "ada@example.com"),
            ("  Ada@Example.COM\n", "ada@example.com"),
            ("a.d.a+tag@example.com", "a.d.a+tag@example.com"),
            ("ada@bücher.example", "ada@xn--bcher-kva.example"),
            ("ADA@BÜCHER.example", "ada@xn--bcher-kva.example"),
            ("ÜNAL@example.com", "Ünal@example.com"),
            ("o'brien/x=y@example.com", "o'brien/x=y@example.com"),
        ] {
            assert_eq!(key(written).as_deref(), Ok(expected), "{written}");
        }
    }

    #[test]
    fn look_alike_letters_are_different_people() {
        for (left, right) in [
            ("m\u{131}ke@example.com", "mike@example.com"),
            ("\u{212a}ate@example.com", "kate@example.com"),
            ("s\u{17f}am@example.com", "ssam@example.com"),
            ("stra\u{df}e@example.com", "strasse@example.com"),
            ("e\u{301}va@example.com", "\u{e9}va@example.com"),
        ] {
            assert_ne!(key(left), key(right), "{left} and {right}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_a_reason() {
        for (written, error) in [
            ("", EmailError::Shape),
            ("ada", EmailError::Shape),
            ("@example.com", EmailError::Shape),
            ("ada@", EmailError::Shape),
            ("a b@example.com", EmailError::LocalPart),
            ("a\r\nb@example.com", EmailError::LocalPart),
            ("a\0b@example.com", EmailError::LocalPart),
            ("a\u{202e}b@example.com", EmailError::LocalPart),
            ("a\u{2028}b@example.com", EmailError::LocalPart),
            ("a@b@example.com", EmailError::LocalPart),
            ("\"a b\"@example.com", EmailError::LocalPart),
            (".ada@example.com", EmailError::LocalPart),
            ("a..b@example.com", EmailError::LocalPart),
            ("ada@exa mple.com", EmailError::Domain),
            ("ada@example.com\r\nBcc: x", EmailError::Domain),
            ("ada@-example.com", EmailError::Domain),
            ("ada@localhost", EmailError::Domain),
            ("ada@example..com", EmailError::Domain),
            ("ada@127.0.0.1", EmailError::Domain),
            ("ada@[127.0.0.1]", EmailError::Domain),
        ] {
            assert_eq!(key(written), Err(error), "{written:?}");
        }
        assert_eq!(
            key(&format!("{}@example.com", "a".repeat(65))),
            Err(EmailError::TooLong)
        );
        assert_eq!(key(&format!("a@{}.com", "b.".repeat(130))), Err(EmailError::TooLong));
    }

    #[test]
    fn debug_output_never_shows_an_address() {
        let address = EmailAddress::parse("ada@example.com").unwrap();
        assert_eq!(format!("{address:?}"), "a***@example.com");
        assert_eq!(format!("{:?}", address.key()), "a***@example.com");
    }
}
