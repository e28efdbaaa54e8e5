//! What an app brings along: its memberships, by `usher members import`.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::ensure;
use serde::Serialize;
use tokio::time::Instant;
use usher::clock::Clock;
use usher::store::Store;
use usher_testkit::process;
use uuid::Uuid;

use crate::Bench;
use crate::database::{Database, Kind};

/// Members of each organization.
const MEMBERS: usize = 100;

/// Memberships from a file, of people that Clerk has not reported yet, and the same file again.
#[derive(Serialize)]
pub struct Import {
    pub database: Kind,
    pub memberships: usize,
    /// From the command's start to its end.
    pub seconds: f64,
    pub per_second: f64,
    /// The second time, when nothing is new.
    pub again_per_second: f64,
}

async fn make_organizations(database: &Database, count: usize) -> anyhow::Result<Vec<Uuid>> {
    let store = Store::open(&database.url, Clock::System).await?;
    let mut tx = store.begin().await?;
    let ids: Vec<Uuid> = (0..count).map(|_| tx.new_id()).collect();
    for &id in &ids {
        tx.put_organization(&id.into(), "Acme").await?;
    }
    tx.commit().await?;
    store.close().await;
    Ok(ids)
}

/// Imports so many memberships, and looks whether they are there.
pub async fn measure(bench: &Bench, kind: Kind, memberships: usize) -> anyhow::Result<Import> {
    let database = Database::create(kind, &bench.home).await?;
    let organizations = make_organizations(&database, memberships / MEMBERS + 1).await?;
    let mut text = String::from("organization_id,clerk_user_id,role\n");
    for n in 0..memberships {
        let organization = &organizations[n / MEMBERS];
        writeln!(text, "{organization},user_{n},member")?;
    }
    let file = bench.home.folder.join("members.csv");
    std::fs::write(&file, text)?;
    let run = || -> anyhow::Result<f64> {
        let begun = Instant::now();
        let ran = Command::new(&bench.program)
            .args(["members", "import"])
            .arg(&file)
            .env_clear()
            .envs(process::environment(&database.url, &bench.smtp.url()))
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(ran.success(), "the import failed");
        Ok(begun.elapsed().as_secs_f64())
    };
    let seconds = run()?;
    let connection = database.connect().await?;
    let members = connection.count("organization_users where deleted_at is null").await?;
    ensure!(members == memberships, "{members} of {memberships} are members");
    let again = run()?;
    std::fs::remove_file(&file)?;
    database.remove().await?;
    Ok(Import {
        database: kind,
        memberships,
        seconds,
        per_second: memberships as f64 / seconds,
        again_per_second: memberships as f64 / again,
    })
}
