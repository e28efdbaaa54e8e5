//! `usher openapi`: the contract as a file.

pub(super) fn run() -> anyhow::Result<()> {
    print!("{}", crate::contract::text()?);
    Ok(())
}
