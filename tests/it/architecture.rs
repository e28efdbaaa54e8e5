//! What docs/architecture.md says of the rooms is what the imports say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The modules of each line of the page's first block, the highest first.
fn layers() -> Vec<Vec<String>> {
    let page = read(&root().join("docs/architecture.md"));
    let lines = page.lines().skip_while(|line| !line.starts_with("    main"));
    let block = lines.take_while(|line| line.starts_with("    "));
    block
        .map(|line| line.trim().split(" · ").map(str::to_owned).collect())
        .collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The module of the service that a file belongs to.
fn module_of(file: &Path) -> String {
    let path = file.strip_prefix(root().join("src")).unwrap();
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules that a text names after `crate::`, comments and tests apart.
fn imports(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let is_name = |c: &char| c.is_ascii_lowercase() || *c == '_';
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
            None => vec![rest],
        };
        let name = |text: &str| text.trim().chars().take_while(is_name).collect::<String>();
        found.extend(names.into_iter().map(name).filter(|name| !name.is_empty()));
    }
    found
}

#[test]
fn a_room_uses_only_those_below_it() {
    let layers = layers();
    assert!(layers.len() > 5, "{layers:?}");
    let depth: HashMap<&str, usize> = layers
        .iter()
        .enumerate()
        .flat_map(|(depth, modules)| modules.iter().map(move |module| (module.as_str(), depth)))
        .collect();
    let mut wrong = Vec::new();
    for file in sources(&root().join("src")) {
        let module = module_of(&file);
        if file.ends_with("tests.rs") {
            continue;
        }
        // It only declares the others.
        if module == "lib" {
            continue;
        }
        let Some(&from) = depth.get(module.as_str()) else {
            wrong.push(format!("the page does not name {module}"));
            continue;
        };
        for import in imports(&read(&file)) {
            match depth.get(import.as_str()) {
                _ if import == module => {}
                Some(&to) if to > from => {}
                Some(_) => wrong.push(format!("{} uses {import}", file.display())),
                // A macro or a type of the crate's own.
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_leaves_use_nothing_of_the_service_no_sqlx_and_no_axum() {
    for leaf in ["base", "clerk", "mail"] {
        let manifest = read(&root().join(format!("crates/{leaf}/Cargo.toml")));
        let dependencies = manifest.split("[dependencies]").nth(1).expect("dependencies");
        for line in dependencies.lines() {
            let name = line.split(['.', ' ']).next().unwrap_or_default();
            assert!(!["usher", "sqlx", "axum"].contains(&name), "{leaf} uses {name}");
        }
    }
}

#[test]
fn imports_are_read_in_any_form() {
    let text = "use crate::store::{Store, Tx};\nuse crate::{api, ops::Scrape};\n// crate::cli\n#[cfg(test)]\nmod tests { use crate::worker; }";
    assert_eq!(imports(text), ["store", "api", "ops"]);
}
