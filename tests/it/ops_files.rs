//! The files under ops/ fit the service: rules and dashboard ask for what it exports, the compose file passes its settings.

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;
use serde_json::Value;
use usher::cli::Cli;

type Labels = BTreeMap<String, String>;

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Checks every question of the rules and of the dashboard against what a page of `/metrics` has: names, labels and
/// the labels' values; and that each of usher's metrics is asked for.
pub fn rules_and_dashboard_fit(series: &[(&str, &Labels)]) {
    let mut asked = BTreeSet::new();
    for (question, shown_labels) in questions() {
        let mentions = mentions(&question);
        assert!(
            !mentions.is_empty() || question == "up{job=\"usher\"} == 0",
            "{question}"
        );
        let grouped = grouped(&question);
        for mention in &mentions {
            let of_it: Vec<&Labels> = series
                .iter()
                .filter_map(|(name, labels)| (*name == mention.name).then_some(*labels))
                .collect();
            assert!(!of_it.is_empty(), "{question}: there is no {}", mention.name);
            let has = |matches: &dyn Fn(&Labels) -> bool| of_it.iter().any(|labels| matches(labels));
            for label in grouped.iter().filter(|label| !given_by_prometheus(label)) {
                assert!(
                    has(&|labels| labels.contains_key(*label)),
                    "{question}: {} has no {label}",
                    mention.name
                );
            }
            for (label, pattern) in mention.matchers.iter().filter(|(label, _)| !given_by_prometheus(label)) {
                for value in pattern.split('|') {
                    let fits = |has: &String| match value.strip_suffix(".*") {
                        Some(beginning) => has.starts_with(beginning),
                        None => has == value,
                    };
                    assert!(
                        has(&|labels| labels.get(*label).is_some_and(fits)),
                        "{question}: no {} has {label}={value:?}",
                        mention.name
                    );
                }
            }
            asked.insert(mention.name.trim_end_matches("_bucket").to_owned());
        }
        for label in shown_labels {
            let is_left = grouped.contains(label.as_str()) || (grouped.is_empty() && given_by_prometheus(&label));
            assert!(is_left, "{question}: {label} is shown, but is not in the answer");
        }
    }
    let parts = ["_bucket", "_sum", "_count"];
    for (name, _) in series.iter().filter(|(name, _)| name.starts_with("usher_")) {
        let whole = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(
            asked.contains(whole),
            "neither a rule nor the dashboard asks for {whole}"
        );
    }
}

/// The PromQL in the rules and on the dashboard, each with the labels that its answer is shown with.
fn questions() -> Vec<(String, BTreeSet<String>)> {
    let mut questions = Vec::new();
    let rules = read("ops/prometheus/alerts.yml");
    for rule in rules.split("- alert: ").skip(1) {
        let (_, question) = rule.split_once("expr: ").unwrap();
        let labels = rule.split("$labels.").skip(1).map(|text| word(text).to_owned());
        questions.push((question.lines().next().unwrap().to_owned(), labels.collect()));
    }
    let dashboard: Value = serde_json::from_str(&read("ops/grafana/usher.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        let labels = legend.split("{{").skip(1).map(|text| word(text).to_owned());
        questions.push((target["expr"].as_str().unwrap().to_owned(), labels.collect()));
    }
    assert!(questions.len() > 30, "{questions:?}");
    questions
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_lowercase() || c == '_'
}

/// The word that a text begins with.
fn word(text: &str) -> &str {
    text.split(|c| !is_of_a_word(c)).next().unwrap_or_default()
}

/// Labels that the scrape adds.
fn given_by_prometheus(label: &str) -> bool {
    ["instance", "job"].contains(&label)
}

/// One of usher's metrics in a question.
struct Mention<'a> {
    name: &'a str,
    /// The labels that are asked for, with the value or the pattern.
    matchers: Vec<(&'a str, &'a str)>,
}

fn mentions(question: &str) -> Vec<Mention<'_>> {
    let mut mentions = Vec::new();
    for (at, _) in question.match_indices(is_of_a_word) {
        let name = word(&question[at..]);
        let is_inside = question[..at].ends_with(is_of_a_word);
        if is_inside || !(name.starts_with("usher_") || name.starts_with("process_")) {
            continue;
        }
        let selector = question[at + name.len()..]
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'))
            .map_or("", |(selector, _)| selector);
        let matchers = selector
            .split(',')
            .filter(|matcher| !matcher.is_empty())
            .map(|matcher| {
                let (label, pattern) = matcher.split_once('=').expect("label=\"value\" or label=~\"pattern\"");
                (label.trim(), pattern.trim_start_matches('~').trim_matches('"'))
            });
        let matchers = matchers.collect();
        mentions.push(Mention { name, matchers });
    }
    mentions
}

/// The labels that a question groups by.
fn grouped(question: &str) -> BTreeSet<&str> {
    let groups = question.split("by (").skip(1);
    groups
        .flat_map(|rest| rest.split_once(')').unwrap().0.split(','))
        .map(str::trim)
        .collect()
}

#[test]
fn the_compose_file_passes_every_setting_and_insists_on_what_production_needs() {
    let compose = read("ops/compose.yaml");
    let (_, service) = compose.split_once("\n  usher:\n").unwrap();
    let (_, environment) = service.split_once("\n    environment:\n").unwrap();
    let passed: BTreeMap<&str, &str> = environment
        .lines()
        .take_while(|line| line.starts_with("      "))
        .filter(|line| !line.trim_start().starts_with('#'))
        .map(|line| line.trim().split_once(':').unwrap())
        .collect();

    // Old names of others, and the addresses that the image sets.
    let apart = [
        "DATABASE_URL",
        "CLERK_WEBHOOK_SECRET",
        "USHER_LISTEN",
        "USHER_ADMIN_LISTEN",
    ];
    let command = Cli::command();
    let settings = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str());
    let settings: BTreeSet<&str> = settings.filter(|setting| !apart.contains(setting)).collect();
    let names: BTreeSet<&str> = passed.keys().copied().filter(|name| *name != "PGPASSWORD").collect();
    assert_eq!(names, settings);

    for name in [
        "CLERK_WEBHOOK_SIGNING_SECRET",
        "USHER_API_KEYS",
        "USHER_TOKEN_KEY",
        "SMTP_URL",
        "MAIL_FROM",
        "USHER_PUBLIC_URL",
    ] {
        assert!(passed[name].trim().starts_with(&format!("${{{name}:?")), "{name}");
    }
    assert_eq!(passed["USHER_ENV"].trim(), "production");
}
