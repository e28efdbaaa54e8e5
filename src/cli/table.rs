//! Tables that fit a terminal: where the columns need more than its width, the last ones go to a second line of each row.

use unicode_width::UnicodeWidthChar as _;
use unicode_width::UnicodeWidthStr as _;

use super::paint::{STRONG, paint};

/// The width that every terminal has.
const WIDTH: usize = 80;
const GAP: usize = 2;
/// How far a row's second line is indented.
const INDENT: usize = 4;

/// Prints a table. Each column is as wide as its longest cell.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) {
    for line in lines(heads, rows) {
        println!("{line}");
    }
}

fn lines<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| fitting(cell)))
        .collect();
    let mut widths = heads.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let parts = parts(&widths);
    let mut lines: Vec<String> = texts(&heads, &widths, &parts);
    lines.iter_mut().for_each(|line| *line = paint(STRONG, &line));
    for row in &rows {
        lines.extend(texts(&row.each_ref().map(String::as_str), &widths, &parts));
    }
    lines
}

/// Which columns are on each line of a row.
fn parts(widths: &[usize]) -> Vec<std::ops::Range<usize>> {
    let (mut parts, mut first, mut used) = (Vec::new(), 0, 0);
    for (column, width) in widths.iter().enumerate() {
        let gap = if column == first { 0 } else { GAP };
        if column > first && used + gap + width > WIDTH {
            parts.push(first..column);
            (first, used) = (column, INDENT + width);
        } else {
            used += gap + width;
        }
    }
    parts.push(first..widths.len());
    parts
}

/// The lines of a row; later ones that are empty are left out.
fn texts(cells: &[&str], widths: &[usize], parts: &[std::ops::Range<usize>]) -> Vec<String> {
    let line = |(number, columns): (usize, &std::ops::Range<usize>)| {
        let mut text = " ".repeat(if number == 0 { 0 } else { INDENT });
        for column in columns.clone() {
            text.push_str(cells[column]);
            let missing = widths[column].saturating_sub(cells[column].width());
            text.push_str(&" ".repeat(missing + GAP));
        }
        text.trim_end().to_owned()
    };
    let lines = parts.iter().enumerate().map(line).enumerate();
    let kept = lines.filter(|(number, line)| *number == 0 || !line.is_empty());
    kept.map(|(_, line)| line).collect()
}

/// A cell as one line that fits, in visible characters: what others call themselves must not steer a terminal.
fn fitting(text: &str) -> String {
    const MOST: usize = WIDTH - INDENT;
    let line = text.lines().next().unwrap_or_default();
    let line: String = line
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if line.width() <= MOST {
        return line;
    }
    let (mut cut, mut used) = (String::new(), 1);
    for character in line.chars() {
        used += character.width().unwrap_or(0);
        if used > MOST {
            break;
        }
        cut.push(character);
    }
    cut + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(line: &str) -> String {
        anstream::adapter::strip_str(line).to_string()
    }

    #[test]
    fn a_table_that_fits_has_one_line_for_each_row() {
        let rows = [["1", "ada"], ["22", ""]].map(|row| row.map(str::to_owned));
        let lines = lines(["ID", "NAME"], &rows);
        let lines: Vec<String> = lines.iter().map(|line| plain(line)).collect();
        assert_eq!(lines, ["ID  NAME", "1   ada", "22"]);
    }

    #[test]
    fn what_does_not_fit_is_on_a_second_line_or_cut_between_characters() {
        let long = "é".repeat(77);
        let rows = [
            ["a".repeat(40), "b".repeat(38), "one\ntwo".to_owned(), long.clone()],
            ["a".to_owned(), "b".to_owned(), String::new(), String::new()],
            [
                "漢".repeat(50),
                "\u{1b}[31mred".to_owned(),
                "c".to_owned(),
                String::new(),
            ],
        ];
        let lines = lines(["A", "B", "C", "D"], &rows);
        let lines: Vec<String> = lines.iter().map(|line| plain(line)).collect();
        assert!(lines.iter().all(|line| line.width() <= WIDTH), "{lines:#?}");
        assert!(lines.contains(&format!("    {}…", "é".repeat(75))), "{lines:#?}");
        assert!(lines.iter().any(|line| line.ends_with("  one")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("\u{fffd}[31mred")), "{lines:#?}");
    }
}
