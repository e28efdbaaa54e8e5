//! The `usher` command.

use clap::Parser as _;
use usher::cli::Cli;

/// Jobs and requests make and drop many short-lived values on all threads. The system's allocator keeps several times the
/// memory for them, and more of the processor's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    // Before anything else runs: it adds to the environment, which threads share.
    dotenvy::dotenv().ok();
    let cli = Cli::parse();
    tokio::runtime::Runtime::new()?.block_on(cli.run())
}
