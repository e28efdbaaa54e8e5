//! `usher openapi`: the contract as a file.

pub(super) fn run() -> anyhow::Result<()> {
    print!("{}", crate::openapi::text()?);
    Ok(())
}
