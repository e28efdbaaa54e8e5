//! Writes the style sheet into the templates' `style` attributes, once when they are loaded: many mail programs ignore
//! everything else, and doing it for each mail would cost more than all the rest of a mail.

use std::fmt::Write as _;

use css_inline::CSSInliner;

/// Characters for private use: they stand for a template's expressions while its markup is parsed, and have no meaning
/// in HTML wherever that may be.
const OPEN: char = '\u{e000}';
const CLOSE: char = '\u{e001}';

/// Why a template can't be given its style.
#[derive(Debug)]
pub(crate) struct StyleError {
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) reason: String,
}

/// The template with its style written into it.
pub(crate) fn inlined(template: &str, css: &str) -> Result<String, StyleError> {
    let wrong = |offset: usize, reason: &str| StyleError {
        line: template[..offset].matches('\n').count() + 1,
        reason: reason.to_owned(),
    };
    if let Some(offset) = template.find([OPEN, CLOSE]) {
        return Err(wrong(offset, "U+E000 and U+E001 can't be used"));
    }
    let expressions = expressions(template);
    let mut marked = String::with_capacity(template.len());
    let mut end = 0;
    for (number, (offset, expression)) in expressions.iter().enumerate() {
        marked.push_str(&template[end..*offset]);
        // Into a String: can't fail.
        let _ = write!(marked, "{OPEN}{number}{CLOSE}");
        end = offset + expression.len();
    }
    marked.push_str(&template[end..]);

    let mut styled = styled(&marked, css).map_err(|reason| wrong(0, &reason))?;

    // A parser of HTML moves what it finds in the wrong place and closes what it finds open, which must not happen to
    // the branches of a template.
    let (given, parsed) = (outline(&marked), outline(&styled));
    if let Some(at) = (0..given.len().max(parsed.len())).find(|&at| given.get(at) != parsed.get(at)) {
        let before = given[..at].iter().rev().find_map(|item| match item {
            Item::Expression(number) => expressions.get(*number),
            Item::Tag(_) => None,
        });
        let (offset, after) = before.map_or((0, String::new()), |(offset, expression)| {
            (*offset, format!(" somewhere after {expression}"))
        });
        let reason = format!(
            "the HTML is not well-formed{after}: close every tag, within the branch that opens it, and put no expression \
             between the parts of a table or the attributes of a tag"
        );
        return Err(wrong(offset, &reason));
    }
    for (number, (offset, expression)) in expressions.iter().enumerate() {
        let mark = format!("{OPEN}{number}{CLOSE}");
        if styled.contains(&format!("{mark}=\"\"")) {
            let reason = format!("{expression} can't stand between the attributes of a tag, only in their values");
            return Err(wrong(*offset, &reason));
        }
        styled = styled.replacen(&mark, expression, 1);
    }
    Ok(styled)
}

/// What a template is made of.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    /// The name of a tag, with a slash where it closes.
    Tag(String),
    /// The number of an expression.
    Expression(usize),
}

/// The tags and expressions of a marked template in their order, without those that every parser adds.
fn outline(marked: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut rest = marked;
    while let Some(start) = rest.find(['<', OPEN]) {
        let (is_tag, after) = match rest[start..].strip_prefix('<') {
            Some(after) => (true, after),
            None => (false, &rest[start + OPEN.len_utf8()..]),
        };
        rest = after;
        if !is_tag {
            let digits = after.split(CLOSE).next().and_then(|digits| digits.parse().ok());
            items.extend(digits.map(Item::Expression));
        } else if let Some(comment) = after.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, rest)| rest);
        } else {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '/';
            let name = after
                .split(|c| !is_name(c))
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            let name = name.trim_end_matches('/').to_owned();
            if !name.is_empty() && !matches!(name.trim_start_matches('/'), "tbody") {
                items.push(Item::Tag(name));
            }
        }
    }
    items
}

fn styled(html: &str, css: &str) -> Result<String, String> {
    let is_document = html
        .trim_start()
        .get(..9)
        .is_some_and(|start| start.eq_ignore_ascii_case("<!doctype"));
    let options = CSSInliner::options().load_remote_stylesheets(false);
    let inlined = if is_document {
        // Its own style element is for what can't be an attribute: dark mode, small screens.
        let options = options.inline_style_tags(false).keep_style_tags(true);
        options.extra_css(Some(css.into())).build().inline(html)
    } else {
        options.build().inline_fragment(html, css)
    };
    inlined.map_err(|error| error.to_string())
}

/// The template's expressions, with where they begin.
fn expressions(template: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut offset = 0;
    while let Some(start) = template[offset..].find("{{").map(|start| offset + start) {
        let is_comment = ["{{!--", "{{~!--"]
            .iter()
            .any(|open| template[start..].starts_with(open));
        let close = if is_comment { "--}}" } else { "}}" };
        // Handlebars itself has refused what has no end.
        let Some(end) = template[start..].find(close) else {
            break;
        };
        offset = start + end + close.len();
        found.push((start, &template[start..offset]));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSS: &str = "p { color: red; } .a a { margin: 0 }";

    #[test]
    fn the_style_is_written_into_the_tags_and_nothing_else_changes() {
        let cases = [
            ("<p>{{x}}</p>", r#"<p style="color: red;">{{x}}</p>"#),
            (
                "{{#> layout.html}}\n<p>a</p>\n{{/layout.html}}\n",
                "{{#> layout.html}}\n<p style=\"color: red;\">a</p>\n{{/layout.html}}\n",
            ),
            (
                r#"<div class="a"><a href="{{link}}">{{> @partial-block}}</a></div>"#,
                r#"<div class="a"><a href="{{link}}" style="margin: 0;">{{> @partial-block}}</a></div>"#,
            ),
            ("{{!-- a }} b --}}<b>{{~ x ~}}</b>", "{{!-- a }} b --}}<b>{{~ x ~}}</b>"),
            (
                "<!--[if mso]><table><![endif]-->{{x}}&nbsp;&amp;",
                "<!--[if mso]><table><![endif]-->{{x}}&nbsp;&amp;",
            ),
        ];
        for (template, expected) in cases {
            assert_eq!(inlined(template, CSS).unwrap(), expected);
        }
    }

    #[test]
    fn a_document_keeps_its_own_style_element() {
        let page = "<!doctype html>\n<html lang=\"{{lang}}\"><head><title>{{t}}</title><style>@media print { p { color: blue } }</style></head><body><p>{{x}}</p></body></html>";
        let styled = inlined(page, CSS).unwrap();
        assert!(styled.starts_with("<!DOCTYPE html>"), "{styled}");
        for kept in [
            "lang=\"{{lang}}\"",
            "<title>{{t}}</title>",
            "@media print",
            "<p style=\"color: red;\">{{x}}</p>",
        ] {
            assert!(styled.contains(kept), "{kept} in {styled}");
        }
    }

    #[test]
    fn what_a_parser_would_move_or_close_is_refused_with_its_line() {
        let cases = [
            (
                "<table>\n{{#if a}}<tr><td>x</td></tr>{{/if}}</table>",
                1,
                "not well-formed",
            ),
            (
                "{{a}}\n{{#if a}}\n<p>{{else}}b{{/if}}",
                3,
                "not well-formed somewhere after {{/if}}",
            ),
            ("<p>{{x}}<div>a</div></p>", 1, "not well-formed somewhere after {{x}}"),
            (
                "<p>{{x}}</p>\n\n<p {{y}}>a</p>",
                3,
                "{{y}} can't stand between the attributes",
            ),
            ("<p>\u{e000}</p>", 1, "U+E000"),
        ];
        for (template, line, reason) in cases {
            let error = inlined(template, CSS).unwrap_err();
            assert!(
                error.line == line && error.reason.contains(reason),
                "{template}: {error:?}"
            );
        }
    }
}
