//! A mail as it arrived.

use std::sync::Arc;

use mail_parser::{HeaderValue, Message, MessageParser, MimeHeaders as _};
use tokio::time::Instant;

/// A mail as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedMail {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body, dots unstuffed.
    pub raw: Arc<[u8]>,
    /// When it was taken.
    pub at: Instant,
}

impl ReceivedMail {
    /// A header as a mail program shows it: unfolded and decoded.
    pub fn header(&self, name: &str) -> Option<String> {
        let message = self.parsed();
        match message.header(name)? {
            HeaderValue::Text(text) => Some(text.to_string()),
            _ => message
                .header_raw(name)
                .map(|raw| raw.replace("\r\n", "").trim().to_owned()),
        }
    }

    /// The `Message-ID`, without brackets.
    pub fn message_id(&self) -> String {
        self.parsed().message_id().unwrap_or_default().to_owned()
    }

    /// The name in `From`, decoded.
    pub fn sender_name(&self) -> Option<String> {
        Some(self.parsed().from()?.first()?.name()?.to_owned())
    }

    /// How many headers of this name there are.
    pub fn count(&self, name: &str) -> usize {
        self.parsed().header_values(name).count()
    }

    /// The plain text part.
    pub fn text(&self) -> String {
        self.body("text/plain")
    }

    /// The HTML part.
    pub fn html(&self) -> String {
        self.body("text/html")
    }

    /// What follows `link` in the plain text, if it is in there: the token of an invite.
    pub fn token(&self, link: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(link)?;
        let is_token = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        Some(rest.chars().take_while(is_token).collect())
    }

    fn body(&self, content_type: &str) -> String {
        let message = self.parsed();
        let part = message.parts.iter().find(|part| {
            part.content_type().is_some_and(|found| {
                format!("{}/{}", found.c_type, found.c_subtype.as_deref().unwrap_or("")) == content_type
            })
        });
        let part = part.unwrap_or_else(|| panic!("the mail has no {content_type} part"));
        part.text_contents().unwrap_or_default().replace("\r\n", "\n")
    }

    fn parsed(&self) -> Message<'_> {
        let parsed = MessageParser::default().parse(&*self.raw);
        parsed.unwrap_or_else(|| panic!("what arrived is no mail"))
    }
}
