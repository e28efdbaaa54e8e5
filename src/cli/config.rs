//! `usher config`: the settings in force, secrets masked.

use crate::config::Config;

pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    for (name, value) in config.shown() {
        println!("{name}={value}");
    }
    Ok(())
}
