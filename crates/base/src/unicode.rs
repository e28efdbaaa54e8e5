//! What people see of a text. Whoever writes a name with letters that nobody sees has no name.
//!
//! By Unicode's own properties (ICU4X, which checks domains already), and not by a list of what was met so far; only the
//! blanks that Unicode counts among letters and symbols have to be listed.

use icu_properties::props::{BinaryProperty as _, DefaultIgnorableCodePoint, EnumeratedProperty as _, GeneralCategory};
use icu_properties::props::{GraphemeExtend, WhiteSpace};

/// Letters and symbols that are drawn as nothing: a Braille pattern without dots, Egyptian blanks, a note without a head,
/// the stand-in for an object.
const BLANKS: [char; 5] = ['\u{2800}', '\u{13441}', '\u{13442}', '\u{1d159}', '\u{fffc}'];

/// Whether a character is drawn as nothing and changes at most what stands beside it: joiners, fillers, selectors, tags.
pub fn is_ignorable(character: char) -> bool {
    DefaultIgnorableCodePoint::for_char(character)
}

/// Whether a character belongs to the one before it: cutting between the two would leave something else.
pub fn continues(character: char) -> bool {
    GraphemeExtend::for_char(character)
        || is_ignorable(character)
        || matches!(GeneralCategory::for_char(character), GeneralCategory::SpacingMark)
        // Skin tones.
        || matches!(character, '\u{1f3fb}'..='\u{1f3ff}')
}

/// Whether a character shows something by itself.
fn is_visible(character: char) -> bool {
    use GeneralCategory::{Control, EnclosingMark, Format, NonspacingMark, SpacingMark, Surrogate};
    !is_ignorable(character)
        && !WhiteSpace::for_char(character)
        && !BLANKS.contains(&character)
        && !matches!(
            GeneralCategory::for_char(character),
            Control | Format | Surrogate | NonspacingMark | SpacingMark | EnclosingMark
        )
}

/// Whether a text shows anything.
#[must_use]
pub fn has_visible(text: &str) -> bool {
    text.chars().any(is_visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_letters_that_nobody_sees_shows_nothing() {
        for character in [
            ' ',
            '\u{a0}',
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{1160}',
            '\u{1680}',
            '\u{17b4}',
            '\u{17b5}',
            '\u{180b}',
            '\u{180c}',
            '\u{180d}',
            '\u{180e}',
            '\u{180f}',
            '\u{2000}',
            '\u{200a}',
            '\u{200b}',
            '\u{200c}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{202f}',
            '\u{205f}',
            '\u{2060}',
            '\u{2061}',
            '\u{2064}',
            '\u{2065}',
            '\u{2066}',
            '\u{206f}',
            '\u{2800}',
            '\u{3000}',
            '\u{3164}',
            '\u{fe00}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{fff0}',
            '\u{fff9}',
            '\u{fffc}',
            '\u{13441}',
            '\u{16fe4}',
            '\u{1bca0}',
            '\u{1d159}',
            '\u{1d173}',
            '\u{e0000}',
            '\u{e0001}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{e0100}',
            '\u{e01ef}',
            '\u{e0fff}',
            '\u{301}',
            '\u{20dd}',
            '\0',
            '\n',
            '\u{7f}',
            '\u{85}',
        ] {
            assert!(!has_visible(&character.to_string()), "{:x}", u32::from(character));
            assert!(has_visible(&format!("{character}a{character}")));
        }
        assert!(!has_visible(""));
        for text in [
            "a",
            "Zoë",
            "山田",
            "اسم",
            "שם",
            "หนู",
            "नाम",
            "👩\u{200d}🚀",
            "⠁",
            "ㅤ가",
            ".",
            "½",
            "\u{e000}",
        ] {
            assert!(has_visible(text), "{text}");
        }
    }
}
