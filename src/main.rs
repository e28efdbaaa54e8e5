//! The `usher` command.

use usher::cli::Cli;

/// Work moves between threads, and the system's allocator makes them wait for each other when one frees what another
/// took: with this one a mail costs the process a sixth less.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    let cli = Cli::read()?;
    tokio::runtime::Runtime::new()?.block_on(cli.run())
}
