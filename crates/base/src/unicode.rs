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
mod tests;
