//! `usher completions`: what shells complete.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// Print the completions of a shell: bash, zsh, fish, elvish or powershell.
#[derive(Debug, clap::Args)]
pub struct Completions {
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "usher", &mut script);
        println!("{}", String::from_utf8_lossy(&script).trim_end());
    }
}
