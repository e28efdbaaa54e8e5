//! The mails that were written to a folder, to be shown to a developer.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use chrono::{DateTime, Utc};
use mail_parser::{MessageParser, MimeHeaders as _};

/// Far longer than any mail of usher's.
const MAX_SIZE: u64 = 4 * 1024 * 1024;

/// A mail that is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenMail {
    /// The file's name.
    pub file: String,
    /// The recipient's address.
    pub to: String,
    /// The subject, decoded.
    pub subject: String,
    /// When it was queued.
    pub date: Option<DateTime<Utc>>,
    /// The plain text part.
    pub text: String,
    /// The HTML part.
    pub html: String,
}

/// The newest mails of a folder, newest first, at most so many. A folder that is not there has none.
///
/// # Errors
/// When the folder can't be read.
pub fn written_mails(folder: &Path, most: usize) -> io::Result<Vec<WrittenMail>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_mail(name)).collect();
    // They begin with the time.
    names.sort_unstable_by(|a, b| b.cmp(a));
    let mails = names.into_iter().filter_map(|name| written_mail(folder, &name));
    Ok(mails.take(most).collect())
}

/// The mail of a file in this folder; none if there is none of this name, or it is no mail.
#[must_use]
pub fn written_mail(folder: &Path, name: &str) -> Option<WrittenMail> {
    let path = folder.join(Some(name).filter(|name| is_mail(name))?);
    // A link could lead out of the folder, and a pipe has no end.
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let mut raw = Vec::new();
    File::open(path).ok()?.take(MAX_SIZE).read_to_end(&mut raw).ok()?;
    let mail = MessageParser::default().parse(&raw)?;
    let part = |subtype: &str| {
        let is_it = |part: &&mail_parser::MessagePart<'_>| {
            let kind = part.content_type();
            kind.is_some_and(|kind| kind.ctype() == "text" && kind.subtype() == Some(subtype))
        };
        let part = mail.parts.iter().find(is_it);
        part.and_then(|part| part.text_contents())
            .unwrap_or_default()
            .to_owned()
    };
    let to = mail.to().and_then(|to| to.first()?.address());
    let date = mail.date().map(mail_parser::DateTime::to_timestamp);
    Some(WrittenMail {
        file: name.to_owned(),
        to: to.unwrap_or_default().to_owned(),
        subject: mail.subject().unwrap_or_default().to_owned(),
        date: date.and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
        text: part("plain"),
        html: part("html"),
    })
}

/// Whether a file may be called so by the outbox. Such a name leads to no other folder.
fn is_mail(name: &str) -> bool {
    let stem = name.strip_suffix(".eml").unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !stem.is_empty() && stem.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "From: Acme <no-reply@acme.example>\r\nTo: <ada@example.com>\r\nSubject: =?utf-8?b?w4RwZmVs?=\r\n \
        and more\r\nDate: Sun, 22 Nov 2026 09:30:00 +0000\r\nContent-Type: multipart/alternative; boundary=\"x\"\r\n\r\n\
        --x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        https://a.example/i#one=3Dtwo=\r\nthree\r\n--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>hi</p>\r\n--x--\r\n";

    #[test]
    fn a_mail_is_read_as_a_mail_program_shows_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("20261122T093000Z-1.eml"), MAIL).unwrap();
        let mail = written_mail(folder.path(), "20261122T093000Z-1.eml").unwrap();
        assert_eq!(
            (mail.to.as_str(), mail.subject.as_str()),
            ("ada@example.com", "Äpfel and more")
        );
        assert_eq!(mail.date.unwrap().to_rfc3339(), "2026-11-22T09:30:00+00:00");
        assert_eq!(mail.text.trim(), "https://a.example/i#one=twothree");
        assert_eq!(mail.html.trim(), "<p>hi</p>");
    }

    #[test]
    fn the_newest_come_first_and_other_files_are_no_mails() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(written_mails(&folder.path().join("none"), 9).unwrap(), []);
        for name in [
            "2026-1.eml",
            "2026-3.eml",
            "2026-2.eml",
            "notes.txt",
            ".eml",
            ".x.eml",
            "a b.eml",
            "<i>.eml",
        ] {
            std::fs::write(folder.path().join(name), MAIL).unwrap();
        }
        std::fs::write(folder.path().join("2026-4.eml"), "").unwrap();
        std::fs::create_dir(folder.path().join("2026-5.eml")).unwrap();
        let names = |most| {
            let mails = written_mails(folder.path(), most).unwrap();
            mails.into_iter().map(|mail| mail.file).collect::<Vec<_>>()
        };
        assert_eq!(names(9), ["2026-3.eml", "2026-2.eml", "2026-1.eml"]);
        assert_eq!(names(2), ["2026-3.eml", "2026-2.eml"]);
    }

    #[cfg(unix)]
    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = folder.path().join("outbox");
        std::fs::create_dir(&outbox).unwrap();
        std::fs::write(folder.path().join("secret.eml"), MAIL).unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret.eml"), outbox.join("link.eml")).unwrap();
        let whole = folder.path().join("secret.eml");
        for name in [
            "../secret.eml",
            "..%2fsecret.eml",
            "..\\secret.eml",
            "./../secret.eml",
            "link.eml",
            "outbox/../secret.eml",
            "",
            ".",
            "..",
            ".eml",
            "secret.eml\0",
            whole.to_str().unwrap(),
        ] {
            assert_eq!(written_mail(&outbox, name), None, "{name}");
        }
        assert_eq!(written_mails(&outbox, 9).unwrap(), []);
    }
}
