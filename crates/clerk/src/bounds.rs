//! How large what Clerk says may be. Whatever is taken from an event, a user or a session token is later written to a
//! database, which refuses some of it: a NUL, a year of five digits, a key longer than a page of an index. It is
//! refused, or cut to size, here: once, before anything is kept, and with a reason.

use chrono::{DateTime, Utc};

/// Bytes of an id. Clerk's have about 32; Postgres can't index more than 2,704.
pub(crate) const MAX_ID: usize = 255;
/// E-mail addresses of one user. An event of 256 KiB has room for about 800 as Clerk describes them.
pub(crate) const MAX_ADDRESSES: usize = 1_000;
/// Characters of a first or last name; the rest is cut off. It fits an app's `varchar(255)`.
const MAX_NAME: usize = 255;
/// Bytes of a picture's address; a longer one is left out.
const MAX_URL: usize = 2_048;
/// Bytes of a language tag; a longer one is left out.
const MAX_LOCALE: usize = 35;
/// The last millisecond of the year 9999, since 1970. Later years have five digits, which no database's text form has.
const MAX_TIME: i64 = 253_402_300_799_999;

/// Whether a text may be the id of a user or a session: printable ASCII, at most [`MAX_ID`] bytes.
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn check_id(id: &str) -> Result<(), &'static str> {
    if id.trim().is_empty() {
        Err("empty")
    } else if id.len() > MAX_ID {
        Err("longer than 255 bytes")
    } else if !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("not an id: it has characters that ids don't have")
    } else {
        Ok(())
    }
}

/// A time from 1970 to 9999, in milliseconds since 1970.
pub(crate) fn time(millis: i64) -> Option<DateTime<Utc>> {
    (0..=MAX_TIME)
        .contains(&millis)
        .then(|| DateTime::from_timestamp_millis(millis))
        .flatten()
}

/// A name as far as it can be kept. People type it, so nothing in it makes an event unreadable.
pub(crate) fn name(text: &str) -> Option<String> {
    let name: String = text.chars().filter(|&c| c != '\0').take(MAX_NAME).collect();
    (!name.trim().is_empty()).then_some(name)
}

/// The address of a picture, unless it can't be kept. Half of one would be of no use.
pub(crate) fn image_url(text: &str) -> Option<String> {
    short_and_plain(text, MAX_URL)
}

/// A language tag, unless it can't be kept.
pub(crate) fn locale(text: &str) -> Option<String> {
    short_and_plain(text, MAX_LOCALE)
}

fn short_and_plain(text: &str, max: usize) -> Option<String> {
    let is_kept = !text.trim().is_empty() && text.len() <= max && !text.contains('\0');
    is_kept.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_printable() {
        for (id, expected) in [
            ("user_2ada".to_owned(), Ok(())),
            ("x".repeat(MAX_ID), Ok(())),
            ("x".repeat(MAX_ID + 1), Err("longer than 255 bytes")),
            (String::new(), Err("empty")),
            (" ".to_owned(), Err("empty")),
            (
                "user ada".to_owned(),
                Err("not an id: it has characters that ids don't have"),
            ),
            (
                "user\0ada".to_owned(),
                Err("not an id: it has characters that ids don't have"),
            ),
            (
                "user_ädä".to_owned(),
                Err("not an id: it has characters that ids don't have"),
            ),
        ] {
            assert_eq!(check_id(&id), expected, "{id:?}");
        }
    }

    #[test]
    fn times_have_years_of_four_digits_and_begin_in_1970() {
        for (millis, year) in [
            (0, Some("1970")),
            (MAX_TIME, Some("9999")),
            (-1, None),
            (MAX_TIME + 1, None),
        ] {
            let found = time(millis).map(|time| time.format("%Y").to_string());
            assert_eq!(found.as_deref(), year, "{millis}");
        }
        for millis in [i64::MIN, i64::MAX, -62_135_596_800_001, 253_402_300_800_000] {
            assert_eq!(time(millis), None, "{millis}");
        }
    }

    #[test]
    fn what_people_type_is_cut_to_size() {
        assert_eq!(name("A\0da").as_deref(), Some("Ada"));
        assert_eq!(name("\0"), None);
        assert_eq!(name(&"ä".repeat(300)), Some("ä".repeat(MAX_NAME)));
        assert_eq!(image_url(&"x".repeat(MAX_URL + 1)), None);
        assert_eq!(locale("en-GB").as_deref(), Some("en-GB"));
        assert_eq!(locale("e\0n"), None);
    }
}
