//! Mail for developers: every mail becomes a file that a mail program opens.

use std::{
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use super::{compose::MessageIdentity, failure::SendError};
use usher_base::private;

/// Tells apart two writers of one mail, which may be at work at once when a job runs twice.
static WRITERS: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) folder: PathBuf,
}

impl Outbox {
    /// Writes the mail and returns the file's path. A second run of the same delivery replaces its file.
    pub(crate) async fn put(&self, id: &MessageIdentity, raw: &[u8]) -> Result<PathBuf, SendError> {
        let path = self.folder.join(file_name(id));
        let written = write_whole(&self.folder, &path, raw).await;
        written.map_err(|error| self.failed(&error))?;
        Ok(path)
    }

    /// Whether mails can be written.
    pub(crate) async fn check(&self) -> Result<(), SendError> {
        let probe = self.folder.join(".probe");
        let written = write_whole(&self.folder, &probe, b"").await;
        written.map_err(|error| self.failed(&error))?;
        fs::remove_file(&probe).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> SendError {
        SendError::Temporary(format!("writing to {}: {error}", self.folder.display()))
    }
}

/// Whoever watches the folder sees a complete mail or none.
async fn write_whole(folder: &Path, path: &Path, raw: &[u8]) -> io::Result<()> {
    // Short enough not to be worth a thread.
    private::create_folder(folder)?;
    let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!(".{}-{writer}.tmp", process::id()));
    // A process of the same id may have died over it.
    let _ = fs::remove_file(&unfinished).await;
    let written = async {
        // The links in it open doors, so it is for its owner's eyes only.
        let mut file = fs::File::from_std(private::create_new(&unfinished)?);
        file.write_all(raw).await?;
        file.flush().await?;
        fs::rename(&unfinished, path).await
    };
    let result = written.await;
    if result.is_err() {
        // It may not even be there; the first error is the one that matters.
        let _ = fs::remove_file(&unfinished).await;
    }
    result
}

/// `20261122T143000Z-<delivery id>.eml`: in the order of their making, and always the same for one delivery.
fn file_name(id: &MessageIdentity) -> String {
    let delivery = id
        .message_id
        .trim_start_matches('<')
        .split('@')
        .next()
        .unwrap_or_default();
    let delivery = delivery.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
    format!("{}-{delivery}.eml", id.date.format("%Y%m%dT%H%M%SZ"))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_file_name_stays_in_its_folder() {
        let cases = [
            ("0198-c0de@usher.example.com", "20260102T030405Z-0198-c0de.eml"),
            ("<0198@localhost>", "20260102T030405Z-0198.eml"),
            ("../../etc/passwd@x", "20260102T030405Z-______etc_passwd.eml"),
            ("", "20260102T030405Z-.eml"),
        ];
        for (message_id, expected) in cases {
            let date = DateTime::from_timestamp(1_767_323_045, 0).unwrap();
            let id = MessageIdentity {
                message_id: message_id.into(),
                date,
            };
            assert_eq!(file_name(&id), expected);
        }
    }
}
