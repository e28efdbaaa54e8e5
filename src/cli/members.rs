//! `usher members`: lists, sets, removes and imports members, by the rules of the API.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anstream::eprintln;
use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::report;
use crate::flows::{self, MemberRefusal, Removal};
use crate::invites::Target;
use crate::invites::members::{LastOwner, MemberRequest, Membership};
use crate::invites::roles::Roles;
use crate::problem::Code;
use crate::store::{MemberPage, Store, StoreError};

/// Memberships in one transaction.
const BATCH: usize = 500;
/// Wrong lines that are shown; all are counted.
const MAX_SHOWN: usize = 20;
/// Lines after which a log without a progress bar says how far it is.
const SAY_EVERY: u64 = 10_000;

/// List, set, remove or import members of organizations and projects.
#[derive(Debug, clap::Subcommand)]
pub enum Members {
    /// List the members of an organization or a project.
    List {
        #[command(flatten)]
        target: TargetOption,
        /// Only members with this role.
        #[arg(long)]
        role: Option<String>,
        /// The maximum number.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give somebody a role, whatever role they have now.
    Set {
        /// Their Clerk user id.
        clerk_user_id: String,
        #[command(flatten)]
        target: TargetOption,
        /// The role.
        #[arg(long)]
        role: Option<String>,
    },
    /// Remove somebody; from an organization, also from its projects.
    Remove {
        /// Their Clerk user id.
        clerk_user_id: String,
        #[command(flatten)]
        target: TargetOption,
        /// Also remove the last holder of the highest role.
        #[arg(long)]
        force: bool,
    },
    /// Set many members from a file: CSV with a head line, or JSON lines.
    ///
    /// The fields are `organization_id` or `project_id`, `clerk_user_id` and `role`. Equal memberships change nothing: after
    /// an interruption, run it again. Wrong lines are named, the others are imported.
    Import {
        /// The file; `-` for the standard input.
        file: PathBuf,
        /// Check every line against the database, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Into what.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetOption {
    /// The organization.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
    /// The project.
    #[arg(long, value_name = "ID")]
    project: Option<String>,
}

impl TargetOption {
    fn parse(&self) -> anyhow::Result<Target> {
        let given = json!({ "organization_id": self.organization, "project_id": self.project });
        Target::parse(given).map_err(|errors| report::field_errors(&errors, None))
    }
}

impl Members {
    pub(super) async fn run(self, store: Store, roles: &Roles) -> anyhow::Result<()> {
        match self {
            Self::List {
                target,
                role,
                limit,
                json,
            } => list(&store, &target, role.as_deref(), limit, json).await?,
            Self::Set {
                clerk_user_id,
                target,
                role,
            } => set(&store, roles, &clerk_user_id, &target, role.as_deref()).await?,
            Self::Remove {
                clerk_user_id,
                target,
                force,
            } => remove(&store, roles, &clerk_user_id, &target, force).await?,
            Self::Import { file, dry_run } => import(&store, roles, &file, dry_run).await?,
        }
        store.close().await;
        Ok(())
    }
}

async fn list(
    store: &Store,
    target: &TargetOption,
    role: Option<&str>,
    limit: u32,
    as_json: bool,
) -> anyhow::Result<()> {
    let target = target.parse()?;
    let now = store.now();
    let members = store
        .read()
        .await?
        .members(target, MemberPage::First, role, limit)
        .await?;
    if as_json {
        let members = members.iter().map(|member| {
            json!({
                "clerk_user_id": member.clerk_user_id, "email": member.email, "role": member.role,
                "since": report::time(member.since),
            })
        });
        return report::json(&members.collect::<Vec<_>>());
    }
    let rows: Vec<[String; 4]> = members
        .iter()
        .map(|member| {
            [
                member.clerk_user_id.clone().unwrap_or_default(),
                member.email.clone().unwrap_or_default(),
                member.role.clone(),
                report::distance(member.since, now),
            ]
        })
        .collect();
    report::table(["CLERK USER", "ADDRESS", "ROLE", "SINCE"], &rows);
    report::more(rows.len(), limit);
    Ok(())
}

async fn set(
    store: &Store,
    roles: &Roles,
    clerk_user_id: &str,
    target: &TargetOption,
    role: Option<&str>,
) -> anyhow::Result<()> {
    let given = json!({
        "organization_id": target.organization, "project_id": target.project, "clerk_user_id": clerk_user_id,
        "role": role,
    });
    let request =
        MemberRequest::parse(given, roles).map_err(|errors| report::field_errors(&errors, Some("clerk_user_id")))?;
    let set = write(store, roles, std::slice::from_ref(&request), false).await?;
    match set.into_iter().next() {
        Some(Ok(Membership::Added)) => println!("{clerk_user_id} is a member now: {}", request.role),
        Some(Ok(Membership::Changed)) => println!("{clerk_user_id} has the role {} now", request.role),
        Some(Ok(Membership::Unchanged)) => println!("{clerk_user_id} has that role already"),
        Some(Err(refusal)) => bail!("{}", why(&refusal)),
        None => bail!("no membership was set"),
    }
    Ok(())
}

async fn remove(
    store: &Store,
    roles: &Roles,
    clerk_user_id: &str,
    target: &TargetOption,
    force: bool,
) -> anyhow::Result<()> {
    let target = target.parse()?;
    let removal = Removal {
        target,
        clerk_user_id,
        organizations: None,
        force,
        roles,
    };
    let removed: Option<Result<(), LastOwner>> = store
        .transaction(removal, |tx, removal| flows::remove_member(tx, *removal).boxed())
        .await?;
    match removed {
        Some(Ok(())) => println!("{clerk_user_id} is no member"),
        Some(Err(LastOwner)) => bail!("{}; --force removes them all the same", why(&MemberRefusal::LastOwner)),
        None => bail!("{}", why(&MemberRefusal::UnknownTarget)),
    }
    Ok(())
}

fn why(refusal: &MemberRefusal) -> String {
    let why = match refusal {
        MemberRefusal::UnknownTarget => "the organization or project does not exist",
        MemberRefusal::PersonBlocked => Code::PersonBlocked.title().trim_end_matches('.'),
        MemberRefusal::LastOwner => "the organization would lose the last member with its highest role",
        MemberRefusal::App(refusal) => return refusal.to_string(),
    };
    why.to_owned()
}

/// Sets memberships in one transaction, which is taken back in a dry run.
async fn write(
    store: &Store,
    roles: &Roles,
    requests: &[MemberRequest],
    dry_run: bool,
) -> Result<Vec<Result<Membership, MemberRefusal>>, StoreError> {
    if dry_run {
        let mut tx = store.begin().await?;
        return flows::set_members(&mut tx, requests, roles, None).await;
    }
    store
        .transaction((requests, roles), |tx, (requests, roles)| {
            flows::set_members(tx, requests, roles, None).boxed()
        })
        .await
}

#[derive(Debug, Default)]
struct Counts {
    added: u64,
    changed: u64,
    unchanged: u64,
    refused: u64,
}

impl Counts {
    fn all(&self) -> u64 {
        self.added + self.changed + self.unchanged + self.refused
    }

    fn refuse(&mut self, bar: &ProgressBar, line: u64, why: &str) {
        self.refused += 1;
        let shown = MAX_SHOWN as u64;
        if self.refused <= shown {
            bar.suspend(|| eprintln!("line {line}: {}", why.replace('\n', ", ")));
        } else if self.refused == shown + 1 {
            bar.suspend(|| eprintln!("more wrong lines are only counted"));
        }
    }
}

async fn import(store: &Store, roles: &Roles, file: &Path, dry_run: bool) -> anyhow::Result<()> {
    let (input, size): (Box<dyn Read + Send>, u64) = if file == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let opened = File::open(file).with_context(|| format!("can't read {}", file.display()))?;
        let size = opened.metadata()?.len();
        (Box::new(opened), size)
    };
    let bar = progress_bar(size);
    let mut records = Records::of(bar.wrap_read(input))?;
    let mut counts = Counts::default();
    loop {
        let (lines, requests) = next_batch(&mut records, roles, &mut counts, &bar)?;
        if requests.is_empty() && records.is_at_end() {
            break;
        }
        for (line, answer) in lines.into_iter().zip(write(store, roles, &requests, dry_run).await?) {
            match answer {
                Ok(Membership::Added) => counts.added += 1,
                Ok(Membership::Changed) => counts.changed += 1,
                Ok(Membership::Unchanged) => counts.unchanged += 1,
                Err(refusal) => counts.refuse(&bar, line, &why(&refusal)),
            }
        }
        if bar.is_hidden() && counts.all() % SAY_EVERY < BATCH as u64 {
            eprintln!("{} memberships", counts.all());
        }
    }
    bar.finish_and_clear();
    let Counts {
        added,
        changed,
        unchanged,
        refused,
    } = counts;
    let would = if dry_run {
        "a dry run, nothing was changed: "
    } else {
        ""
    };
    println!("{would}{added} added, {changed} changed, {unchanged} as they were, {refused} refused");
    if refused > 0 {
        bail!("{refused} lines were refused; mend them and run it again");
    }
    Ok(())
}

fn progress_bar(size: u64) -> ProgressBar {
    let bar = ProgressBar::new(size);
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left");
    match style {
        Ok(style) if size > 0 => bar.with_style(style),
        _ => ProgressBar::hidden(),
    }
}

/// Requests for one transaction, with their lines. Wrong lines are told and left out.
fn next_batch(
    records: &mut Records,
    roles: &Roles,
    counts: &mut Counts,
    bar: &ProgressBar,
) -> anyhow::Result<(Vec<u64>, Vec<MemberRequest>)> {
    let (mut lines, mut requests) = (Vec::new(), Vec::new());
    while requests.len() < BATCH {
        let Some((line, record)) = records.next()? else { break };
        let request = record.and_then(|value| {
            MemberRequest::parse(value, roles).map_err(|errors| report::field_errors(&errors, None).to_string())
        });
        match request {
            Ok(request) => {
                lines.push(line);
                requests.push(request);
            }
            Err(why) => counts.refuse(bar, line, &why),
        }
    }
    Ok((lines, requests))
}

type Input = BufReader<Box<dyn Read + Send>>;

/// The lines of a file as JSON objects, each with its number.
enum Records {
    Csv {
        reader: csv::Reader<Input>,
        heads: Vec<String>,
        at_end: bool,
    },
    JsonLines {
        input: Input,
        line: u64,
        at_end: bool,
    },
}

impl Records {
    /// JSON lines begin with a brace; everything else is CSV.
    fn of(input: impl Read + Send + 'static) -> anyhow::Result<Self> {
        let mut input: Input = BufReader::new(Box::new(input));
        if input.fill_buf()?.first() == Some(&b'{') {
            return Ok(Self::JsonLines {
                input,
                line: 0,
                at_end: false,
            });
        }
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let heads: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        if !heads.iter().any(|head| head == "clerk_user_id") {
            bail!("the first line must name the columns: organization_id or project_id, clerk_user_id, role");
        }
        Ok(Self::Csv {
            reader,
            heads,
            at_end: false,
        })
    }

    const fn is_at_end(&self) -> bool {
        match self {
            Self::Csv { at_end, .. } | Self::JsonLines { at_end, .. } => *at_end,
        }
    }

    /// The next object, or what is wrong with its line; `None` at the end.
    fn next(&mut self) -> anyhow::Result<Option<(u64, Result<Value, String>)>> {
        match self {
            Self::Csv { reader, heads, at_end } => {
                let mut record = csv::StringRecord::new();
                let read = reader.read_record(&mut record);
                let line = record.position().map_or(0, csv::Position::line);
                match read {
                    Ok(false) => *at_end = true,
                    Ok(true) => {
                        let fields = heads.iter().cloned().zip(record.iter());
                        // An empty cell is no value.
                        let fields = fields.filter(|(_, value)| !value.is_empty());
                        let object = fields.map(|(head, value)| (head, Value::from(value))).collect();
                        return Ok(Some((line, Ok(Value::Object(object)))));
                    }
                    Err(error) if error.is_io_error() => return Err(error.into()),
                    Err(error) => return Ok(Some((line, Err(error.to_string())))),
                }
                Ok(None)
            }
            Self::JsonLines { input, line, at_end } => {
                let mut text = String::new();
                while text.trim().is_empty() {
                    text.clear();
                    *line += 1;
                    if input.read_line(&mut text)? == 0 {
                        *at_end = true;
                        return Ok(None);
                    }
                }
                Ok(Some((
                    *line,
                    serde_json::from_str(&text).map_err(|error| error.to_string()),
                )))
            }
        }
    }
}
