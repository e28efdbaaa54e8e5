//! How deep templates may go. handlebars and the parser of HTML go down by recursion, so what is nested without end, or
//! holds itself, would not fail but end the process.

use std::collections::{BTreeMap, BTreeSet};

use super::sources::Sources;

/// Blocks within blocks, an `else if` counted as one more: the templates that ship with usher have 4 at most.
const MAX_BLOCKS: usize = 32;
/// Expressions within an expression.
const MAX_PARENTHESES: usize = 16;
/// Tags of HTML within tags.
const MAX_TAGS: usize = 200;

/// Where something is wrong with a template, and what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooDeep {
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) reason: String,
}

impl TooDeep {
    fn at(text: &str, offset: usize, reason: impl Into<String>) -> Self {
        Self {
            line: text[..offset].matches('\n').count() + 1,
            reason: reason.into(),
        }
    }
}

/// Whether a template's blocks, expressions and tags can be followed.
///
/// # Errors
///
/// The first place that is too deep.
pub(crate) fn check(text: &str, is_html: bool) -> Result<(), TooDeep> {
    let mut blocks: Vec<usize> = Vec::new();
    for Expression { offset, inside } in expressions(text) {
        if parentheses(inside) > MAX_PARENTHESES {
            let reason = format!("more than {MAX_PARENTHESES} expressions within each other");
            return Err(TooDeep::at(text, offset, reason));
        }
        if inside.starts_with(['#', '^']) {
            blocks.push(1);
        } else if inside.starts_with('/') {
            blocks.pop();
        } else if inside.starts_with("else")
            && let Some(chained) = blocks.last_mut()
        {
            *chained += 1;
        }
        if blocks.iter().sum::<usize>() > MAX_BLOCKS {
            let reason = format!("more than {MAX_BLOCKS} blocks within each other");
            return Err(TooDeep::at(text, offset, reason));
        }
    }
    match deep_tag(text).filter(|_| is_html) {
        Some(offset) => Err(TooDeep::at(
            text,
            offset,
            format!("more than {MAX_TAGS} tags within each other"),
        )),
        None => Ok(()),
    }
}

/// The first template that holds itself, directly or by others: its name, and where.
pub(crate) fn that_holds_itself(sources: &Sources) -> Option<(&str, TooDeep)> {
    let mut held: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut places = Vec::new();
    for (file, source) in sources {
        let name = file.strip_suffix(".hbs").unwrap_or(file);
        // A block that is named within a template is a template of its own, wherever it is asked for.
        let mut named: Vec<Option<&str>> = Vec::new();
        for Expression { offset, inside } in expressions(&source.text) {
            let asked = inside.trim_start_matches('#').trim_start();
            if let Some(partial) = asked.strip_prefix('>').map(first_word) {
                for holder in named.iter().flatten().copied().chain([name]) {
                    held.entry(holder).or_default().insert(partial);
                    places.push((file.as_str(), offset, partial, holder));
                }
            }
            if inside.starts_with(['#', '^']) {
                let inline = asked
                    .strip_prefix('*')
                    .map(|inline| inline.trim_start_matches("inline"));
                named.push(inline.map(first_word));
            } else if inside.starts_with('/') {
                named.pop();
            }
        }
    }
    places.into_iter().find_map(|(file, offset, partial, holder)| {
        let text = &sources.get(file)?.text;
        let reason = if partial.starts_with('(') {
            "a partial is named by its name, not by a value".to_owned()
        } else if partial == holder || reaches(&held, partial, holder) {
            format!("{holder} holds itself")
        } else {
            return None;
        };
        Some((file, TooDeep::at(text, offset, reason)))
    })
}

fn reaches<'a>(held: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str, wanted: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(name) = next.pop() {
        for &partial in held.get(name).into_iter().flatten() {
            if partial == wanted {
                return true;
            }
            if seen.insert(partial) {
                next.push(partial);
            }
        }
    }
    false
}

/// What stands between `{{` and `}}`, without the signs that eat white space.
struct Expression<'a> {
    offset: usize,
    inside: &'a str,
}

/// It looks at comments as well, which is the safe way to be wrong.
fn expressions(text: &str) -> impl Iterator<Item = Expression<'_>> {
    text.match_indices("{{").map(|(offset, _)| {
        let rest = &text[offset + 2..];
        let inside = &rest[..rest.find("}}").unwrap_or(rest.len())];
        let inside = inside.trim_start_matches(|c: char| c == '~' || c.is_whitespace());
        Expression { offset, inside }
    })
}

/// The name of a partial, which may stand in quotes or brackets.
fn first_word(text: &str) -> &str {
    let text = text.trim_start();
    if text.starts_with('(') {
        return "(";
    }
    let text = text.trim_start_matches(['"', '\'', '[']);
    let end = text.find(|c: char| c.is_whitespace() || "\"']~".contains(c));
    &text[..end.unwrap_or(text.len())]
}

fn parentheses(inside: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    for byte in inside.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

/// Where more tags are open than may be. Those that need no end count only until the next end.
fn deep_tag(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (offset, _) in text.match_indices('<') {
        let tag = &text[offset + 1..];
        if tag.starts_with('/') {
            open = open.saturating_sub(1);
        } else if tag.starts_with(|c: char| c.is_ascii_alphabetic()) && !is_void(tag) {
            open += 1;
        }
        if open > MAX_TAGS {
            return Some(offset);
        }
    }
    None
}

/// Whether a tag never has an end.
fn is_void(tag: &str) -> bool {
    let end = tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len());
    [
        "area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr",
    ]
    .iter()
    .any(|void| tag[..end].eq_ignore_ascii_case(void))
}

#[cfg(test)]
mod tests {
    use super::super::sources::Source;
    use super::*;

    fn nested(open: &str, close: &str, times: usize) -> String {
        format!("{}x{}", open.repeat(times), close.repeat(times))
    }

    #[test]
    fn templates_are_followed_to_a_depth() {
        for (text, is_fine) in [
            (nested("{{#if a}}", "{{/if}}", MAX_BLOCKS), true),
            (nested("{{#if a}}", "{{/if}}", MAX_BLOCKS + 1), false),
            (nested("{{~ ^if a}}", "{{/if}}", MAX_BLOCKS + 1), false),
            ("{{#if a}}x{{/if}}".repeat(1_000), true),
            (
                format!("{{{{#if a}}}}{}{{{{/if}}}}", "{{else if b}}x".repeat(MAX_BLOCKS)),
                false,
            ),
            (
                format!("{{{{lookup {}}}}}", nested("(lookup ", ")", MAX_PARENTHESES)),
                true,
            ),
            (
                format!("{{{{lookup {}}}}}", nested("(lookup ", ")", MAX_PARENTHESES + 1)),
                false,
            ),
            (nested("<b>", "</b>", MAX_TAGS), true),
            (nested("<b>", "</b>", MAX_TAGS + 1), false),
            ("<br>".repeat(1_000), true),
            ("<p>x</p>".repeat(1_000), true),
        ] {
            assert_eq!(check(&text, true).is_ok(), is_fine, "{text:.60}");
        }
        assert_eq!(
            check("\n\n{{a (((((((((((((((((b}}", false).map_err(|error| error.line),
            Err(3)
        );
        assert!(check(&nested("<b>", "</b>", 1_000), false).is_ok(), "text has no tags");
    }

    #[test]
    fn no_template_holds_itself() {
        for (files, expected) in [
            (
                &[("a.hbs", "{{> b}}"), ("b.hbs", "{{> c}}"), ("c.hbs", "{{> d}}")][..],
                None,
            ),
            (&[("a.hbs", "{{> a}}")], Some("a holds itself")),
            (
                &[("a.hbs", "{{#> \"b\"}}x{{/b}}"), ("b.hbs", "x\n{{~> a}}")],
                Some("a holds itself"),
            ),
            (
                &[
                    ("a.hbs", "{{#> b}}{{#> b}}x{{/b}}{{/b}}"),
                    ("b.hbs", "{{> @partial-block}}"),
                ],
                None,
            ),
            (
                &[
                    ("a.hbs", "{{#*inline \"i\"}}{{> b}}{{/inline}}{{> b}}"),
                    ("b.hbs", "{{> i}}"),
                ],
                Some("i holds itself"),
            ),
            (
                &[("a.hbs", "{{#*inline \"i\"}}x{{/inline}}{{> b}}"), ("b.hbs", "{{> i}}")],
                None,
            ),
            (
                &[("a.hbs", "{{> (lookup this \"x\")}}")],
                Some("a partial is named by its name, not by a value"),
            ),
        ] {
            let sources: Sources = files
                .iter()
                .map(|(name, text)| {
                    let (file, text) = ((*name).to_owned(), (*text).to_owned());
                    ((*name).to_owned(), Source { file, text })
                })
                .collect();
            let found = that_holds_itself(&sources).map(|(_, error)| error.reason);
            assert_eq!(found.as_deref(), expected, "{files:?}");
        }
    }
}
