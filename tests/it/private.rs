//! Files with data, links or secrets are their owner's alone, whatever the umask says.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Everything below a folder, with its mode.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // A file that is about to be renamed may be gone.
        let Ok(about) = path.metadata() else { continue };
        found.push((path.clone(), about.permissions().mode() & 0o777));
        if about.is_dir() {
            found.extend(modes(&path));
        }
    }
    found
}

#[track_caller]
fn are_private(folder: &Path) {
    for (path, mode) in modes(folder) {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{} has {mode:o}", path.display());
    }
}

/// `usher serve` as development has it, under the umask that most have.
async fn serve(folder: &Path) -> (Child, String) {
    let mut child = Command::new("sh")
        .args(["-c", "umask 022; exec \"$0\" serve", env!("CARGO_BIN_EXE_usher")])
        .env_clear()
        .env("USHER_LISTEN", "127.0.0.1:0")
        .env("USHER_ADMIN_LISTEN", "127.0.0.1:0")
        .env("PATH", "/usr/bin:/bin")
        .current_dir(folder)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("it serves");
        if let Some((_, address)) = line.split_once("serving on ") {
            let address = address.split_whitespace().next().unwrap().to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (child, address);
        }
    }
}

#[tokio::test]
async fn security_24_what_usher_writes_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_child, address) = serve(folder.path()).await;
    let var = folder.path().join("var");
    are_private(folder.path());
    let secrets: serde_json::Value =
        serde_json::from_slice(&std::fs::read(var.join("dev-secrets.json")).unwrap()).unwrap();
    let http = reqwest::Client::new();
    let call = |request: reqwest::RequestBuilder| request.bearer_auth(secrets["api_key"].as_str().unwrap());
    let id = "11111111-1111-4111-8111-111111111111";
    let organization = http
        .put(format!("{address}/v1/organizations/{id}"))
        .json(&json!({ "name": "Acme" }));
    assert_eq!(call(organization).send().await.unwrap().status(), 201);
    let invite = json!({ "organization_id": id, "email": "ada@example.com", "role": "member" });
    let invite = http.post(format!("{address}/v1/invites")).json(&invite);
    assert_eq!(call(invite).send().await.unwrap().status(), 201);
    let outbox = var.join("outbox");
    crate::support::process::eventually("the mail is written", async || {
        let files = std::fs::read_dir(&outbox).into_iter().flatten().flatten();
        files
            .map(|file| file.path())
            .any(|path| path.extension().is_some_and(|extension| extension == "eml"))
    })
    .await;
    are_private(folder.path());
    let names: Vec<String> = modes(&var).iter().map(|(path, _)| path.display().to_string()).collect();
    for end in [
        "/usher.db",
        "/usher.db-wal",
        "/usher.db-shm",
        "/dev-secrets.json",
        "/outbox",
        ".eml",
    ] {
        assert!(names.iter().any(|name| name.ends_with(end)), "no {end} in {names:#?}");
    }
}

#[tokio::test]
async fn a_database_in_a_folder_of_its_own_is_private_with_the_folder_and_one_that_is_open_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/data/usher.db");
    let migrate = || {
        std::process::Command::new("sh")
            .args(["-c", "umask 000; exec \"$0\" migrate", env!("CARGO_BIN_EXE_usher")])
            .env_clear()
            .env("USHER_ENV", "development")
            .env("USHER_DATABASE_URL", format!("sqlite://{}", file.display()))
            .current_dir(folder.path())
            .output()
            .unwrap()
    };
    let first = migrate();
    assert!(first.status.success(), "{first:?}");
    are_private(folder.path());
    assert!(
        !String::from_utf8_lossy(&first.stderr).contains("everybody"),
        "{first:?}"
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let second = migrate();
    assert!(second.status.success(), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        said.contains("readable by every user") && said.contains("chmod 600"),
        "{said}"
    );
}
