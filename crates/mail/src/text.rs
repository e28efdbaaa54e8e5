//! MailContext that other people chose, made harmless before a mail repeats them.
//!
//! Names and messages come from strangers. Control characters end headers and SMTP commands, line separators break
//! lines where nobody expects one, and bidi overrides make the rest of a sentence read backwards. None of them has a
//! use in a name, so they go when the value is made and no template or transport has to think of them again.
//!
//! A name is no place for an address or a link either. Mail programs make links of whatever looks like one, so a [`Name`]
//! is written in a way that none of them takes for one: with a space where the address would go on.

use std::fmt;

use serde::Serialize;

use usher_base::unicode::{continues, has_visible, is_ignorable};

/// Longer names are cut: they would push the rest of the mail out of sight, and a header line must stay below 998 bytes.
const MAX_LINE: usize = 200;

/// Characters of a name in a subject: what an inbox shows must still be usher's own sentence.
const MAX_IN_SUBJECT: usize = 60;

/// What stands in a subject in the place of an address or a link.
const CUT: &str = "…";

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

/// What a person, an organization or a project calls itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Name {
    in_body: String,
    in_subject: String,
}

impl Name {
    /// As bodies have it: nothing in it becomes a link.
    pub fn in_body(&self) -> &str {
        &self.in_body
    }

    /// As subjects have it: at most 60 characters, and `…` in the place of addresses and links.
    pub fn in_subject(&self) -> &str {
        &self.in_subject
    }

    /// Whether a subject has anything of it to show.
    pub(crate) fn is_told_in_subject(&self) -> bool {
        has_visible(&self.in_subject) && self.in_subject != CUT
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        let text = cleaned(text);
        Self {
            in_body: shortened(&unlinked(&text), MAX_LINE),
            in_subject: shortened(&without_links(&text), MAX_IN_SUBJECT),
        }
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.in_body)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.in_body, f)
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
pub(crate) fn cleaned(text: &str) -> String {
    let inline: Vec<char> = text.chars().filter_map(inline).collect();
    let visible = without_hidden(&inline);
    let words: Vec<&str> = visible.split_whitespace().collect();
    words.join(" ")
}

/// The text without letters that are drawn as nothing, but for those that change how others are drawn: the joiners of
/// emoji, Persian and Indic names, the selectors of Han, Mongolian and emoji, the letters of a flag.
fn without_hidden(text: &[char]) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut in_flag = false;
    for (i, &character) in text.iter().enumerate() {
        let last = kept.chars().next_back();
        let next = text.get(i + 1).copied();
        in_flag = character == '\u{1f3f4}' || (in_flag && matches!(character, '\u{e0020}'..='\u{e007f}'));
        // Beside ASCII they only tell two equal-looking names apart, or hide an address.
        let is_drawn = |c: Option<char>| c.is_some_and(|c| !c.is_ascii() && !c.is_whitespace() && !is_dot(c));
        let is_kept = match character {
            '\u{200c}' | '\u{200d}' => is_drawn(last) && is_drawn(next),
            '\u{fe0f}' if matches!(last, Some('0'..='9' | '#' | '*')) => next == Some('\u{20e3}'),
            '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}' => {
                is_drawn(last)
            }
            '\u{e0020}'..='\u{e007f}' => in_flag,
            // The plain marks of direction: names in Arabic and Hebrew need them.
            '\u{200e}' | '\u{200f}' | '\u{61c}' => is_drawn(last) || is_drawn(next),
            character => !is_ignorable(character),
        };
        if is_kept {
            kept.push(character);
        }
    }
    kept
}

/// The text as no mail program makes a link of any part of it: a space stands after the dots within a word, after the
/// colon of a scheme, and around an `@`. A space is what all of them end an address at, it reads well (“Node. js”,
/// “e. V.”), and unlike a letter of no width it is no sign of something hidden, which filters look for.
fn unlinked(text: &str) -> String {
    let words: Vec<String> = text.split(' ').map(unlinked_word).collect();
    words.join(" ")
}

fn unlinked_word(word: &str) -> String {
    let characters: Vec<char> = word.chars().collect();
    // A number has one or two; more are an address of the internet.
    let dots = characters.iter().filter(|&&c| is_dot(c)).count();
    let mut apart = String::with_capacity(word.len());
    for (i, &character) in characters.iter().enumerate() {
        let next = characters.get(i + 1).copied();
        let last = i.checked_sub(1).and_then(|i| characters.get(i)).copied();
        let is_digit = |c: Option<char>| c.is_some_and(char::is_numeric);
        let in_number = is_digit(last) && is_digit(next);
        let goes_on = last.is_some() && next.is_some_and(|next| !is_dot(next));
        match character {
            '@' | '＠' | '﹫' if last.is_some() && next.is_some() => apart.extend([' ', character, ' ']),
            ':' | '：' | '﹕' | '︓' if next.is_some() && is_of_scheme(last) && !in_number => {
                apart.extend([character, ' '])
            }
            dot if is_dot(dot) && goes_on && !(in_number && dots < 3) => apart.extend([dot, ' ']),
            character => apart.push(character),
        }
    }
    apart
}

/// The text as a subject may have it: addresses and links are cut out of it, and what is left makes no link.
fn without_links(text: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        if !is_link(word) {
            words.push(unlinked_word(word));
        } else if words.last().is_none_or(|last| last != CUT) {
            words.push(CUT.to_owned());
        }
    }
    words.join(" ")
}

/// Whether a word holds an address or a link that says what it is. `phish.example` alone does not: so do Node.js and
/// Booking.com.
fn is_link(word: &str) -> bool {
    let characters: Vec<char> = word.chars().collect();
    let is_slash = |c: &char| matches!(c, '/' | '\\' | '／' | '＼' | '⁄' | '∕' | '⧸');
    let has_address = characters
        .windows(3)
        .any(|window| matches!(window, [_, '@' | '＠' | '﹫', _]));
    let has_scheme = characters
        .windows(3)
        .any(|window| matches!(window, [':' | '：' | '﹕' | '︓', a, b] if is_slash(a) && is_slash(b)));
    let lower = word.to_lowercase();
    let lower = lower.trim_start_matches(|c: char| !c.is_alphanumeric());
    let begins_with_one = ["mailto:", "tel:", "sms:", "javascript:", "data:"]
        .iter()
        .any(|scheme| lower.len() > scheme.len() && lower.starts_with(scheme));
    let is_www = lower.strip_prefix("www").is_some_and(|rest| rest.starts_with(is_dot));
    has_address || has_scheme || begins_with_one || is_www
}

/// What names of hosts are told apart by, and what looks like it (UTS 46, 4; the rest are mapped to it by NFKC).
fn is_dot(character: char) -> bool {
    matches!(
        character,
        '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}' | '\u{2024}' | '\u{fe52}' | '\u{2488}'..='\u{249b}'
    )
}

/// Whether a scheme may end with this letter: in `東京：本社` the colon is none's.
fn is_of_scheme(character: Option<char>) -> bool {
    character.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '０'..='９' | 'Ａ'..='Ｚ' | 'ａ'..='ｚ'))
}

/// The text with its long lines broken between words; what quotes them, `> `, is repeated. A line with a link in it stays
/// whole: a mail program that finds only half of it would open something else.
pub(crate) fn wrapped(text: &str) -> String {
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
pub(crate) fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => format!("{}…", beginning(text, max.saturating_sub(1)).trim_end()),
    }
}

/// At most `max` characters of the beginning; what people take for one letter is not cut in two.
fn beginning(text: &str, max: usize) -> &str {
    let characters: Vec<(usize, char)> = text.char_indices().collect();
    let joins = |at: usize| {
        let here = characters.get(at).is_some_and(|&(_, c)| continues(c));
        let before = at.checked_sub(1).and_then(|at| characters.get(at));
        here || before.is_some_and(|&(_, c)| c == '\u{200d}')
    };
    // Nobody's letter has more parts; a heap of marks without end is cut anywhere.
    let cut = (max.saturating_sub(16)..=max)
        .rev()
        .find(|&at| !joins(at))
        .unwrap_or(max);
    let end = characters.get(cut).map_or(text.len(), |&(offset, _)| offset);
    &text[..end]
}

/// What is left of a character inside a line: itself, a space, or nothing.
fn inline(character: char) -> Option<char> {
    match character {
        '\t' => Some(' '),
        character if breaks_a_line(character) => Some(' '),
        character if character.is_control() => None,
        // Bidi embeddings, overrides and isolates. The plain marks stay: names in Arabic and Hebrew need them.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        // Invisible, and so only good for telling two equal-looking names apart.
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
    fn no_part_of_a_name_becomes_a_link_and_names_that_are_none_stay_as_they_are() {
        let cases = [
            ("Ada Lovelace", "Ada Lovelace"),
            ("山田 太郎", "山田 太郎"),
            ("Dr. med. J. R. Müller-Lüdenscheid", "Dr. med. J. R. Müller-Lüdenscheid"),
            ("Acme, Inc.", "Acme, Inc."),
            ("Release 2.0 at 10:30", "Release 2.0 at 10:30"),
            ("東京：本社", "東京：本社"),
            ("Booking.com", "Booking. com"),
            ("Node.js", "Node. js"),
            ("phish.example", "phish. example"),
            ("https://phish.example/login", "https: //phish. example/login"),
            ("HTTPS://PHISH.EXAMPLE", "HTTPS: //PHISH. EXAMPLE"),
            ("see(http://1.2.3.4/x)", "see(http: //1. 2. 3. 4/x)"),
            ("http://localhost:8080", "http: //localhost: 8080"),
            ("www.phish.example", "www. phish. example"),
            ("a@b.c", "a @ b. c"),
            ("mailto:a@b.c", "mailto: a @ b. c"),
            ("tel:+15550199", "tel: +15550199"),
            ("javascript:alert(1)", "javascript: alert(1)"),
            (
                "ｈｔｔｐｓ：／／ｐｈｉｓｈ．ｅｘａｍｐｌｅ",
                "ｈｔｔｐｓ： ／／ｐｈｉｓｈ． ｅｘａｍｐｌｅ",
            ),
            ("phish。example", "phish。 example"),
            ("phish｡example", "phish｡ example"),
            ("phish․example", "phish․ example"),
            ("bücher.example", "bücher. example"),
            ("例え.テスト", "例え. テスト"),
            ("xn--r8jz45g.xn--zckzah", "xn--r8jz45g. xn--zckzah"),
            ("phish\u{200c}.\u{200d}exam\u{ad}ple", "phish. example"),
            (
                "ht\u{200b}tps\u{200e}://phish.exa\u{2060}mple",
                "https: //phish. example",
            ),
            ("phish\r\n.example", "phish .example"),
            ("👩\u{200d}🚀.ws", "👩\u{200d}🚀. ws"),
            ("می\u{200c}خواهم", "می\u{200c}خواهم"),
            (
                "葛\u{e0100}城 ❤\u{fe0f} 1\u{fe0f}\u{20e3}",
                "葛\u{e0100}城 ❤\u{fe0f} 1\u{fe0f}\u{20e3}",
            ),
            ("a\u{e0068}\u{e0069}b", "ab"),
            ("\u{5d0}\u{200f}!", "\u{5d0}\u{200f}!"),
        ];
        for (given, expected) in cases {
            assert_eq!(Name::from(given).in_body(), expected, "{given:?}");
        }
    }

    #[test]
    fn a_subject_has_at_most_sixty_characters_of_a_name_and_no_address_or_link() {
        let cases = [
            ("Ada Lovelace", "Ada Lovelace"),
            (
                "Eve Bcc: all https://phish.example/login Your account",
                "Eve Bcc: all … Your account",
            ),
            ("Eve <eve@phish.example>, www.phish.example", "Eve …"),
            ("Eve https：／／phish.example", "Eve …"),
            ("Eve https:\\\\phish.example", "Eve …"),
            ("Metadata: all of it", "Metadata: all of it"),
            ("Booking.com", "Booking. com"),
            ("ceo@victim.example", "…"),
            ("", ""),
        ];
        for (given, expected) in cases {
            assert_eq!(Name::from(given).in_subject(), expected, "{given:?}");
        }
        for letter in ["w", "é", "e\u{301}", "👩\u{200d}🚀", "👍\u{1f3fd}", "한", "a.", "w "] {
            let subject = Name::from(letter.repeat(1_000)).in_subject().to_owned();
            assert!((45..=MAX_IN_SUBJECT).contains(&subject.chars().count()), "{subject}");
            let kept = subject.strip_suffix('…').unwrap();
            assert!(
                letter.contains(['.', ' ']) || kept.len() % letter.len() == 0,
                "cut between letters: {kept}"
            );
        }
        let heap = Name::from("a".to_owned() + &"\u{301}".repeat(1_000));
        assert_eq!(heap.in_subject().chars().count(), MAX_IN_SUBJECT);
        for name in ["", "…", "https://phish.example a@b.c"] {
            assert!(!Name::from(name).is_told_in_subject(), "{name}");
        }
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
