//! A short run of the harness on each database, with a plan that never changes.

use std::path::Path;
use std::process::Command;

/// Long enough for a few faults. The seeds' plans begin with the gravest ones; `--plan` shows them.
const MINUTES: &str = "0.5";

fn run(database: &str, seed: &str) {
    let chaos = Path::new(env!("CARGO_BIN_EXE_chaos"));
    let usher = chaos.with_file_name("usher");
    assert!(
        usher.is_file(),
        "{} is missing; build it with: cargo build --bin usher",
        usher.display()
    );
    let run = Command::new(chaos)
        .args([
            "--database",
            database,
            "--minutes",
            MINUTES,
            "--seed",
            seed,
            "--program",
        ])
        .arg(usher)
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}\n{complained}");
}

#[test]
fn usher_keeps_its_word_on_sqlite() {
    run("sqlite", "111");
}

#[test]
fn usher_keeps_its_word_on_postgres() {
    run("postgres", "176");
}
