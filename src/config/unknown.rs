//! Variables that look like settings and are none.

use super::Settings;

/// Variables of the tests, which a developer's shell may have.
const FOR_TESTS: &str = "USHER_TEST_";
/// From here on, two names are one that was misspelt (Jaro-Winkler similarity, from 0 to 1).
const ALIKE: f64 = 0.85;

/// Warns of variables that look like ours and are not: most are misspelt.
pub fn warn_of_unknown_variables() {
    #[expect(clippy::disallowed_methods, reason = "this is the reader of the environment")]
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for (name, nearest) in unknown_variables(set) {
        match nearest {
            Some(nearest) => tracing::warn!("{name} is no setting of usher's; did you mean {nearest}?"),
            None => tracing::warn!("{name} is no setting of usher's; usher --help lists them"),
        }
    }
}

/// The names among `set` that begin like ours and that no setting has, each with the one that is most like it.
fn unknown_variables(set: impl Iterator<Item = String>) -> Vec<(String, Option<String>)> {
    let command = <Settings as clap::Args>::augment_args(clap::Command::new("usher"));
    let known: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    let nearest = |name: &str| {
        let alike = |known: &&String| strsim::jaro_winkler(known, name);
        let best = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
        (alike(&best) >= ALIKE).then(|| best.clone())
    };
    set.filter(|name| name.starts_with("USHER_") && !name.starts_with(FOR_TESTS) && !known.contains(name))
        .map(|name| {
            let nearest = nearest(&name);
            (name, nearest)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_variables_are_told_with_the_nearest_name() {
        let told = |name: &str| unknown_variables(std::iter::once(name.to_owned()));
        for (name, nearest) in [
            ("USHER_TOKEN_KYE", Some("USHER_TOKEN_KEY")),
            ("USHER_DATABASE_UR", Some("USHER_DATABASE_URL")),
            ("USHER_RATELIMIT", Some("USHER_RATE_LIMIT")),
            ("USHER_LISTENS", Some("USHER_LISTEN")),
            ("USHER_XYZZY", None),
        ] {
            assert_eq!(told(name), [(name.to_owned(), nearest.map(str::to_owned))], "{name}");
        }
        for name in ["USHER_TOKEN_KEY", "USHER_TEST_POSTGRES_URL", "PATH", "usher_listen"] {
            assert!(told(name).is_empty(), "{name}");
        }
    }
}
