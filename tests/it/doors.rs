//! Inviting by HTTP, by the command line and, on Postgres, by SQL: generated cases, one answer.

use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use sqlx::Connection as _;
use usher_testkit::fake_clerk::FakeUser;
use uuid::Uuid;

use crate::sql_interface::{refused, sql_invite};
use crate::support::process::command;
use crate::support::{TestApp, TestDatabase, on_both_databases};

/// An inviter: their Clerk user id, or an id that names none, and what they are.
struct Inviter {
    name: Option<String>,
    what: String,
}

/// Inviters with no, one and two member rows, with each role, deleted and banned.
async fn inviters(app: &TestApp, organization: Uuid) -> Vec<Inviter> {
    let mut inviters = vec![
        Inviter {
            name: None,
            what: "the app".into(),
        },
        Inviter {
            name: Some("user_unknown".into()),
            what: "unknown".into(),
        },
        Inviter {
            name: Some(Uuid::from_u128(7).to_string()),
            what: "an unknown id".into(),
        },
        Inviter {
            name: Some("no id".into()),
            what: "no id".into(),
        },
    ];
    for rows in ["", "member", "admin", "owner", "member owner", "owner member"] {
        for state in ["", "banned", "first row deleted", "all rows deleted"] {
            let what = format!("{rows}, {state}");
            let email = format!("inviter{}@acme.example", inviters.len());
            let mut roles = rows.split_whitespace();
            let place = roles.next().map(|role| (organization, role));
            let person = app.person(&email, place).await;
            if let Some(role) = roles.next() {
                second_row(app, organization, &person, role).await;
            }
            let rows = format!("(select id from admins where external_id = '{}')", person.id);
            match state {
                "banned" => ban(app, &person).await,
                "first row deleted" => {
                    let first = format!("{rows} and created_at < '2100-01-01'");
                    app.pool
                        .execute(&format!(
                            "update admins set deleted_at = created_at where id in {first}"
                        ))
                        .await;
                }
                "all rows deleted" => {
                    app.pool
                        .execute(&format!("update admins set deleted_at = created_at where id in {rows}"))
                        .await;
                }
                _ => {}
            }
            inviters.push(Inviter {
                name: Some(person.id),
                what,
            });
        }
    }
    inviters
}

/// The app has a second row for the same Clerk account, made later.
async fn second_row(app: &TestApp, organization: Uuid, person: &FakeUser, role: &str) {
    let id = app.clock.new_id();
    let (id, organization) = (app.pool.literal(id), app.pool.literal(organization));
    app.pool
        .execute(&format!(
            "insert into admins (id, external_id, created_at, updated_at)
             select {id}, external_id, '2100-01-01T00:00:00.000000+00:00', updated_at from admins where external_id = '{}'",
            person.id
        ))
        .await;
    app.pool
        .execute(&format!(
            "insert into organization_users (id, organization_id, admin_id, role, created_at, updated_at)
             select {id}, {organization}, {id}, '{role}', created_at, updated_at from admins where id = {id}"
        ))
        .await;
}

async fn ban(app: &TestApp, person: &FakeUser) {
    let mut user = FakeUser {
        updated_at: app.now(),
        ..person.clone()
    }
    .to_json();
    user["banned"] = json!(true);
    app.clerk().tell("user.updated", user).await;
    app.run_jobs().await;
}

/// The answer of the command line in the terms of the API: the code, and the fields that are wrong.
fn verdict_of(said: &str) -> Value {
    if let Some((_, code)) = said.trim_end().strip_suffix(')').and_then(|said| said.rsplit_once('(')) {
        return json!({ "code": code, "fields": [] });
    }
    let options = said
        .lines()
        .filter_map(|line| line.trim_start_matches("Error: ").split_whitespace().next());
    let mut fields: Vec<String> = options
        .map(|option| match option.trim_start_matches('-') {
            "<EMAIL>" => "email".to_owned(),
            option @ ("organization" | "project") => format!("{option}_id"),
            option => option.replace('-', "_"),
        })
        .collect();
    fields.sort();
    json!({ "code": "invalid_request", "fields": fields })
}

/// The same, asked by HTTP.
async fn by_http(app: &TestApp, body: &Value) -> Value {
    let answer = app.post("/v1/invites", body.clone()).await;
    if answer.status.is_success() {
        return json!("invited");
    }
    let problem = answer.json();
    let mut fields = if problem["code"] == "invalid_request" {
        answer.wrong_fields()
    } else {
        Vec::new()
    };
    fields.sort();
    json!({ "code": problem["code"], "fields": fields })
}

async fn by_command(app: &TestApp, body: &Value) -> Value {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let mut arguments = vec!["invite".to_owned(), text("email")];
    for (field, option) in [
        ("organization_id", "organization"),
        ("project_id", "project"),
        ("role", "role"),
        ("invited_by", "invited-by"),
        ("expires_in", "expires-in"),
        ("acceptance", "acceptance"),
        ("locale", "locale"),
        ("message", "message"),
        ("redirect_url", "redirect-url"),
    ] {
        if body[field].is_string() {
            arguments.push(format!("--{option}={}", text(field)));
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (well, said) = command(app.app.config.database_url.expose(), &arguments).await;
    if well { json!("invited") } else { verdict_of(&said) }
}

/// By SQL, and taken back. It names the first wrong field only.
async fn by_sql(app: &TestApp, body: &Value) -> Value {
    let mut conn = app.pool.pg().acquire().await.unwrap();
    let mut tx = conn.begin().await.unwrap();
    match sql_invite(&mut tx, body).await {
        Ok(_) => json!("invited"),
        Err(error) => refused(error),
    }
}

async fn compare(app: &TestApp, body: &Value, what: &str) -> Value {
    if app.pool.pick(true, false) {
        let (sql, http) = (by_sql(app, body).await, by_http(app, body).await);
        if http == "invited" {
            assert_eq!(sql, http, "{what}: {body}");
        } else {
            assert_eq!(sql["code"], http["code"], "{what}: {body}");
            let fields = http["fields"].as_array().unwrap();
            assert!(
                fields.is_empty() || fields.contains(&sql["field"]),
                "{what}: {body}: {sql}, {http}"
            );
        }
    }
    let (command, http) = (by_command(app, body).await, by_http(app, body).await);
    assert_eq!(command, http, "{what}: {body}");
    http
}

async fn each_door_gives_the_same_answer(database: TestDatabase) {
    let app = TestApp::start(database).await;
    let acme = app.organization("Acme").await;
    let apollo = app.project(acme, "Apollo").await;
    let mut cases = Vec::new();
    for inviter in inviters(&app, acme).await {
        for (place, id, role) in [
            ("organization_id", acme, "member"),
            ("organization_id", acme, "owner"),
            ("project_id", apollo, "client"),
        ] {
            let email = format!("new{}@example.com", cases.len());
            let body = json!({ place: id, "email": email, "role": role, "invited_by": inviter.name });
            cases.push((inviter.what.clone(), body));
        }
    }
    let wrong = [
        ("email", json!("no address")),
        ("role", json!("emperor")),
        ("invited_by", json!("user_unknown")),
        ("locale", json!("not a language!")),
        ("message", json!("x".repeat(2_001))),
        ("redirect_url", json!("https://evil.example")),
        ("expires_in", json!("31d")),
        ("acceptance", json!("never")),
    ];
    // Each wrong field alone, each with its neighbour, each second one, and all; into what is there and what is not.
    for set in (0..wrong.len())
        .map(|n| 1 << n)
        .chain((0..wrong.len()).map(|n| 3 << n))
        .chain([0b101_0101, 0b1010_1010, 255])
    {
        for organization in [acme, Uuid::from_u128(9)] {
            let email = format!("new{}@example.com", cases.len());
            let mut body = json!({ "organization_id": organization, "email": email, "role": "member" });
            for (n, (field, value)) in wrong.iter().enumerate() {
                if set & (1 << n) != 0 {
                    body[field] = value.clone();
                }
            }
            let is_wrong = |(n, _): &(usize, _)| set & (1 << n) != 0;
            let mut fields: Vec<&str> = wrong
                .iter()
                .enumerate()
                .filter(is_wrong)
                .map(|(_, (field, _))| *field)
                .collect();
            fields.extend((organization != acme).then_some("organization_id"));
            fields.sort_unstable();
            assert_eq!(by_http(&app, &body).await["fields"], json!(fields), "{body}");
            cases.push(("wrong fields".to_owned(), body));
        }
    }
    for email in [
        "ADA@Example.com",
        " ada@example.com ",
        "ada@xn--exmple-cua.com",
        "ada",
        "ada@@example.com",
        "mıke@example.com",
        "",
    ] {
        cases.push((
            "an address".to_owned(),
            json!({ "organization_id": acme, "email": email, "role": "member" }),
        ));
    }
    let verdicts: Vec<Value> = stream::iter(&cases)
        .map(|(what, body)| compare(&app, body, what))
        .buffered(4)
        .collect()
        .await;
    for code in ["role_above_inviter", "inviter_blocked", "invalid_request"] {
        assert!(verdicts.iter().any(|verdict| verdict["code"] == code), "{code}");
    }
    assert!(verdicts.iter().filter(|&verdict| verdict == "invited").count() > 10);
    app.run_jobs().await;
    app.finish().await;
}

on_both_databases!(multi_thread each_door_gives_the_same_answer);
