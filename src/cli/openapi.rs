//! `usher openapi`: prints the OpenAPI document.

pub(super) fn run() -> anyhow::Result<()> {
    print!("{}", crate::openapi::text()?);
    Ok(())
}
