//! What is wrong with the settings: all of it at once, each with what to do.

use std::fmt;

/// A setting that can't be used, named so that the sentence says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    /// The environment variable.
    pub variable: String,
    /// What is wrong with it and what would be right. Never holds the value where that may be a secret.
    pub problem: String,
}

/// All that is missing or wrong; never empty.
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

/// Keeps what is wrong until all has been looked at.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<ConfigError>);

impl Problems {
    /// The value; where it is wrong, that is noted, and `unused` takes its place until [`Problems::end`].
    pub(super) fn or<T>(&mut self, read: Result<T, ConfigError>, unused: T) -> T {
        read.unwrap_or_else(|error| {
            self.add(error);
            unused
        })
    }

    /// [`Problems::or`], for what has a value that means nothing.
    pub(super) fn or_default<T: Default>(&mut self, read: Result<T, ConfigError>) -> T {
        self.or(read, T::default())
    }

    /// Notes a problem, once.
    pub(super) fn add(&mut self, error: ConfigError) {
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    /// Notes what is wrong, if anything.
    pub(super) fn check(&mut self, looked_at: Result<(), ConfigError>) {
        self.or_default(looked_at);
    }

    /// Whether one of them is this variable's.
    pub(super) fn name(&self, variable: &str) -> bool {
        self.0.iter().any(|error| error.variable == variable)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The result, if nothing was wrong.
    pub(super) fn end<T>(self, result: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            Ok(result)
        } else {
            Err(ConfigErrors(self.0))
        }
    }
}
