//! `usher man`: the manual pages.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use super::Cli;
use crate::config::without_environment;

/// Print the manual page, or write one for each command into a folder.
#[derive(Debug, clap::Args)]
pub struct PrintMan {
    /// Where to write the pages, such as /usr/local/share/man/man1.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl PrintMan {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let command = without_environment(Cli::command());
        if let Some(folder) = &self.folder {
            let problem = || format!("the pages can't be written to {}", folder.display());
            return clap_mangen::generate_to(command, folder).with_context(problem);
        }
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        println!("{}", String::from_utf8_lossy(&page).trim_end());
        Ok(())
    }
}
