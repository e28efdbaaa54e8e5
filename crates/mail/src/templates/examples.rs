//! Every mail there is, and the values that its templates are tried with.

use serde_json::Value;

use super::Language;
use crate::messages::{AcceptedNotice, Mail, OrganizationInvite, ProjectInvite, Reminder};

pub(super) type MakeExamples = fn(&Language) -> Examples;

/// Every mail there is, with what makes its examples.
pub(super) const MAILS: [(&str, MakeExamples); 4] = [
    (OrganizationInvite::TEMPLATE, Examples::of::<OrganizationInvite>),
    (ProjectInvite::TEMPLATE, Examples::of::<ProjectInvite>),
    (Reminder::TEMPLATE, Examples::of::<Reminder>),
    (AcceptedNotice::TEMPLATE, Examples::of::<AcceptedNotice>),
];

/// What one mail's templates may say.
#[derive(Clone)]
pub(super) struct MailContext {
    pub(super) subject: Value,
    pub(super) body: Value,
}

impl MailContext {
    pub(super) fn of<M: Mail>(mail: &M, language: &Language) -> Self {
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
    pub(super) is_unsolicited: bool,
}

impl Examples {
    pub(super) fn of<M: Mail>(language: &Language) -> Self {
        Self {
            full: MailContext::of(&M::sample(), language),
            bare: MailContext::of(&M::bare_sample(), language),
            is_unsolicited: M::IS_UNSOLICITED,
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
