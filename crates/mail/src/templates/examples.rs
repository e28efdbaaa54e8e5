//! The values that a mail's templates are tried with.

use serde_json::Value;

use super::Language;
use crate::messages::{Mail, MailKind};

/// What one mail's templates may say.
#[derive(Clone)]
pub(super) struct MailContext {
    pub(super) subject: Value,
    pub(super) body: Value,
}

impl MailContext {
    pub(super) fn of(mail: &Mail, language: &Language) -> Self {
        Self {
            subject: mail.subject_context(language),
            body: mail.context(language),
        }
    }
}

/// Examples of one mail, as its templates see them.
pub(super) struct Examples {
    pub(super) full: MailContext,
    pub(super) bare: MailContext,
}

impl Examples {
    pub(super) fn of(mail: MailKind, language: &Language) -> Self {
        Self {
            full: MailContext::of(&mail.sample(), language),
            bare: MailContext::of(&mail.bare_sample(), language),
        }
    }

    /// With everything optional, without any of it, and all in between: every branch of a template.
    pub(super) fn combinations(&self) -> Vec<MailContext> {
        let optional = self
            .bare
            .body
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| value.is_null());
        let mut combinations = vec![self.full.clone()];
        for (name, _) in optional {
            let without = combinations.clone().into_iter().map(|mut words| {
                words.subject[name] = Value::Null;
                words.body[name] = Value::Null;
                words
            });
            combinations.extend(without.collect::<Vec<_>>());
        }
        combinations
    }
}
