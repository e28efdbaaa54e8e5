//! The outbox, as a list of mails.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::fs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mail {
    pub path: PathBuf,
    pub to: String,
    pub subject: String,
}

/// All mails of an outbox, oldest first.
pub(super) async fn read(outbox: &Path) -> anyhow::Result<Vec<Mail>> {
    let mut paths = Vec::new();
    let mut folder = match fs::read_dir(outbox).await {
        Ok(folder) => folder,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{} can't be read", outbox.display())),
    };
    while let Some(entry) = folder.next_entry().await? {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "eml") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut mails = Vec::with_capacity(paths.len());
    for path in paths {
        let raw = fs::read_to_string(&path).await?;
        mails.push(Mail {
            to: header(&raw, "To").trim_matches(['<', '>']).to_owned(),
            subject: header(&raw, "Subject"),
            path,
        });
    }
    Ok(mails)
}

/// A header's value, unfolded. The demo's names are ASCII, so it is not encoded.
fn header(raw: &str, name: &str) -> String {
    let mut lines = raw.lines().take_while(|line| !line.is_empty()).skip_while(|line| {
        line.split_once(':')
            .is_none_or(|(found, _)| !found.eq_ignore_ascii_case(name))
    });
    let first = lines
        .next()
        .and_then(|line| line.split_once(':'))
        .map_or("", |(_, value)| value);
    let folded = lines.take_while(|line| line.starts_with([' ', '\t']));
    let parts: Vec<&str> = std::iter::once(first).chain(folded).map(str::trim).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folded_header_is_one_line_and_the_body_is_none() {
        let raw = "To: <ada@example.com>\r\nSubject: Grace\r\n invites you\r\nDate: now\r\n\r\nFrom: the body\r\n";
        assert_eq!(header(raw, "Subject"), "Grace invites you");
        assert_eq!(header(raw, "to"), "<ada@example.com>");
        assert_eq!(header(raw, "From"), "");
    }
}
