//! `usher api-key`: a new key for the app.

use std::collections::HashSet;

use anyhow::Context as _;
use uuid::Uuid;

use crate::api_key::ApiKey;

/// Create a key for the app, and its entry for `USHER_API_KEYS`.
#[derive(Debug, clap::Args)]
pub struct MakeApiKey {
    /// What logs and limits call the key.
    #[arg(long, default_value = "app")]
    name: String,
    /// An organization that the key may use; repeat the flag for several. Default: all.
    #[arg(long, value_name = "UUID")]
    organization: Vec<Uuid>,
}

impl MakeApiKey {
    pub(super) fn run(self) -> anyhow::Result<()> {
        ApiKey::check_name(&self.name).context("--name can't be used")?;
        let key = ApiKey::generate();
        let organizations: HashSet<Uuid> = self.organization.into_iter().collect();
        let known = ApiKey {
            organizations: (!organizations.is_empty()).then_some(organizations),
            ..ApiKey::new(&self.name, key.expose())
        };
        println!("The key, for the app; it is kept nowhere, so copy it now:\n");
        println!("    {}\n", key.expose());
        println!("Its entry in USHER_API_KEYS, by its hash:\n");
        println!("    {}", known.entry());
        Ok(())
    }
}
