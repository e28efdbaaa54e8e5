//! The `usher` command.

use clap::Parser as _;
use usher::cli::Cli;

fn main() -> anyhow::Result<()> {
    // Before anything else runs: it adds to the environment, which threads share.
    dotenvy::dotenv().ok();
    let cli = Cli::parse();
    tokio::runtime::Runtime::new()?.block_on(cli.run())
}
