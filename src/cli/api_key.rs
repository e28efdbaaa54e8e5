//! `usher api-key`: a new key for the app.

use anyhow::Context as _;

use crate::api_key::ApiKey;
use crate::app_id::AppId;

/// Create a key for the app, and its entry for `USHER_API_KEYS`.
#[derive(Debug, clap::Args)]
pub struct MakeApiKey {
    /// What logs and limits call the key.
    #[arg(long, default_value = "app")]
    name: String,
    /// An organization that the key may use; repeat the flag for several. Default: all.
    #[arg(long, value_name = "ID")]
    organization: Vec<String>,
}

impl MakeApiKey {
    pub(super) fn run(self) -> anyhow::Result<()> {
        ApiKey::check_name(&self.name).context("--name can't be used")?;
        let key = ApiKey::generate();
        let organizations: Option<Vec<AppId>> = self.organization.iter().map(|id| AppId::parse(id)).collect();
        let organizations = organizations.with_context(|| format!("--organization {}", AppId::RULE))?;
        let mut known = ApiKey::new(&self.name, key.expose());
        if !organizations.is_empty() {
            known = known.limited_to(&organizations);
        }
        println!("The key, for the app; it is kept nowhere, so copy it now:\n");
        println!("    {}\n", key.expose());
        println!("Its entry in USHER_API_KEYS, by its hash:\n");
        println!("    {}", known.entry());
        Ok(())
    }
}
