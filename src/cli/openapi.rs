//! `usher openapi`: prints the OpenAPI document.

pub(super) fn run() -> anyhow::Result<()> {
    println!("{}", crate::openapi::text()?.trim_end());
    Ok(())
}
