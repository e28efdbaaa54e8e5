//! What a server answers: three digits and some lines of text.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// Bytes of one line. RFC 5321 allows 512; servers explain themselves at length.
const MAX_LINE: u64 = 8 * 1024;
/// Lines of one reply.
const MAX_LINES: usize = 128;

/// A whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    /// What stands behind the codes, line by line.
    pub(crate) lines: Vec<String>,
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The connection ended.
    Closed,
    /// That was no reply.
    Unreadable,
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl Reply {
    pub(crate) fn is_temporary(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// Code and text on one line; an enhanced code that each line repeats (RFC 2034) is said once.
    pub(crate) fn on_one_line(&self) -> String {
        let mut words = vec![self.code.to_string()];
        let mut repeated: Option<&str> = None;
        for line in self
            .lines
            .iter()
            .map(|line| line.trim())
            .filter(|line| !line.is_empty())
        {
            let first = line.split(' ').next().unwrap_or_default();
            match repeated {
                Some(code) if first == code => {
                    words.extend(line.split_once(' ').map(|(_, rest)| rest.trim().to_owned()))
                }
                Some(_) => words.push(line.to_owned()),
                None => {
                    words.push(line.to_owned());
                    repeated = Some(first).filter(|first| is_enhanced_code(first)).or(Some(""));
                }
            }
        }
        words.join(" ")
    }

    /// Reads one reply. Lenient where the meaning is clear: three digits alone are a line (RFC 5321, 4.2.1, asks clients to
    /// take that), lines may end in LF, and text may be in any encoding.
    pub(crate) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Self, WireError> {
        let mut lines = Vec::new();
        while lines.len() < MAX_LINES {
            let mut line = Vec::new();
            let read = (&mut *stream).take(MAX_LINE).read_until(b'\n', &mut line).await?;
            if !line.ends_with(b"\n") {
                return Err(if u64::try_from(read).is_ok_and(|read| read < MAX_LINE) {
                    WireError::Closed
                } else {
                    WireError::Unreadable
                });
            }
            let line = String::from_utf8_lossy(&line);
            let (code, is_last, text) = parse_line(line.trim_end()).ok_or(WireError::Unreadable)?;
            lines.push(text.to_owned());
            if is_last {
                return Ok(Self { code, lines });
            }
        }
        Err(WireError::Unreadable)
    }
}

/// Code, whether no other line follows, and text.
fn parse_line(line: &str) -> Option<(u16, bool, &str)> {
    let (digits, rest) = line.split_at_checked(3)?;
    let is_code = digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.starts_with(['2', '3', '4', '5']);
    let code = digits.parse().ok().filter(|_| is_code)?;
    match rest.chars().next() {
        None => Some((code, true, "")),
        Some(' ' | '\t') => Some((code, true, &rest[1..])),
        Some('-') => Some((code, false, &rest[1..])),
        Some(_) => None,
    }
}

/// `5.1.1` (RFC 3463).
pub(crate) fn is_enhanced_code(word: &str) -> bool {
    let mut parts = word.split('.');
    let is_number = |part: Option<&str>| {
        part.is_some_and(|part| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    matches!(parts.next(), Some("2" | "4" | "5"))
        && is_number(parts.next())
        && is_number(parts.next())
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> Result<Reply, WireError> {
        Reply::read(&mut text.as_bytes()).await
    }

    #[tokio::test]
    async fn three_digits_are_a_reply_and_so_is_whatever_servers_send() {
        let cases: [(&str, u16, &[&str]); 11] = [
            ("250 ok\r\n", 250, &["ok"]),
            ("250\r\n", 250, &[""]),
            ("250 \r\n", 250, &[""]),
            ("250\n", 250, &[""]),
            ("250-\r\n250\r\n", 250, &["", ""]),
            (
                "250-mx\r\n250-\r\n250-SIZE 1\r\n250\r\n",
                250,
                &["mx", "", "SIZE 1", ""],
            ),
            ("250-mx\r\n250- \r\n250 HELP\r\n", 250, &["mx", "", "HELP"]),
            ("354\r\n", 354, &[""]),
            (
                "550-5.1.1 no\r\n550 5.1.1 such user\r\n",
                550,
                &["5.1.1 no", "5.1.1 such user"],
            ),
            ("421 bye\r\nmore", 421, &["bye"]),
            ("550 mailbox \u{fffd} full\r\n", 550, &["mailbox \u{fffd} full"]),
        ];
        for (text, code, lines) in cases {
            let reply = read(text).await.unwrap();
            assert_eq!(
                (reply.code, &reply.lines[..]),
                (code, &lines.map_to_owned()[..]),
                "{text:?}"
            );
        }
        let latin_1 = Reply::read(&mut b"550 Empf\xe4nger unbekannt\r\n".as_slice())
            .await
            .unwrap();
        assert_eq!(latin_1.lines, ["Empf\u{fffd}nger unbekannt"]);
    }

    #[tokio::test]
    async fn what_is_no_reply_is_told_from_a_connection_that_ended() {
        for text in ["", "25", "250", "250-more\r\n", "250 half"] {
            assert!(matches!(read(text).await, Err(WireError::Closed)), "{text:?}");
        }
        let long = format!("250 {}\r\n", "x".repeat(100_000));
        let endless = "250-x\r\n".repeat(1_000);
        for text in [
            "HTTP/1.1 400 Bad Request\r\n",
            "2506 x\r\n",
            "\r\n",
            "100 x\r\n",
            "ok\r\n",
            &long,
            &endless,
        ] {
            assert!(matches!(read(text).await, Err(WireError::Unreadable)), "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_reply_of_many_lines_is_told_on_one() {
        for (text, expected) in [
            ("250\r\n", "250"),
            (
                "450-4.2.0 <a@b.c>\r\n450 4.2.0 greylisted\r\n",
                "450 4.2.0 <a@b.c> greylisted",
            ),
            ("550-5.7.2 one\r\n550 5.7.25 two\r\n", "550 5.7.2 one 5.7.25 two"),
            (
                "554-mx\r\n554-No SMTP service\r\n554 listed\r\n",
                "554 mx No SMTP service listed",
            ),
        ] {
            assert_eq!(read(text).await.unwrap().on_one_line(), expected);
        }
    }

    trait MapToOwned {
        fn map_to_owned(&self) -> Vec<String>;
    }

    impl MapToOwned for &[&str] {
        fn map_to_owned(&self) -> Vec<String> {
            self.iter().map(|&line| line.to_owned()).collect()
        }
    }
}
