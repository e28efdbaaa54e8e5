//! What the documentation says is done here: its commands are run as they stand.

use std::path::Path;
use std::process::Command;

use crate::cli::Machine;

/// A fenced block of a Markdown text.
struct Block<'a> {
    language: &'a str,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block {
                language,
                text: text.join("\n"),
            });
        }
    }
    blocks
}

/// Whether `said` is as `told`, in which `…` stands for anything within a line.
fn is_as_told(told: &str, said: &str) -> bool {
    let (told, said): (Vec<&str>, Vec<&str>) = (told.trim().lines().collect(), said.trim().lines().collect());
    told.len() == said.len()
        && told
            .iter()
            .zip(said)
            .all(|(told, said)| is_line_as_told(told, said.trim_end()))
}

fn is_line_as_told(told: &str, said: &str) -> bool {
    let mut pieces = told.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| said.strip_prefix(first)) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn the_commands_of_the_api_guide_run_as_they_stand_and_print_what_it_says() {
    let curl = Command::new("curl").arg("--version").output();
    assert!(
        curl.is_ok_and(|ran| ran.status.success()),
        "this test needs curl: apt-get install curl"
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(root.join("docs/api.md")).unwrap();
    let blocks = blocks(&guide);
    const MARK: &str = "=== the next block";
    let script: Vec<String> = blocks
        .iter()
        .filter(|block| block.language == "sh")
        .map(|block| format!("echo '{MARK}'\n{}", block.text))
        .collect();

    let machine = Machine::fresh();
    let usher = machine.serve();
    let folder = Path::new(env!("CARGO_BIN_EXE_usher")).parent().unwrap();
    let ran = Command::new("timeout")
        .args(["300", "bash", "-euo", "pipefail", "-c", &script.join("\n")])
        .current_dir(machine.path(""))
        .env_clear()
        .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display()))
        .env("USHER_LISTEN", usher.url.trim_start_matches("http://"))
        .output()
        .unwrap();
    let (said, complained) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    assert!(ran.status.success(), "{said}\n{complained}");

    let mut said = said.split(MARK).skip(1);
    let mut blocks = blocks.iter().peekable();
    while let Some(block) = blocks.next() {
        if block.language != "sh" {
            continue;
        }
        let said = said.next().expect("what the block printed");
        if let Some(told) = blocks.next_if(|next| next.language == "text") {
            assert!(
                is_as_told(&told.text, said),
                "the guide says\n{}\nbut it prints\n{said}",
                told.text
            );
        }
    }
}

#[test]
fn every_promise_of_the_security_page_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let promises: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| |"))
        .collect();
    assert!(promises.len() >= 24, "{}", promises.len());
    for promise in promises {
        let names: Vec<&str> = promise.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{promise}");
        for name in names {
            let (file, story) = name.split_once("::").expect("file::story");
            let text = std::fs::read_to_string(root.join(format!("tests/it/{file}.rs"))).unwrap();
            assert!(text.contains(&format!("async fn {story}(")), "{name}");
        }
    }
}
