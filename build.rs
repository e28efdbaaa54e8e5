//! Names the commit that is built, and its day, for `usher --version` and the board. A source without git has none: then
//! it is the version alone, or what `USHER_BUILD` says, which the container's build passes on.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=USHER_BUILD");
    let version = env!("CARGO_PKG_VERSION");
    let version = match given().or_else(of_git) {
        Some(build) => format!("{version} ({build})"),
        None => version.to_owned(),
    };
    println!("cargo:rustc-env=USHER_VERSION={version}");
}

fn given() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a build has no settings but these variables")]
    let given = std::env::var("USHER_BUILD").ok()?;
    Some(given.trim().to_owned()).filter(|build| !build.is_empty() && !build.contains('\n'))
}

/// Of this folder's own repository: a source inside another one is not of its commit.
fn of_git() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // Each commit and each checkout adds a line to the log.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file])?;
        if Path::new(&path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["log", "-1", "--format=%h %cs"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let ran = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(ran.stdout).ok()?.trim().to_owned();
    (ran.status.success() && !said.is_empty()).then_some(said)
}
