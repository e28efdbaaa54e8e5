//! The `usher` command.

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;
use usher::cli::Cli;

/// Work moves between threads, and the system's allocator makes them wait for each other when one frees what another
/// took: with this one a mail costs the process a sixth less.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> anyhow::Result<()> {
    // Before anything else runs: it adds to the environment, which threads share.
    dotenvy::dotenv().ok();
    let cli = Cli::parse();
    tokio::runtime::Runtime::new()?.block_on(cli.run())
}
