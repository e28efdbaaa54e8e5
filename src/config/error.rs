//! Errors in the settings: all of them at once, each with what to do.

use std::fmt;

/// An invalid setting, with its name and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    pub variable: String,
    /// What is wrong and what would be right. Never contains a value that may be a secret.
    pub problem: String,
}

/// All settings that are missing or wrong. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [only] => write!(f, "{only}"),
            all => {
                write!(f, "{} settings are missing or wrong:", all.len())?;
                all.iter().try_for_each(|error| write!(f, "\n  {error}"))
            }
        }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

pub(super) fn wrong(variable: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        variable: variable.to_owned(),
        problem: problem.into(),
    }
}

/// Collects errors until all settings have been checked.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<ConfigError>);

impl Problems {
    /// The value. If it is invalid, adds the error and returns `unused`, which is dropped at [`Problems::end`].
    pub(super) fn or<T>(&mut self, read: Result<T, ConfigError>, unused: T) -> T {
        read.unwrap_or_else(|error| {
            self.add(error);
            unused
        })
    }

    /// [`Problems::or`] with the default value.
    pub(super) fn or_default<T: Default>(&mut self, read: Result<T, ConfigError>) -> T {
        self.or(read, T::default())
    }

    /// Adds an error, once.
    pub(super) fn add(&mut self, error: ConfigError) {
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    /// Notes what is wrong, if anything.
    pub(super) fn check(&mut self, looked_at: Result<(), ConfigError>) {
        self.or_default(looked_at);
    }

    /// Whether one of them is about this variable.
    pub(super) fn name(&self, variable: &str) -> bool {
        self.0.iter().any(|error| error.variable == variable)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The result, if there was no error.
    pub(super) fn end<T>(self, result: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            Ok(result)
        } else {
            Err(ConfigErrors(self.0))
        }
    }
}
