//! Addresses of pages: their filters are in the query, so that they can be sent to a colleague.

use std::collections::HashMap;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use url::form_urlencoded;

use crate::clock::parse_duration;
use crate::names::UnknownName;

/// Characters of a filter.
const MAX_TEXT: usize = 200;

/// What a query or a form says, and what is wrong with it.
#[derive(Default)]
pub(super) struct Asked {
    fields: HashMap<String, String>,
    pub problems: Vec<String>,
}

impl Asked {
    pub(super) fn new(fields: HashMap<String, String>) -> Self {
        Self {
            fields,
            problems: Vec::new(),
        }
    }

    /// A field, unless it is empty: forms send all of theirs.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self
            .fields
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())?;
        if value.chars().count() > MAX_TEXT || value.contains('\0') {
            self.problems
                .push(format!("{name} must have at most {MAX_TEXT} characters"));
            return None;
        }
        Some(value.to_owned())
    }

    /// One of a list of names.
    pub(super) fn name<T>(&mut self, name: &'static str, all: &[T]) -> Option<T>
    where
        T: FromStr<Err = UnknownName> + ToString,
    {
        let parsed = self.text(name)?.parse();
        if parsed.is_err() {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            self.problems.push(format!("{name} must be one of {}", all.join(", ")));
        }
        parsed.ok()
    }

    /// A time: an age such as `36h`, or in full.
    pub(super) fn time(&mut self, name: &'static str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let text = self.text(name)?;
        let full = || DateTime::parse_from_rfc3339(&text).ok().map(|at| at.to_utc());
        let at = parse_duration(&text)
            .and_then(|age| now.checked_sub_signed(age))
            .or_else(full);
        if at.is_none() {
            self.problems.push(format!(
                "{name} must be an age such as 90m, 36h or 7d, or a time such as 2026-01-31T08:00:00Z"
            ));
        }
        at
    }

    /// What is wrong, for a page.
    pub(super) fn all_wrong(&self) -> Option<String> {
        (!self.problems.is_empty()).then(|| self.problems.join("; "))
    }
}

/// The address of a page with these fields; those without a value are left out.
pub(super) fn link(page: &str, fields: &[(&str, Option<&str>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => page.to_owned(),
        query => format!("{page}?{query}"),
    }
}

/// The same with one more field.
pub(super) fn link_with(
    page: &str,
    mut fields: Vec<(&'static str, Option<&str>)>,
    name: &'static str,
    value: &str,
) -> String {
    fields.retain(|(field, _)| *field != name);
    let more: Vec<(&str, Option<&str>)> = fields.into_iter().chain([(name, Some(value))]).collect();
    link(page, &more)
}

/// An id within an address.
pub(super) fn segment(page: &str, id: &str) -> String {
    let id: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
    // In a path a plus is a plus.
    format!("{page}/{}", id.replace('+', "%20"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::JobState;

    #[test]
    fn what_is_wrong_with_a_query_is_named_with_what_is_allowed() {
        let fields = [("state", "asleep"), ("older", "soon"), ("error", " "), ("after", "x")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut asked = Asked::new(HashMap::from(fields));
        assert_eq!(asked.name("state", JobState::ALL), None);
        assert_eq!(asked.time("older", DateTime::UNIX_EPOCH), None);
        assert_eq!((asked.text("error"), asked.text("after")), (None, Some("x".to_owned())));
        let wrong = asked.all_wrong().unwrap();
        assert!(
            wrong.starts_with("state must be one of waiting, scheduled, running, dead, done; older must be"),
            "{wrong}"
        );
    }

    #[test]
    fn addresses_keep_any_text() {
        assert_eq!(
            link("/p", &[("a", Some("x & y")), ("b", None), ("c", Some(""))]),
            "/p?a=x+%26+y"
        );
        assert_eq!(link("/p", &[]), "/p");
        assert_eq!(segment("/p", "a/b c"), "/p/a%2Fb%20c");
    }
}
