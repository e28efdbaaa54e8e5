//! The sources of settings: a flag, the environment, `.env`, in this order. An empty value counts as absent, because compose
//! and admin panels pass unset variables as empty ones.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};

use super::dotenv::DotEnv;
use super::error::{ConfigErrors, Problems, wrong};
use super::settings::Settings;

/// The only setting that is a path, and so may contain any bytes.
const PATH: &str = "TEMPLATES_DIR";

/// A command that does not read the environment; [`Settings::gather`] does. Its help leaves the settings out.
#[must_use]
pub fn without_environment(command: Command) -> Command {
    command.mut_args(|argument| match argument.get_env() {
        Some(_) => argument.env(Resettable::<clap::builder::OsStr>::Reset).hide(true),
        None => argument,
    })
}

/// A variable of this process's environment.
#[must_use]
pub fn variable(name: &str) -> Option<OsString> {
    #[expect(clippy::disallowed_methods, reason = "this is the reader of the environment")]
    std::env::var_os(name)
}

/// The account that runs this process, as far as the environment says.
#[must_use]
pub fn login_name() -> String {
    let names = ["SUDO_USER", "LOGNAME", "USER"].into_iter().filter_map(variable);
    let mut names = names.filter_map(|name| name.into_string().ok());
    names
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

impl Settings {
    /// Takes each setting from the first source that has a value for it.
    pub fn gather(
        flags: &ArgMatches,
        environment: impl Fn(&str) -> Option<OsString>,
        dot_env: Option<&DotEnv>,
    ) -> Result<Self, ConfigErrors> {
        let definition = Self::augment_args(Command::new("usher").no_binary_name(true));
        let mut problems = Problems::default();
        let mut words = Vec::new();
        for argument in definition.get_arguments() {
            let (Some(name), Some(flag)) = (argument.get_env().and_then(OsStr::to_str), argument.get_long()) else {
                continue;
            };
            let given = flag_value(flags, argument.get_id().as_str())
                .or_else(|| environment(name).filter(is_something))
                .or_else(|| Some(OsString::from(dot_env?.get(name)?)).filter(is_something));
            let Some(value) = given else { continue };
            if name != PATH && value.to_str().is_none() {
                problems.add(wrong(name, "is not UTF-8 text"));
                continue;
            }
            let mut word = OsString::from(format!("--{flag}="));
            word.push(value);
            words.push(word);
        }
        let settings = without_environment(definition)
            .try_get_matches_from(words)
            .and_then(|matches| Self::from_arg_matches(&matches));
        // All are optional texts that were checked above, so clap refuses none.
        problems.end(settings.unwrap_or_default())
    }
}

fn flag_value(flags: &ArgMatches, id: &str) -> Option<OsString> {
    if flags.value_source(id) != Some(ValueSource::CommandLine) {
        return None;
    }
    flags.get_raw(id)?.next_back().map(OsStr::to_owned).filter(is_something)
}

fn is_something(value: &OsString) -> bool {
    value.to_str().is_none_or(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::unknown::setting_names;

    fn gathered(words: &[&str], environment: &[(&str, &str)]) -> Settings {
        let command = Settings::augment_args(Command::new("usher"));
        let command = without_environment(command);
        let flags = command
            .try_get_matches_from(std::iter::once(&"usher").chain(words))
            .unwrap();
        let environment = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Settings::gather(&flags, environment, None).unwrap()
    }

    #[test]
    fn whatever_is_empty_is_as_if_it_were_not_there() {
        let names = setting_names();
        for empty in ["", " ", "\t\n"] {
            let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), empty)).collect();
            let settings = gathered(&[], &all);
            assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
        }
        let settings = gathered(&["--app-name=", "--mail-from", ""], &[("APP_NAME", "Acme")]);
        assert_eq!(settings.app_name.as_deref(), Some("Acme"));
        assert_eq!(settings.mail_from, None);
    }

    #[test]
    fn a_flag_counts_more_than_the_environment_and_every_setting_has_both() {
        for name in setting_names() {
            let flag = format!("--{}=of-a-flag", name.to_lowercase().replace('_', "-"));
            let by_flag = format!("{:?}", gathered(&[&flag], &[(&name, "of-the-environment")]));
            let by_environment = format!("{:?}", gathered(&[], &[(&name, "of-the-environment")]));
            for shown in [&by_flag, &by_environment] {
                assert_ne!(*shown, format!("{:?}", Settings::default()), "{name}");
            }
            assert!(!by_flag.contains("of-the-environment"), "{name}: {by_flag}");
        }
    }

    #[test]
    fn a_value_that_is_no_text_is_named() {
        use std::os::unix::ffi::OsStringExt as _;
        let command = Settings::augment_args(Command::new("usher"));
        let flags = without_environment(command).try_get_matches_from(["usher"]).unwrap();
        let environment = |name: &str| (name == "APP_NAME").then(|| OsString::from_vec(vec![0xff]));
        let errors = Settings::gather(&flags, environment, None).unwrap_err();
        assert_eq!(errors.to_string(), "APP_NAME is not UTF-8 text");
    }
}
