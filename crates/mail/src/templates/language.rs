//! The languages of mails: which one a reader gets, and how it writes roles and times.

use std::{collections::BTreeMap, iter};

use chrono::{DateTime, Datelike, Timelike, Utc};
use serde::Deserialize;

/// One language, as its `locale.json` describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// The language tag (BCP 47): the name of its folder.
    #[serde(skip)]
    pub(crate) tag: String,
    /// The direction of its writing.
    pub(crate) dir: Direction,
    months: [String; 12],
    /// With `{day}`, `{month}`, `{year}`, `{hour}` and `{minute}`.
    date: String,
    /// The first day of a month, where it is not written `1`.
    #[serde(default)]
    first_day: Option<String>,
    /// What roles are called. Others are written as they are.
    roles: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Ltr,
    Rtl,
}

impl Direction {
    /// The value of HTML's `dir`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ltr => "ltr",
            Self::Rtl => "rtl",
        }
    }
}

impl Language {
    /// What a role is called.
    pub fn role<'a>(&'a self, role: &'a str) -> &'a str {
        self.roles.get(role).map_or(role, String::as_str)
    }

    /// A time with its hour and zone: "until 29 November" leaves it open whether that day still counts, and whose.
    pub fn date(&self, time: DateTime<Utc>) -> String {
        let day = match (&self.first_day, time.day()) {
            (Some(first), 1) => first.clone(),
            (_, day) => day.to_string(),
        };
        let month = usize::try_from(time.month0()).ok();
        let month = month.and_then(|month| self.months.get(month));
        self.date
            .replace("{day}", &day)
            .replace("{month}", month.map_or("", String::as_str))
            .replace("{year}", &time.year().to_string())
            .replace("{hour}", &format!("{:02}", time.hour()))
            .replace("{minute}", &format!("{:02}", time.minute()))
    }

    /// Whether a time can be told from what it writes.
    pub(crate) fn writes_whole_dates(&self) -> bool {
        ["{day}", "{month}", "{year}", "{hour}", "{minute}"]
            .iter()
            .all(|part| self.date.contains(part))
    }
}

/// The first language that is there: each wanted one, then what is left of it when its last part is taken off, before
/// the next one. `pt-BR` finds `pt` (RFC 4647, 3.4), in any case.
pub(crate) fn lookup<'a>(wanted: impl IntoIterator<Item = &'a str>, is_there: impl Fn(&str) -> bool) -> Option<String> {
    wanted
        .into_iter()
        .map(str::to_ascii_lowercase)
        .find_map(|tag| ever_broader(&tag).find(|tag| is_there(tag)).map(str::to_owned))
}

/// A language tag, and what it falls back to: `zh-hant-tw`, `zh-hant`, `zh`.
pub(crate) fn ever_broader(tag: &str) -> impl Iterator<Item = &str> {
    iter::successors(Some(tag), |tag| {
        let (mut rest, _) = tag.rsplit_once('-')?;
        // A part of one character, as in `en-x-pirate`, means nothing without its next.
        while let Some((shorter, [_])) = rest.rsplit_once('-').map(|(shorter, last)| (shorter, last.as_bytes())) {
            rest = shorter;
        }
        Some(rest)
    })
}

/// Whether a folder's name is that of a language: `de`, `pt-BR`.
pub(crate) fn is_tag(name: &str) -> bool {
    let mut parts = name.split('-');
    let is_word = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    parts
        .next()
        .is_some_and(|part| matches!(part.len(), 2 | 3) && part.bytes().all(|byte| byte.is_ascii_alphabetic()))
        && parts.all(|part| (1..=8).contains(&part.len()) && is_word(part))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn a_reader_gets_the_first_of_their_languages_that_is_there() {
        let there = ["en", "de", "de-ch", "pt", "zh-hant"];
        let cases: [(&[&str], Option<&str>); 12] = [
            (&["de"], Some("de")),
            (&["de-AT"], Some("de")),
            (&["DE-CH"], Some("de-ch")),
            (&["de-CH-1996"], Some("de-ch")),
            (&["pt-BR"], Some("pt")),
            (&["zh-Hant-TW"], Some("zh-hant")),
            (&["zh-CN"], None),
            (&["nl", "pt-BR", "de"], Some("pt")),
            (&["en-x-pirate"], Some("en")),
            (&["ja", "de-a-b-c"], Some("de")),
            (&["", "-", "e", "../en"], None),
            (&[], None),
        ];
        for (wanted, expected) in cases {
            let found = lookup(wanted.iter().copied(), |tag| there.contains(&tag));
            assert_eq!(found.as_deref(), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_tag_falls_back_part_by_part() {
        let cases = [
            ("de", vec!["de"]),
            ("zh-hant-tw", vec!["zh-hant-tw", "zh-hant", "zh"]),
            ("en-x-pirate", vec!["en-x-pirate", "en"]),
            ("de-a-b-cde", vec!["de-a-b-cde", "de"]),
        ];
        for (tag, expected) in cases {
            assert_eq!(ever_broader(tag).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_folder_is_that_of_a_language_by_its_name() {
        for name in ["de", "fil", "pt-BR", "zh-Hant-TW", "es-419"] {
            assert!(is_tag(name), "{name}");
        }
        for name in [
            "",
            "d",
            "organization_invite",
            "partials",
            "de_CH",
            "de-",
            "de-verylongpart",
            "d1",
        ] {
            assert!(!is_tag(name), "{name}");
        }
    }

    #[test]
    fn each_language_writes_times_and_roles_in_its_own_way() {
        let at = |month, day| Utc.with_ymd_and_hms(2026, month, day, 7, 5, 0).unwrap();
        let cases = [
            ("en", "29 November 2026, 07:05 UTC", "1 March 2026, 07:05 UTC", "owner"),
            (
                "de",
                "29. November 2026, 07:05 Uhr (UTC)",
                "1. März 2026, 07:05 Uhr (UTC)",
                "Eigentümer",
            ),
            (
                "es",
                "29 de noviembre de 2026, 07:05 (UTC)",
                "1 de marzo de 2026, 07:05 (UTC)",
                "propietario",
            ),
            (
                "fr",
                "29 novembre 2026 à 07\u{a0}h\u{a0}05 (UTC)",
                "1er mars 2026 à 07\u{a0}h\u{a0}05 (UTC)",
                "propriétaire",
            ),
            (
                "ja",
                "2026年11月29日 07:05（UTC）",
                "2026年3月1日 07:05（UTC）",
                "オーナー",
            ),
        ];
        for (tag, some_day, first_day, owner) in cases {
            let (_, json) = super::super::sources::EMBEDDED
                .iter()
                .flat_map(|sources| sources.iter())
                .find(|(name, _)| *name == format!("{tag}/locale.json"))
                .unwrap();
            let language: Language = serde_json::from_str(json).unwrap();
            assert_eq!(language.date(at(11, 29)), some_day);
            assert_eq!(language.date(at(3, 1)), first_day);
            assert_eq!((language.role("owner"), language.role("Pilot")), (owner, "Pilot"));
        }
    }
}
