//! Builds the message itself: addresses, headers and the two bodies.
//!
//! lettre 0.11.23 panics over a line break in a display name, writes a message that servers refuse when a header holds a
//! NUL, and lets a bare CR through in a 7-bit body (RUSTSEC-2026-0561, -0562, -0564). So everything is cleaned or
//! refused here before lettre sees it, and bodies are always quoted-printable.

use std::str::FromStr;

use chrono::{DateTime, Datelike, Utc};
use lettre::{
    Address, Message,
    address::Envelope,
    message::{
        Body, Mailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};
use url::{Url, form_urlencoded::byte_serialize};
use uuid::Uuid;

use super::{
    failure::SendError,
    templates::Rendered,
    text::{OneLine, cleaned},
};

/// The longest address that SMTP carries (RFC 5321, 4.5.3.1.3, less the angle brackets).
const MAX_ADDRESS: usize = 254;
/// So that the header's lines stay below 998 bytes, whoever reads.
const MAX_UNSUBSCRIBE: usize = 200;
/// Far longer than any that usher makes, and short enough for one header line.
const MAX_MESSAGE_ID: usize = 200;

/// What makes two runs of one delivery the same mail: fixed when the delivery is queued, equal in every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageIdentity {
    /// `Message-ID`, as in `0198c0de@usher.example.com`, with or without angle brackets.
    pub message_id: String,
    /// `Date`.
    pub date: DateTime<Utc>,
}

/// What all mails have in common.
#[derive(Debug)]
pub(crate) struct Letterhead {
    pub(crate) from: Mailbox,
    pub(crate) reply_to: Option<Mailbox>,
    pub(crate) unsubscribe: Option<Unsubscribe>,
}

/// Where people can have further mails to them stopped; `{email}` stands for their address.
#[derive(Debug)]
pub(crate) struct Unsubscribe(Vec<String>);

impl Unsubscribe {
    const PLACE: &str = "{email}";

    /// The header's value for one reader (RFC 2369, 3.2).
    fn addressed(&self, reader: &Address) -> String {
        let email: String = byte_serialize(AsRef::<str>::as_ref(reader).as_bytes()).collect();
        let address = |address: &String| format!("<{}>", address.replace(Self::PLACE, &email));
        self.0.iter().map(address).collect::<Vec<_>>().join(", ")
    }
}

impl FromStr for Unsubscribe {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_good = |address: &str| {
            let url = Url::parse(&address.replace(Self::PLACE, "email"));
            address.len() <= MAX_UNSUBSCRIBE
                && address
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte))
                && url.is_ok_and(|url| matches!(url.scheme(), "mailto" | "https"))
        };
        let addresses: Vec<String> = text.split(',').map(|address| address.trim().to_owned()).collect();
        if addresses.iter().all(|address| is_good(address)) {
            Ok(Self(addresses))
        } else {
            Err(())
        }
    }
}

/// Where readers can have further mails stopped, if the text names that.
pub(crate) fn unsubscribe(text: &str) -> Option<Unsubscribe> {
    text.parse().ok()
}

/// Builds the mail.
pub(crate) fn compose(
    Letterhead {
        from,
        reply_to,
        unsubscribe,
    }: &Letterhead,
    to: &Address,
    id: &MessageIdentity,
    mail: &Rendered,
) -> Result<Message, SendError> {
    let message_id = message_id(&id.message_id).ok_or_else(|| unaddressable("not a message id"))?;
    // The calendar that the header's writer covers; it panics outside.
    if !(1970..=9999).contains(&id.date.year()) {
        return Err(unaddressable("not a date for a mail"));
    }
    let envelope = Envelope::new(Some(from.email.clone()), vec![to.clone()]).map_err(|e| unaddressable(&e))?;
    let mut message = Message::builder()
        .envelope(envelope)
        .from(from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(OneLine::from(mail.subject.as_str()))
        .date(id.date.into())
        .message_id(Some(format!("<{message_id}>")))
        // Keeps holiday notices and other robots from answering (RFC 3834).
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ))
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Content-Language"),
            mail.language.clone(),
        ));
    if let Some(reply_to) = reply_to {
        message = message.reply_to(reply_to.clone());
    }
    if let Some(unsubscribe) = unsubscribe.as_ref().filter(|_| mail.is_unsolicited) {
        message = message.raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("List-Unsubscribe"),
            unsubscribe.addressed(to),
        ));
    }
    let bodies = MultiPart::alternative()
        .singlepart(part(ContentType::TEXT_PLAIN, &mail.text)?)
        .singlepart(part(ContentType::TEXT_HTML, &mail.html)?);
    message.multipart(bodies).map_err(|e| unaddressable(&e))
}

fn part(content_type: ContentType, body: &str) -> Result<SinglePart, SendError> {
    let body = Body::new_with_encoding(body.to_owned(), ContentTransferEncoding::QuotedPrintable)
        .map_err(|_| unaddressable("the body can't be encoded"))?;
    Ok(SinglePart::builder().header(content_type).body(body))
}

/// An address alone, without a name: `ada@example.com`.
pub(crate) fn address(text: &str) -> Option<Address> {
    // What a cleaning would change has no place in an address, nor do the characters that end one in a header or an
    // SMTP command. (Quoted local parts with spaces are legal; nobody has one.)
    if text != cleaned(text) || text.contains([' ', '<', '>']) || text.len() > MAX_ADDRESS {
        return None;
    }
    let (local, domain) = text.rsplit_once('@')?;
    // Then every server can take it, with SMTPUTF8 or without.
    let domain = if domain.is_ascii() {
        domain.to_owned()
    } else {
        idna::domain_to_ascii(domain).ok()?
    };
    Address::new(local, domain).ok()
}

/// An address with or without a name: `Example <no-reply@example.com>`.
pub(crate) fn mailbox(text: &str) -> Option<Mailbox> {
    let text = text.trim();
    let Some((name, rest)) = text.rsplit_once('<') else {
        return Some(Mailbox::new(None, address(text)?));
    };
    let address = address(rest.strip_suffix('>')?.trim())?;
    let name = name.trim();
    let unquoted = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
        .unwrap_or(name);
    let name = String::from(OneLine::from(unquoted.replace("\\\"", "\"")));
    Some(Mailbox::new(Some(name).filter(|name| !name.is_empty()), address))
}

/// The domain of a sender's address, if a `Message-ID` can be in it.
pub(crate) fn message_domain(from: &str) -> Option<String> {
    let domain = mailbox(from)?.email.domain().to_owned();
    message_id(&format!("{}@{domain}", Uuid::nil()))
        .is_some()
        .then_some(domain)
}

/// The id without its angle brackets, if it is one.
pub(crate) fn message_id(text: &str) -> Option<&str> {
    let id = text
        .strip_prefix('<')
        .and_then(|id| id.strip_suffix('>'))
        .unwrap_or(text);
    let (left, right) = id.split_once('@')?;
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b))
    };
    (is_word(left) && is_word(right) && id.len() <= MAX_MESSAGE_ID).then_some(id)
}

fn unaddressable(reason: &(impl ToString + ?Sized)) -> SendError {
    SendError::Unaddressable(reason.to_string())
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn an_address_is_one_address_and_nothing_else() {
        let cases = [
            ("ada@example.com", Some("ada@example.com")),
            ("Ada.O'Neil+x@Example.com", Some("Ada.O'Neil+x@Example.com")),
            ("no-reply@localhost", Some("no-reply@localhost")),
            ("ada@bücher.example", Some("ada@xn--bcher-kva.example")),
            ("zoë@example.com", Some("zoë@example.com")),
            ("ada@[127.0.0.1]", Some("ada@[127.0.0.1]")),
            ("", None),
            ("ada", None),
            ("@example.com", None),
            ("ada@", None),
            (" ada@example.com", None),
            ("a b@example.com", None),
            ("ada@example.com, eve@example.com", None),
            ("ada@example.com,eve@example.com", None),
            ("ada@example.com;eve@example.com", None),
            ("Ada <ada@example.com>", None),
            ("<ada@example.com>", None),
            ("ada@example.com>\r\nRCPT TO:<eve@example.com", None),
            ("ada@example.com\r\nBcc: eve@example.com", None),
            ("ada@example.com\n", None),
            ("ada\0@example.com", None),
            ("\"a\r\nb\"@example.com", None),
            ("ada@example.com\u{2028}", None),
            ("\u{202e}ada@example.com", None),
            ("ada@exa mple.com", None),
            ("ada@-example-.com", None),
        ];
        for (given, expected) in cases {
            assert_eq!(address(given).as_ref().map(AsRef::<str>::as_ref), expected, "{given:?}");
        }
        assert_eq!(address(&format!("{}@example.com", "a".repeat(300))), None);
        assert_eq!(address(&format!("a@{}com", "example.".repeat(40))), None);
    }

    #[test]
    fn a_mailbox_has_a_name_or_none() {
        let cases = [
            ("a@example.com", Some((None, "a@example.com"))),
            ("<a@example.com>", Some((None, "a@example.com"))),
            (
                " usher <no-reply@localhost> ",
                Some((Some("usher"), "no-reply@localhost")),
            ),
            (
                "\"Last, First\" <a@example.com>",
                Some((Some("Last, First"), "a@example.com")),
            ),
            ("A \\\"B\\\" <a@example.com>", Some((Some("A \"B\""), "a@example.com"))),
            (
                "Zoë\r\nBcc: x <a@example.com>",
                Some((Some("Zoë Bcc: x"), "a@example.com")),
            ),
            ("\r\n\0 <a@example.com>", Some((None, "a@example.com"))),
            ("A <a@example.com", None),
            ("A <a@example.com> b", None),
            ("A", None),
            ("", None),
        ];
        for (given, expected) in cases {
            let found = mailbox(given);
            let found = found.as_ref().map(|m| (m.name.as_deref(), m.email.as_ref()));
            assert_eq!(found, expected, "{given:?}");
        }
    }

    #[test]
    fn message_ids_are_in_the_domain_of_the_sender() {
        let long = |labels| format!("{}example", "a.".repeat(labels));
        let (fits, too_long) = (long(78), long(79));
        let (from_fits, from_too_long) = (format!("no-reply@{fits}"), format!("no-reply@{too_long}"));
        let cases = [
            ("Example <no-reply@mail.example.com>", Some("mail.example.com")),
            ("no-reply@bücher.example", Some("xn--bcher-kva.example")),
            ("no-reply@[192.0.2.1]", None),
            ("nobody", None),
            (&from_fits, Some(fits.as_str())),
            (&from_too_long, None),
        ];
        for (from, expected) in cases {
            assert_eq!(message_domain(from).as_deref(), expected, "{from}");
        }
    }

    #[test]
    fn a_message_id_is_plain_ascii() {
        let cases = [
            ("1.2-3@usher.example.com", Some("1.2-3@usher.example.com")),
            ("<1@localhost>", Some("1@localhost")),
            ("<1@localhost", None),
            ("1", None),
            ("1@", None),
            ("1@a@b", None),
            ("1 2@a", None),
            ("1@a\r\nBcc: x", None),
            ("é@a", None),
            ("", None),
        ];
        for (given, expected) in cases {
            assert_eq!(message_id(given), expected, "{given:?}");
        }
        assert_eq!(message_id(&format!("{}@a", "1".repeat(1_000))), None);
    }

    #[test]
    fn people_unsubscribe_by_mail_or_on_a_page_that_is_told_who_they_are() {
        let reader = address("zoë+x@example.com").unwrap();
        let cases = [
            ("mailto:stop@example.com", Some("<mailto:stop@example.com>")),
            (
                "mailto:stop@example.com?subject=stop, https://example.com/stop?who={email}",
                Some(
                    "<mailto:stop@example.com?subject=stop>, <https://example.com/stop?who=zo%C3%AB%2Bx%40example.com>",
                ),
            ),
            ("http://example.com/stop", None),
            ("example.com", None),
            ("https://example.com/<x>", None),
            ("https://example.com/a b", None),
            ("https://example.com/\r\nBcc:x", None),
            ("", None),
            ("mailto:stop@example.com,", None),
        ];
        for (given, expected) in cases {
            let header = given
                .parse::<Unsubscribe>()
                .map(|unsubscribe| unsubscribe.addressed(&reader));
            assert_eq!(header.ok().as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn a_year_that_mail_does_not_know_is_refused() {
        let letterhead = Letterhead {
            from: mailbox("usher <no-reply@localhost>").unwrap(),
            reply_to: None,
            unsubscribe: None,
        };
        let to = address("ada@example.com").unwrap();
        let mail = Rendered {
            language: "en".into(),
            is_unsolicited: true,
            subject: "s".into(),
            text: "t".into(),
            html: "h".into(),
        };
        let on = |date| {
            compose(
                &letterhead,
                &to,
                &MessageIdentity {
                    message_id: "1@a".into(),
                    date,
                },
                &mail,
            )
        };
        let new_year = |year| Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap();
        assert!(on(new_year(2026)).is_ok());
        for date in [
            DateTime::<Utc>::MIN_UTC,
            new_year(1969),
            new_year(10_000),
            DateTime::<Utc>::MAX_UTC,
        ] {
            assert!(matches!(on(date), Err(SendError::Unaddressable(_))), "{date}");
        }
    }
}
