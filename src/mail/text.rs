//! Words that other people chose, made harmless before a mail repeats them.
//!
//! Names and messages come from strangers. Control characters end headers and SMTP commands, line separators break
//! lines where nobody expects one, and bidi overrides make the rest of a sentence read backwards. None of them has a
//! use in a name, so they go when the value is made and no template or transport has to think of them again.

use std::fmt;

use serde::Serialize;

/// Longer names are cut: they would push the rest of the mail out of sight, and a header line must stay below 998 bytes.
const MAX_LINE: usize = 200;

/// Columns: what any reader shows without scrolling, also when it is quoted in an answer.
const MAX_WIDTH: usize = 74;

/// One line of text: a name, a role, an address, a subject.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OneLine(String);

impl OneLine {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for OneLine {
    fn from(text: &str) -> Self {
        Self(shortened(&cleaned(text), MAX_LINE))
    }
}

impl From<String> for OneLine {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<OneLine> for String {
    fn from(line: OneLine) -> Self {
        line.0
    }
}

impl fmt::Display for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Some lines of text: the inviter's own message. A template walks over them, so that the text part can quote each line
/// and the HTML part can break each one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Lines(Vec<String>);

impl From<&str> for Lines {
    fn from(text: &str) -> Self {
        let mut lines: Vec<String> = text
            .replace("\r\n", "\n")
            .split(breaks_a_line)
            .map(|line| {
                let visible: String = line.chars().filter_map(inline).collect();
                visible.trim_end().to_owned()
            })
            .collect();
        let is_text = |line: &String| !line.trim().is_empty();
        lines.truncate(lines.iter().rposition(is_text).map_or(0, |last| last + 1));
        lines.drain(..lines.iter().position(is_text).unwrap_or(0));
        Self(lines)
    }
}

impl From<String> for Lines {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// The text on one line, without what nobody could see.
pub(super) fn cleaned(text: &str) -> String {
    let visible: String = text.chars().filter_map(inline).collect();
    let words: Vec<&str> = visible.split_whitespace().collect();
    words.join(" ")
}

/// The text with its long lines broken between words; what quotes them, `> `, is repeated. A line with a link in it stays
/// whole: a mail program that finds only half of it would open something else.
pub(super) fn wrapped(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.contains("://") || textwrap::core::display_width(line) <= MAX_WIDTH {
            lines.push(line.into());
        } else {
            let options = textwrap::Options::new(MAX_WIDTH)
                .break_words(false)
                .word_separator(textwrap::WordSeparator::AsciiSpace)
                .word_splitter(textwrap::WordSplitter::NoHyphenation)
                .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit)
                .subsequent_indent(if line.starts_with("> ") { "> " } else { "" });
            lines.extend(textwrap::wrap(line, options));
        }
    }
    let mut wrapped = lines.join("\n");
    wrapped.push('\n');
    wrapped
}

/// At most `max` characters of the text; where it is cut, an ellipsis says so.
pub(super) fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => {
            let kept: String = text.chars().take(max.saturating_sub(1)).collect();
            format!("{}…", kept.trim_end())
        }
    }
}

/// What is left of a character inside a line: itself, a space, or nothing.
fn inline(character: char) -> Option<char> {
    match character {
        '\t' => Some(' '),
        character if breaks_a_line(character) => Some(' '),
        character if character.is_control() => None,
        // Bidi embeddings, overrides and isolates. The plain marks stay: names in Arabic and Hebrew need them.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        // Invisible, and so only good for telling two equal-looking names apart. The joiners of emoji, Persian and
        // Indic names (U+200C, U+200D) are not among them.
        '\u{200b}' | '\u{2060}' | '\u{feff}' => None,
        character => Some(character),
    }
}

fn breaks_a_line(character: char) -> bool {
    matches!(
        character,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_keeps_what_is_read_and_drops_what_is_not() {
        let cases = [
            ("Ada Lovelace", "Ada Lovelace"),
            ("  Ada \t Lovelace ", "Ada Lovelace"),
            ("Zoë & 山田 <b>", "Zoë & 山田 <b>"),
            ("Eve\r\nBcc: all@example.com", "Eve Bcc: all@example.com"),
            ("Eve\u{2028}Mallory\u{2029}", "Eve Mallory"),
            ("E\0v\u{7f}e\u{9f}\u{1b}[31m", "Eve[31m"),
            ("x\u{85}y", "x y"),
            ("evil\u{202e}gpj.exe", "evilgpj.exe"),
            ("\u{2066}a\u{2069}\u{200b}\u{feff}b", "ab"),
            ("👩\u{200d}🚀", "👩\u{200d}🚀"),
            ("\r\n\0", ""),
        ];
        for (given, expected) in cases {
            assert_eq!(OneLine::from(given).as_str(), expected, "{given:?}");
        }
    }

    #[test]
    fn a_very_long_name_is_cut() {
        let line = OneLine::from("é".repeat(10_000));
        assert_eq!(line.as_str().chars().count(), MAX_LINE);
        assert!(line.as_str().ends_with('…'));
        assert_eq!(shortened("four", 4), "four");
        assert_eq!(shortened("five5", 4), "fiv…");
    }

    #[test]
    fn lines_break_where_any_reader_would_break_them() {
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            (" \r\n\0\n ", &[]),
            ("one", &["one"]),
            ("\n\none\r\n\r\ntwo\n", &["one", "", "two"]),
            ("a\rb\u{2028}c\u{85}d", &["a", "b", "c", "d"]),
            ("  indented\tso ", &["  indented so"]),
            ("a\0\u{202e}b", &["ab"]),
        ];
        for (given, expected) in cases {
            assert_eq!(Lines::from(given).0, expected, "{given:?}");
        }
    }
}
