//! Files and folders that nobody but their owner may read: made so, not changed afterwards, so that there is no moment in
//! which others could open them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Read and write for the owner.
const FILE: u32 = 0o600;
/// And enter, for folders.
const FOLDER: u32 = 0o700;
/// What everybody who is neither owner nor of the group may do.
const OTHERS: u32 = 0o007;

/// Makes a folder and those above it. What is there already stays as it is.
///
/// # Errors
/// When one of them can't be made.
pub fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(path)
}

/// Makes a file that must not be there.
///
/// # Errors
/// When it is, or can't be made.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE).open(path)
}

/// Makes an empty file where there is none.
///
/// # Errors
/// When it can't be made.
pub fn create_if_missing(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    match create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Says so where everybody on the machine may read a file. It is not changed: whoever opened it up may rely on it.
pub fn warn_if_open_to_all(path: &Path) {
    let mode = path.metadata().map(|about| about.mode()).unwrap_or_default();
    if mode & OTHERS != 0 {
        let path = path.display();
        tracing::warn!("{path} is readable by every user of this machine; to restrict it, run: chmod 600 {path}");
    }
}
