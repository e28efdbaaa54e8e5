//! `usher ops-key`: a new key for the board.

use anyhow::Context as _;

use crate::api_key::ApiKey;
use crate::ops_key::{self, OpsRole};

/// Create a key for the board, and its entry for `USHER_OPS_KEYS`.
#[derive(Debug, clap::Args)]
pub struct MakeOpsKey {
    /// Whose key it is: the audit shows this name.
    #[arg(long)]
    name: String,
    /// What it may do: `view` or `operate`.
    #[arg(long, default_value_t = OpsRole::View, value_parser = str::parse::<OpsRole>)]
    role: OpsRole,
}

impl MakeOpsKey {
    pub(super) fn run(self) -> anyhow::Result<()> {
        ApiKey::check_name(&self.name).context("--name can't be used")?;
        let key = ApiKey::generate();
        let known = ApiKey::new(&self.name, key.expose());
        println!("The key, to sign in to the board; it is kept nowhere, so copy it now:\n");
        println!("    {}\n", key.expose());
        println!("Its entry in USHER_OPS_KEYS, by its hash:\n");
        println!("    {}", ops_key::entry(&known, self.role));
        Ok(())
    }
}
