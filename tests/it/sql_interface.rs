//! Inviting from SQL: whatever the API answers, the functions answer, too.

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool, Postgres, Transaction};
use usher::clock::Clock;
use usher::invites::email::EmailAddress;
use usher::store::Rules;
use uuid::Uuid;

use crate::support::process::UsherProcess;
use crate::support::{TestApp, TestDatabase};

async fn start() -> TestApp {
    TestApp::start(TestDatabase::postgres().await).await
}

async fn start_with_caps(inviter: &str, organization: &str) -> TestApp {
    let app = TestApp::start_with(TestDatabase::postgres().await, |settings| {
        settings.mail_cap_inviter = Some(inviter.to_owned());
        settings.mail_cap_organization = Some(organization.to_owned());
    })
    .await;
    app.app.store.migrate(&app.app.config.rules()).await.unwrap();
    app
}

/// `usher.invite` with the fields of a create request.
pub async fn sql_invite(conn: &mut PgConnection, body: &Value) -> Result<(Uuid, bool), sqlx::Error> {
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let uuid = |name: &str| body[name].as_str().and_then(|id| id.parse::<Uuid>().ok());
    let expires_in = text("expires_in").map(|text| {
        let (number, unit) = text.split_at(text.len() - 1);
        let unit = [("m", "minutes"), ("h", "hours"), ("d", "days")]
            .iter()
            .find(|(short, _)| *short == unit);
        format!("{number} {}", unit.expect("a unit").1)
    });
    sqlx::query_as(
        "select invite_id, is_new from usher.invite($1, $2, organization_id => $3, project_id => $4, invited_by => $5,
             expires_in => $6::text::interval, acceptance => coalesce($7, 'default'), locale => $8, message => $9,
             redirect_url => $10)",
    )
    .bind(text("email"))
    .bind(text("role"))
    .bind(uuid("organization_id"))
    .bind(uuid("project_id"))
    .bind(text("invited_by"))
    .bind(expires_in)
    .bind(text("acceptance"))
    .bind(text("locale"))
    .bind(text("message"))
    .bind(text("redirect_url"))
    .fetch_one(conn)
    .await
}

/// A refusal by SQL in the terms of the API: status, code, field.
pub fn refused(error: sqlx::Error) -> Value {
    let error = error.into_database_error().expect("a refusal");
    let error = error.downcast::<sqlx::postgres::PgDatabaseError>();
    let status: u16 = error
        .code()
        .strip_prefix("US")
        .expect("a code of usher's")
        .parse()
        .unwrap();
    json!({ "status": status, "code": error.detail(), "field": error.column().filter(|field| !field.is_empty()) })
}

pub fn refused_by_api(answer: &crate::support::app::Answer) -> Value {
    let problem = answer.json();
    let field = problem["errors"][0]["pointer"]
        .as_str()
        .map(|pointer| pointer.trim_start_matches('/'));
    json!({ "status": problem["status"], "code": problem["code"], "field": field })
}

/// All that an invitation leaves behind at the invite, without what differs each time.
async fn traces(conn: &mut PgConnection, id: Uuid, is_new: bool) -> Value {
    let invite: Value = sqlx::query_scalar(
        "select to_jsonb(i) - '{id,invited_at,expires_at,created_at,updated_at}'::text[] || jsonb_build_object(
             'ttl', i.expires_at - i.invited_at, 'made_at_once', i.created_at = i.invited_at,
             'version_of_id', substr(i.id::text, 15, 1), 'updated_at_once', i.updated_at = i.invited_at)
         from invites i where id = $1",
    )
    .bind(id)
    .fetch_one(&mut *conn)
    .await
    .unwrap();
    json!({ "is_new": is_new, "invite": invite, "mail": newest_mail(conn, id).await })
}

/// The delivery, its job, and what was noted of the invite; what it was traced by only the API knows.
async fn newest_mail(conn: &mut PgConnection, id: Uuid) -> Value {
    let delivery: Option<Value> = sqlx::query_scalar(
        "select to_jsonb(d) - '{id,invite_id,queued_at,message_id}'::text[]
             || jsonb_build_object('message_id', replace(message_id, d.id::text, 'id'))
         from usher_deliveries d where invite_id = $1 order by generation desc limit 1",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await
    .unwrap();
    let job: Option<Value> = sqlx::query_scalar(
        "select to_jsonb(j) - '{id,job,run_at}'::text[] || jsonb_build_object('due', run_at <= clock_timestamp(),
             'id_length', length(j.id),
             'job', replace((convert_from(job, 'UTF8')::jsonb - 'cause')::text, d.id::text, 'id'))
         from apalis.jobs j join usher_deliveries d on convert_from(job, 'UTF8')::json ->> 'delivery_id' = d.id::text
         where d.invite_id = $1 order by d.generation desc limit 1",
    )
    .bind(id)
    .fetch_optional(&mut *conn)
    .await
    .unwrap();
    let history: Vec<String> =
        sqlx::query_scalar("select event from usher_invite_history where invite_id = $1 order by event")
            .bind(id)
            .fetch_all(conn)
            .await
            .unwrap();
    json!({ "delivery": delivery, "job": job, "history": history })
}

/// What is kept of inviters, organizations and addresses, whether somebody was invited or not.
async fn kept(conn: &mut PgConnection, now: DateTime<Utc>) -> Value {
    // What is counted at the commit, if there were one.
    sqlx::query("set constraints all immediate")
        .execute(&mut *conn)
        .await
        .unwrap();
    sqlx::query_scalar(
        "select jsonb_build_object(
             'counts', (select jsonb_agg(to_jsonb(c) - 'day' order by scope, subject) from usher_mail_counts c where day = $1 and mails > 0),
             'suppressions', (select jsonb_agg(email_key order by email_key) from usher_suppressions))",
    )
    .bind(now.date_naive().to_string())
    .fetch_one(conn)
    .await
    .unwrap()
}

async fn database_time(conn: &mut PgConnection) -> DateTime<Utc> {
    sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(conn)
        .await
        .unwrap()
}

/// The two clocks may be on two days: what was counted on the one's counts on the other's, too.
async fn carry_counts(conn: &mut PgConnection, from: DateTime<Utc>, to: DateTime<Utc>) {
    let (from, to) = (from.date_naive().to_string(), to.date_naive().to_string());
    sqlx::query("delete from usher_mail_counts where day <> $1")
        .bind(&from)
        .execute(&mut *conn)
        .await
        .unwrap();
    sqlx::query("update usher_mail_counts set day = $1")
        .bind(&to)
        .execute(conn)
        .await
        .unwrap();
}

/// What was done by the one clock is as long ago by the other.
async fn carry_times(conn: &mut PgConnection, from: DateTime<Utc>, to: DateTime<Utc>) {
    for text in [
        "update usher_deliveries set queued_at = queued_at + make_interval(secs => $1)",
        "update invites set invited_at = invited_at + make_interval(secs => $1),
             expires_at = expires_at + make_interval(secs => $1), created_at = created_at + make_interval(secs => $1),
             updated_at = updated_at + make_interval(secs => $1)",
    ] {
        let seconds = (to - from).as_seconds_f64();
        sqlx::query(text).bind(seconds).execute(&mut *conn).await.unwrap();
    }
}

/// Does it in SQL, takes it back, and does it by the API: the same must come of it.
async fn compare(app: &TestApp, body: Value) -> Value {
    app.clock.advance(TimeDelta::seconds(1));
    let mut tx: Transaction<'_, Postgres> = app.pool.pg().begin().await.unwrap();
    let now = database_time(&mut tx).await;
    carry_counts(&mut tx, app.now(), now).await;
    carry_times(&mut tx, app.now(), now).await;
    let mut attempt = tx.begin().await.unwrap();
    let mut by_sql = match sql_invite(&mut attempt, &body).await {
        Ok((id, is_new)) => {
            attempt.commit().await.unwrap();
            traces(&mut tx, id, is_new).await
        }
        Err(error) => {
            attempt.rollback().await.unwrap();
            refused(error)
        }
    };
    by_sql["kept"] = kept(&mut tx, now).await;
    tx.rollback().await.unwrap();
    let answer = app.post("/v1/invites", body.clone()).await;
    let mut conn = app.pool.pg().acquire().await.unwrap();
    let mut by_api = if answer.status.is_success() {
        let id = answer.json()["id"].as_str().unwrap().parse().unwrap();
        traces(&mut conn, id, answer.status == 201).await
    } else {
        refused_by_api(&answer)
    };
    by_api["kept"] = kept(&mut conn, app.now()).await;
    assert_eq!(by_sql, by_api, "{body:#}");
    by_api
}

#[tokio::test]
async fn sql_and_api_agree_on_who_may_hand_out_what() {
    let app = start().await;
    let acme = app.organization("Acme").await;
    let apollo = app.project(acme, "Apollo").await;
    let mut inviters = vec![json!(null)];
    for role in ["member", "admin", "owner"] {
        inviters.push(json!(
            app.person(&format!("{role}@acme.example"), Some((acme, role))).await.id
        ));
    }
    for role in ["support", "client", "editor", "admin"] {
        let email = format!("{role}@apollo.example");
        app.invite(json!({ "project_id": apollo, "email": email, "role": role }))
            .await;
        app.run_jobs().await;
        inviters.push(json!(app.person(&email, None).await.id));
    }
    let outsider = app.person("outsider@example.com", None).await;
    inviters.push(json!(outsider.id));
    let mut verdicts = std::collections::BTreeMap::<String, u32>::new();
    for inviter in &inviters {
        for role in [
            "member",
            "admin",
            "owner",
            "support",
            "client",
            "editor",
            "unheard_of",
            "",
        ] {
            for (place, id) in [("organization_id", acme), ("project_id", apollo)] {
                // Nobody in particular, a member, and a manager.
                for email in ["new@example.com", "editor@apollo.example", "admin@acme.example"] {
                    let mut body = json!({ "email": email, "role": role, "invited_by": inviter });
                    body[place] = json!(id);
                    let verdict = compare(&app, body).await;
                    let name = verdict["code"].as_str().unwrap_or("invited").to_owned();
                    *verdicts.entry(name).or_default() += 1;
                }
            }
        }
    }
    for name in ["invited", "role_above_inviter", "already_member", "invalid_request"] {
        assert!(verdicts.get(name).is_some_and(|&count| count > 5), "{verdicts:?}");
    }
    app.run_jobs().await;
    app.finish().await;
}

#[tokio::test]
async fn sql_and_api_agree_on_every_field() {
    let app = start().await;
    let acme = app.organization("Acme").await;
    let apollo = app.project(acme, "Apollo").await;
    let ada = app.person("ada@example.com", Some((acme, "owner"))).await;
    let ada_id = app
        .pool
        .text("select id::text from admins where email = 'ada@example.com'")
        .await;
    let base = json!({ "organization_id": acme, "email": "Bob@Example.com", "role": "member" });
    let with = |field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        body
    };
    compare(&app, base.clone()).await;
    let repeated = compare(&app, base.clone()).await;
    assert_eq!(repeated["invite"]["mail_held"], Value::Null, "a moment ago");
    let held = compare(&app, with("role", json!("admin"))).await;
    assert_eq!(held["invite"]["token_version"], 1, "without a mail the link stays");
    assert_eq!(held["invite"]["mail_held"], "cool_down");
    app.clock.advance(TimeDelta::minutes(5));
    assert_eq!(
        compare(&app, base.clone()).await["invite"]["token_version"],
        2,
        "asked again"
    );
    // A life of another length, another inviter or other words are another request.
    for (field, value) in [
        ("expires_in", json!("3d")),
        ("invited_by", json!(ada.id)),
        ("message", json!("Hi")),
        ("locale", json!("de")),
        ("email", json!("bob@EXAMPLE.com")),
    ] {
        assert_eq!(
            compare(&app, with(field, value)).await["invite"]["mail_held"],
            "cool_down",
            "{field}"
        );
        app.clock.advance(TimeDelta::minutes(5));
        assert_eq!(
            compare(&app, base.clone()).await["invite"]["mail_held"],
            Value::Null,
            "{field}"
        );
    }
    app.clock.advance(TimeDelta::minutes(5));
    for expires_in in ["1m", "36h", "30d", "31d", "0d", "721h"] {
        compare(&app, with("expires_in", json!(expires_in))).await;
    }
    for acceptance in ["auto", "ask", "default", "never", ""] {
        compare(&app, with("acceptance", json!(acceptance))).await;
    }
    for locale in [
        "en",
        "pt-BR",
        "",
        "e n",
        "de-",
        "abcdefghi",
        "a-b-c-d-e-f-g-h-i-j-k-l-m-n-o-p-q-r-s",
    ] {
        compare(&app, with("locale", json!(locale))).await;
    }
    for message in [
        "",
        "Ça va ?\n\"'; drop table invites; --",
        &"é".repeat(2_000),
        &"é".repeat(2_001),
    ] {
        compare(&app, with("message", json!(message))).await;
    }
    for invited_by in [
        json!(ada.id),
        json!(ada_id),
        json!("user_nobody"),
        json!(acme),
        json!("ada"),
        json!("user_a b"),
        json!(""),
    ] {
        compare(&app, with("invited_by", invited_by)).await;
    }
    for role in [" member ", "Member", "", "x\ny"] {
        compare(&app, with("role", json!(role))).await;
    }
    for (field, value) in [
        ("email", json!(null)),
        ("role", json!(null)),
        ("project_id", json!(apollo)),
    ] {
        compare(&app, with(field, value)).await;
    }
    compare(&app, json!({ "email": "bob@example.com", "role": "member" })).await;
    for place in ["organization_id", "project_id"] {
        let mut nowhere = json!({ "email": "bob@example.com", "role": "member" });
        nowhere[place] = json!(app.clock.new_id());
        assert_eq!(compare(&app, nowhere).await["field"], place);
    }
    let own = json!({ "organization_id": acme, "email": "ADA@example.com", "role": "member", "invited_by": ada.id });
    assert_eq!(compare(&app, own).await["field"], "email");
    app.pool
        .execute(&format!(
            "update organizations set deleted_at = now() where id = '{acme}'"
        ))
        .await;
    compare(&app, base.clone()).await;
    compare(
        &app,
        json!({ "project_id": apollo, "email": "bob@example.com", "role": "client" }),
    )
    .await;
    app.run_jobs().await;
    app.finish().await;
}

/// The key as SQL has it; none where it refuses.
async fn keys(pool: &PgPool, addresses: &[String]) -> Vec<Option<String>> {
    sqlx::raw_sql(
        "create or replace function pg_temp.try_key(address text) returns text language plpgsql as
         'begin return usher_email_key(address); exception when sqlstate ''US422'' then return null; end'",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query_scalar(
        "select pg_temp.try_key(address) from unnest($1::text[]) with ordinality as a(address, n) order by n",
    )
    .bind(addresses)
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn addresses_are_compared_by_the_same_key_in_sql() {
    let database = TestDatabase::postgres().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&database.url)
        .await
        .unwrap();
    let mut addresses: Vec<String> = [
        "ada@example.com",
        "  Ada@Example.COM\n",
        "\u{a0}\u{2003}ada@example.com\u{3000}\u{85}",
        "\u{200b}ada@example.com",
        "a.d.a+tag@example.com",
        "\u{dc}NAL@example.com",
        "o'brien/x=y@example.com",
        "m\u{131}ke@example.com",
        "\u{212a}ate@example.com",
        "I\u{130}@EXAMPLE.com",
        "stra\u{df}e@example.com",
        "ada@xn--bcher-kva.example",
        "ada@XN--BCHER-KVA.example",
        "ada@ab--cd.example",
        "ada@a-.example",
        "ada@-a.example",
        "ada@1.2.3.4",
        "ada@4com.7",
        "ada@a.b.c-d.e9",
        "ada@example.com.",
        "ada@localhost",
        "ada@exam_ple.com",
        "a@b@example.com",
        "",
        "@",
        "ada@",
        "@example.com",
        ".a@example.com",
        "a.@example.com",
        "a..b@example.com",
        "a\u{e0041}b@example.com",
        "a\u{1f600}b@example.com",
    ]
    .map(str::to_owned)
    .into();
    for length in [63, 64, 65] {
        addresses.push(format!("{}@example.com", "a".repeat(length)));
        addresses.push(format!("{}@example.com", "\u{e9}".repeat(length / 2)));
        addresses.push(format!("a@{}.com", "b".repeat(length)));
    }
    for length in [245, 246, 247, 248] {
        let labels = "abcdefghi.".repeat(30);
        addresses.push(format!("ada@{}com", &labels[300 - length / 10 * 10..]));
        addresses.push(format!(
            "ada@{}{}om",
            &labels[300 - length / 10 * 10..],
            "c".repeat(length % 10)
        ));
    }
    // And thousands that nobody would think of.
    let alphabet: Vec<char> = "aZ9.-_+@@ '\"(),:;<>[]\\\t\u{85}\u{a0}\u{ad}\u{61c}\u{200b}\u{2028}\u{202f}\u{2060}\u{206f}\u{205f}\u{feff}\u{fffa}\u{e9}\u{130}\u{e0001}\u{7f}\u{1}".chars().collect();
    for _ in 0..5_000 {
        let length = rand::random_range(1..12);
        let text: String = (0..length)
            .map(|_| alphabet[rand::random_range(0..alphabet.len())])
            .collect();
        addresses.push(text.clone());
        addresses.push(format!("{text}@example.com"));
        addresses.push(format!("ada@{text}.com"));
    }
    let by_sql = keys(&pool, &addresses).await;
    let mut taken = 0;
    for (address, by_sql) in addresses.iter().zip(by_sql) {
        let by_rust = EmailAddress::parse(address)
            .ok()
            .map(|parsed| parsed.key().as_str().to_owned());
        let is_beyond_sql = address
            .trim()
            .rsplit('@')
            .next()
            .is_some_and(|domain| !domain.is_ascii());
        if is_beyond_sql {
            assert_eq!(by_sql, None, "{address:?}: a domain beyond ASCII is refused");
        } else {
            assert_eq!(by_sql, by_rust, "{address:?}");
            taken += u32::from(by_rust.is_some());
        }
    }
    assert!(taken > 100, "{taken}");
    let error = sqlx::query("select usher_email_key('ada@b\u{fc}cher.example')")
        .execute(&pool)
        .await
        .unwrap_err();
    let error = error
        .into_database_error()
        .unwrap()
        .downcast::<sqlx::postgres::PgDatabaseError>();
    assert!(error.hint().is_some_and(|hint| hint.contains("xn--")));
}

#[tokio::test]
async fn sql_and_api_agree_on_the_daily_caps() {
    let (ok, no) = ("invited", "daily_mail_cap");
    // The owner's own invite is the first mail into the organization.
    let cases: &[(&str, &str, [&str; 7])] = &[
        ("off", "off", [ok, ok, ok, ok, ok, ok, ok]),
        ("2", "off", [ok, ok, ok, ok, ok, ok, no]),
        ("off", "4", [ok, ok, ok, ok, no, ok, no]),
        ("1", "4", [ok, no, ok, ok, ok, ok, no]),
    ];
    for (inviter, organization, expected) in cases {
        let app = start_with_caps(inviter, organization).await;
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        let zeta = app.organization("Zeta").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        app.pool
            .execute("insert into usher_suppressions (email_key, reason, suppressed_at) values ('a@example.com', 'gone', now())")
            .await;
        let bodies = [
            json!({ "organization_id": acme, "email": "a@example.com", "role": "member", "invited_by": owner.id }),
            json!({ "project_id": apollo, "email": "b@example.com", "role": "client", "invited_by": owner.id }),
            json!({ "project_id": apollo, "email": "c@example.com", "role": "client" }),
            json!({ "organization_id": acme, "email": "a@example.com", "role": "member", "invited_by": owner.id }),
            json!({ "project_id": apollo, "email": "d@example.com", "role": "client" }),
            json!({ "organization_id": zeta, "email": "e@example.com", "role": "member" }),
            json!({ "organization_id": acme, "email": "f@example.com", "role": "admin", "invited_by": owner.id }),
        ];
        for (n, body) in bodies.into_iter().enumerate() {
            let verdict = compare(&app, body).await;
            let name = verdict["code"].as_str().unwrap_or(ok);
            assert_eq!(name, expected[n], "caps {inviter} and {organization}, invitation {n}");
        }
        app.run_jobs().await;
        app.finish().await;
    }
}

#[tokio::test]
async fn sql_and_api_agree_on_an_address_s_cap() {
    let app = TestApp::start_with(TestDatabase::postgres().await, |settings| {
        settings.mail_cap_address = Some("2".to_owned());
        settings.mail_cap_organization = Some("1".to_owned());
    })
    .await;
    app.app.store.migrate(&app.app.config.rules()).await.unwrap();
    let mut organizations = Vec::new();
    for n in 0..4 {
        organizations.push(app.organization(&format!("Organization {n}")).await);
    }
    let body = |n: usize, email: &str| json!({ "organization_id": organizations[n], "email": email, "role": "member" });
    for (n, email, expected) in [
        (0, "ada@example.com", "invited"),
        (0, "bob@example.com", "daily_mail_cap"),
        (1, "ADA@example.com", "invited"),
        // The address's cap comes first: without a mail there is nothing to count for the organization.
        (2, "ada@example.com", "address_cap"),
        (2, "bob@example.com", "invited"),
        (2, "ada@EXAMPLE.com", "address_cap"),
        (3, "ada@example.com", "address_cap"),
    ] {
        let verdict = compare(&app, body(n, email)).await;
        let held = verdict["invite"]["mail_held"].as_str();
        let name = verdict["code"].as_str().or(held).unwrap_or("invited");
        assert_eq!(name, expected, "{email} into {n}");
    }
    app.run_jobs().await;
    assert_eq!(app.mails().len(), 3);
    app.finish().await;
}

/// What happens to inviters, to roles and to places, and how the two doors answer then.
#[tokio::test]
async fn sql_and_api_agree_on_inviters_roles_and_places_that_are_not_what_they_were() {
    let cases: &[(&str, &str, &str)] = &[
        ("", "invited", "resend_too_soon"),
        (
            "update usher_people set banned = true",
            "inviter_blocked",
            "inviter_lost_rights",
        ),
        (
            "update usher_people set locked = true",
            "inviter_blocked",
            "inviter_lost_rights",
        ),
        (
            "update usher_people set deleted_at = now()",
            "inviter_blocked",
            "inviter_lost_rights",
        ),
        (
            "update usher_people set banned = true; update admins set external_id = null",
            "invalid_request",
            "inviter_lost_rights",
        ),
        (
            "update usher_people set banned = true, clerk_user_id = 'x' || clerk_user_id",
            "invited",
            "resend_too_soon",
        ),
        (
            "update admins set deleted_at = now()",
            "invalid_request",
            "inviter_lost_rights",
        ),
        (
            "update organization_users set deleted_at = now()",
            "role_above_inviter",
            "inviter_lost_rights",
        ),
        (
            "update organization_users set role = 'emperor'; update project_admins set role = 'emperor'",
            "role_above_inviter",
            "inviter_lost_rights",
        ),
        (
            "update project_admins set role = 'client'; update organization_users set role = 'member'",
            "role_above_inviter",
            "inviter_lost_rights",
        ),
        ("update invites set role = 'emperor'", "invited", "unknown_role"),
        (
            "update organizations set deleted_at = now()",
            "invalid_request",
            "target_deleted",
        ),
    ];
    for &(change, on_inviting, on_sending) in cases {
        let app = start().await;
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
        app.invite(json!({ "project_id": apollo, "email": "editor@example.com", "role": "editor" }))
            .await;
        app.run_jobs().await;
        let editor = app.person("editor@example.com", None).await;
        let of_acme =
            json!({ "organization_id": acme, "email": "a@example.com", "role": "member", "invited_by": owner.id });
        let of_apollo =
            json!({ "project_id": apollo, "email": "a@example.com", "role": "support", "invited_by": editor.id });
        let invites = [app.invite(of_acme.clone()).await, app.invite(of_apollo.clone()).await];
        if !change.is_empty() {
            app.pool.execute(change).await;
        }
        for mut body in [of_acme, of_apollo] {
            body["email"] = json!("b@example.com");
            let verdict = compare(&app, body).await;
            assert_eq!(verdict["code"].as_str().unwrap_or("invited"), on_inviting, "{change}");
        }
        for id in invites {
            let id: Uuid = id.parse().unwrap();
            let mut tx = app.pool.pg().begin().await.unwrap();
            let now = database_time(&mut tx).await;
            carry_times(&mut tx, app.now(), now).await;
            let sent = sqlx::query("select usher.resend($1)").bind(id).execute(&mut *tx).await;
            tx.rollback().await.unwrap();
            let answer = app.call(Method::POST, &format!("/v1/invites/{id}/resend"), None).await;
            let by_sql = refused(sent.unwrap_err());
            assert_eq!(by_sql, refused_by_api(&answer), "{change}");
            assert_eq!(by_sql["code"], on_sending, "{change}");
        }
        app.run_jobs().await;
        app.finish().await;
    }
}

#[tokio::test]
async fn a_daily_cap_holds_for_transactions_that_meet() {
    let app = start_with_caps("off", "3").await;
    let acme = app.organization("Acme").await;
    let pool = app.pool.pg();
    let invite = async |n: u32| {
        let mut tx = pool.begin().await.unwrap();
        let body = json!({ "organization_id": acme, "email": format!("p{n}@example.com"), "role": "member" });
        let answer = sql_invite(&mut tx, &body).await;
        (tx, answer)
    };
    let (first, _) = invite(0).await;
    first.commit().await.unwrap();
    let (second, _) = invite(1).await;
    second.commit().await.unwrap();

    // Nobody waits for whoever has asked for the last one and not committed yet; the one who commits first has it.
    let (taken_back, answer) = invite(2).await;
    answer.expect("the last one, so far");
    let (first, answer) = invite(3).await;
    answer.expect("the last one, so far");
    let (late, answer) = invite(4).await;
    answer.expect("the last one, so far");
    taken_back.rollback().await.unwrap();
    first.commit().await.unwrap();
    let refusal = late.commit().await.unwrap_err();
    assert_eq!(
        refused(refusal),
        json!({ "status": 429, "code": "daily_mail_cap", "field": null })
    );
    // And from then on it is refused at once.
    let (_, answer) = invite(5).await;
    let refusal = answer.unwrap_err();
    let hint = refusal
        .as_database_error()
        .unwrap()
        .downcast_ref::<sqlx::postgres::PgDatabaseError>()
        .hint();
    assert_eq!(hint, Some("Come again after midnight UTC."));
    assert_eq!(
        refused(refusal),
        json!({ "status": 429, "code": "daily_mail_cap", "field": null })
    );

    app.pool.execute("update usher_mail_counts set mails = 0").await;
    let at_once = join_all((10..18).map(async |n| {
        let (tx, answer) = invite(n).await;
        match answer {
            Ok(_) => tx.commit().await.is_ok(),
            Err(_) => false,
        }
    }))
    .await;
    assert_eq!(
        at_once.iter().filter(|&&went_out| went_out).count(),
        3,
        "of eight at once"
    );
    assert_eq!(app.pool.count("invites").await, 6);
    assert_eq!(app.pool.count("usher_mail_counts where mails = 3").await, 1);
    app.run_jobs().await;
    app.finish().await;
}

/// An invite's past, by the clock that will be asked.
#[derive(Debug)]
struct Past<'a> {
    mails_minutes_ago: &'a [i32],
    expires_in_minutes: i32,
    status: &'a str,
    asked_by_inviter: i32,
    asked_into_organization: i32,
}

fn past<'a>(mails: &'a [i32], expires: i32, status: &'a str, by_inviter: i32, into_organization: i32) -> Past<'a> {
    Past {
        mails_minutes_ago: mails,
        expires_in_minutes: expires,
        status,
        asked_by_inviter: by_inviter,
        asked_into_organization: into_organization,
    }
}

impl Past<'_> {
    async fn set_up(&self, conn: &mut PgConnection, now: DateTime<Utc>) {
        sqlx::raw_sql(
            "delete from usher_deliveries; delete from usher_mail_counts;
             insert into usher_suppressions (email_key, reason, suppressed_at)
             values ('bob@example.com', 'gone', now()), ('eve@example.com', 'gone', now()) on conflict do nothing",
        )
        .execute(&mut *conn)
        .await
        .unwrap();
        sqlx::query(
            "insert into usher_deliveries (id, invite_id, kind, generation, to_email, status, message_id, queued_at)
             select gen_random_uuid(), i.id, 'invite', n, email, 'sent', 'x', $1 - make_interval(mins => minutes)
             from invites i, unnest($2::integer[]) with ordinality as m (minutes, n) where i.email_key = 'bob@example.com'",
        )
        .bind(now)
        .bind(self.mails_minutes_ago)
        .execute(&mut *conn)
        .await
        .unwrap();
        sqlx::query(
            "insert into usher_mail_counts (scope, subject, day, mails)
             select 'inviter', invited_by, $1, $2 from invites where email_key = 'bob@example.com'
             union all select 'organization', organization_id, $1, $3 from projects",
        )
        .bind(now.date_naive().to_string())
        .bind(self.asked_by_inviter)
        .bind(self.asked_into_organization)
        .execute(&mut *conn)
        .await
        .unwrap();
        sqlx::query(
            "update invites set status = $1, expires_at = $2 + make_interval(mins => $3),
                 accepted_at = case $1 when 'accepted' then $2 end, accepted_by = case $1 when 'accepted' then id end
             where email_key = 'bob@example.com'",
        )
        .bind(self.status)
        .bind(now)
        .bind(self.expires_in_minutes)
        .execute(conn)
        .await
        .unwrap();
    }
}

/// What sending again leaves behind at the invite.
async fn traces_of_sending_again(conn: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Value {
    let invite: Value = sqlx::query_scalar(
        "select to_jsonb(i) - '{updated_at,expires_at}'::text[] || jsonb_build_object(
             'left', round(extract(epoch from i.expires_at - $1) / 60),
             'mails', (select count(*) from usher_deliveries where status = 'queued'))
         from invites i where id = $2",
    )
    .bind(now)
    .bind(id)
    .fetch_one(&mut *conn)
    .await
    .unwrap();
    json!({ "invite": invite, "mail": newest_mail(conn, id).await })
}

#[tokio::test]
async fn sql_and_api_agree_on_sending_again() {
    let app = start_with_caps("3", "5").await;
    let acme = app.organization("Acme").await;
    let apollo = app.project(acme, "Apollo").await;
    let owner = app.person("owner@example.com", Some((acme, "owner"))).await;
    let body = json!({ "project_id": apollo, "email": "bob@example.com", "role": "client", "invited_by": owner.id });
    let id: Uuid = app.invite(body).await.parse().unwrap();
    // The project has moved since: its mails are counted where it is now, and the inviter counts for what they are there.
    let zeta = app.organization("Zeta").await;
    app.pool
        .execute(&format!("update projects set organization_id = '{zeta}'"))
        .await;
    app.pool
        .execute(&format!(
            "insert into organization_users (organization_id, admin_id, role)
             select '{zeta}', admin_id, 'admin' from organization_users"
        ))
        .await;
    let pool = app.pool.pg();
    let day = 24 * 60;
    let ten = [6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let an_eleventh_day = [6, 7, 8, 9, 10, 11, 12, 13, 14, day + 1];
    let cases = [
        (past(&[], 60, "pending", 0, 0), ""),
        (past(&[4], 60, "pending", 0, 0), "resend_too_soon"),
        (past(&[6], 60, "pending", 2, 4), ""),
        (past(&[6], 60, "pending", 3, 0), "daily_mail_cap"),
        (past(&[6], 60, "pending", 0, 5), "daily_mail_cap"),
        (past(&[4], 60, "pending", 4, 6), "resend_too_soon"),
        (past(&ten[..9], 60, "pending", 0, 0), ""),
        (past(&ten, 60, "pending", 0, 0), "resend_too_soon"),
        (past(&an_eleventh_day, 60, "pending", 0, 0), ""),
        (past(&[6], -60, "pending", 0, 0), ""),
        (past(&[6], -60, "expired", 0, 0), ""),
        (past(&[6], -60, "expired", 0, 5), "daily_mail_cap"),
        (past(&[6], 60, "accepted", 3, 0), "invite_accepted"),
        (past(&[6], 60, "declined", 0, 0), "invite_declined"),
        (past(&[6], 60, "revoked", 0, 0), "invite_revoked"),
    ];
    for (past, expected) in cases {
        let mut tx = pool.begin().await.unwrap();
        let now = database_time(&mut tx).await;
        past.set_up(&mut tx, now).await;
        let mut attempt = tx.begin().await.unwrap();
        let sent = sqlx::query("select usher.resend($1)")
            .bind(id)
            .execute(&mut *attempt)
            .await;
        let mut by_sql = match sent {
            Ok(_) => {
                attempt.commit().await.unwrap();
                traces_of_sending_again(&mut tx, id, now).await
            }
            Err(error) => {
                attempt.rollback().await.unwrap();
                refused(error)
            }
        };
        by_sql["kept"] = kept(&mut tx, now).await;
        tx.rollback().await.unwrap();

        let mut conn = pool.acquire().await.unwrap();
        past.set_up(&mut conn, app.now()).await;
        let answer = app.call(Method::POST, &format!("/v1/invites/{id}/resend"), None).await;
        let mut by_api = if answer.status.is_success() {
            traces_of_sending_again(&mut conn, id, app.now()).await
        } else {
            refused_by_api(&answer)
        };
        by_api["kept"] = kept(&mut conn, app.now()).await;
        assert_eq!(by_sql, by_api, "{past:?}");
        assert_eq!(by_api["code"].as_str().unwrap_or_default(), expected);
        let suppressed = if expected.is_empty() {
            json!(["eve@example.com"])
        } else {
            json!(["bob@example.com", "eve@example.com"])
        };
        assert_eq!(
            by_api["kept"]["suppressions"], suppressed,
            "whoever resends vouches for the address"
        );
    }
    let unknown = sqlx::query("select usher.resend(gen_random_uuid())")
        .execute(pool)
        .await;
    assert_eq!(refused(unknown.unwrap_err())["code"], "not_found");
    sqlx::query("delete from apalis.jobs").execute(pool).await.unwrap();
    app.finish().await;
}

#[tokio::test]
async fn an_invite_from_sql_is_the_app_s_transaction_s_and_goes_out_after_its_commit() {
    let app = start().await;
    let acme = app.organization("Acme").await;
    let mut ear = PgListener::connect_with(app.pool.pg()).await.unwrap();
    ear.listen("apalis::job::insert").await.unwrap();
    let body = |email: &str| json!({ "organization_id": acme, "email": email, "role": "member" });

    let mut tx = app.pool.pg().begin().await.unwrap();
    sql_invite(&mut tx, &body("nobody@example.com")).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(app.pool.count("invites").await, 0);
    assert_eq!(app.pool.count("apalis.jobs").await, 0);

    let mut tx = app.pool.pg().begin().await.unwrap();
    let (id, is_new) = sql_invite(&mut tx, &body("Ada@example.com")).await.unwrap();
    tx.commit().await.unwrap();
    assert!(is_new);
    let heard = ear.recv().await.unwrap();
    assert_eq!(
        heard.payload(),
        r#"{"job_type" : "usher:send-mail"}"#,
        "the workers are told, once"
    );

    app.run_jobs().await;
    assert_eq!(app.mails().len(), 1);
    let token = app.token_in_mail_to("Ada@example.com");
    let ada = app.earlier_person("ada@example.com").await;
    app.signed_in(&ada).accept_link(&token).await.expect(200);
    assert_eq!(app.members(acme).await, ["ada@example.com member"]);
    assert_eq!(app.show(&id.to_string()).await["status"], "accepted");
    app.finish().await;
}

/// With a running usher, and from any language: the app's is `psql` here, with the rights that the documentation grants.
#[tokio::test]
async fn what_sql_commits_is_picked_up_within_moments() {
    let database = TestDatabase::postgres().await;
    let (usher, smtp) = UsherProcess::with_smtp(&database).await;
    let acme = Clock::System.new_id();
    let path = format!("/v1/organizations/{acme}");
    usher.call(reqwest::Method::PUT, &path, json!({ "name": "Acme" })).await;
    let role = format!("app_{}", Uuid::from_bytes(rand::random()).simple());
    let grants = crate::support::docs_sql("### Rights").replace("to app;", &format!("to {role};"));
    database
        .pool
        .execute(&format!("create role {role} login; {grants}"))
        .await;
    let url = database.url_of_role(&role);
    // Without what only sqlx understands.
    let url = url.split('?').next().unwrap();
    for number in 1..=3 {
        let script = format!(
            "begin; select usher.invite('nobody@example.com', 'member', organization_id => '{acme}'); rollback;
             begin; select usher.invite('person{number}@example.com', 'member', organization_id => '{acme}'); commit;"
        );
        let ran = tokio::process::Command::new("psql")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--set",
                "ON_ERROR_STOP=1",
                "--command",
                &script,
                url,
            ])
            .output()
            .await
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        let arrived = tokio::time::timeout(std::time::Duration::from_secs(5), smtp.wait_for_mails(number)).await;
        let mails = arrived.expect("it is not waited for");
        assert_eq!(mails[number - 1].to, [format!("person{number}@example.com")]);
    }
    assert_eq!(database.pool.count("invites").await, 3);
    assert!(usher.terminate().await);
}

#[tokio::test]
async fn a_role_that_may_only_call_the_two_functions_can_invite_and_nothing_else() {
    let database = TestDatabase::postgres().await;
    let role = format!("app_{}", Uuid::from_bytes(rand::random()).simple());
    let grants = crate::support::docs_sql("### Rights").replace("to app;", &format!("to {role};"));
    database
        .pool
        .execute(&format!("create role {role} login; {grants}"))
        .await;
    let url = database.url_of_role(&role);
    let app = TestApp::start(database).await;
    let acme = app.organization("Acme").await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    // Tables of its own with the same names lead nobody astray, nor does a search path without any.
    sqlx::raw_sql(
        "create temp table invites (id uuid); create temp table usher_settings (organization_roles text[]);
         create temp table organizations (id uuid, deleted_at timestamptz); set search_path = pg_temp",
    )
    .execute(&mut conn)
    .await
    .unwrap();
    let (id,): (Uuid,) =
        sqlx::query_as("select invite_id from usher.invite('ada@example.com', 'member', organization_id => $1)")
            .bind(acme.to_string())
            .fetch_one(&mut conn)
            .await
            .unwrap();
    let again = sqlx::query("select usher.resend($1)").bind(id).execute(&mut conn).await;
    assert_eq!(refused(again.unwrap_err())["code"], "resend_too_soon");
    for forbidden in [
        "select 1 from usher.invites",
        "select 1 from usher.usher_settings",
        "select 1 from usher.usher_addresses",
        "select 1 from apalis.jobs",
        "select usher.usher_queue_invite_email(null, null)",
        "insert into usher.organization_users (organization_id) values (null)",
    ] {
        let error = sqlx::query(forbidden).execute(&mut conn).await.unwrap_err();
        assert_eq!(
            error.into_database_error().unwrap().code().as_deref(),
            Some("42501"),
            "{forbidden}"
        );
    }
    app.run_jobs().await;
    assert_eq!(app.mails().len(), 1);
    app.finish().await;
}

#[tokio::test]
async fn the_functions_go_by_the_configuration_that_usher_was_started_with() {
    let database = TestDatabase::postgres().await;
    let rules = Rules {
        roles: usher::invites::roles::Roles::new("guest,clerk,host".parse().unwrap(), "viewer,maker".parse().unwrap())
            .with_organization_invite_role("clerk")
            .unwrap(),
        invite_ttl: TimeDelta::hours(2),
        ..Rules::default()
    };
    database.migrate(&rules).await.unwrap();
    let app = TestApp::start_with(database, |settings| {
        settings.organization_roles = Some("guest,clerk,host".to_owned());
        settings.organization_invite_role = Some("clerk".to_owned());
        settings.project_roles = Some("viewer,maker".to_owned());
        settings.invite_ttl = Some("2h".to_owned());
    })
    .await;
    let acme = app.organization("Acme").await;
    for role in ["guest", "clerk", "member"] {
        compare(
            &app,
            json!({ "organization_id": acme, "email": "ada@example.com", "role": role }),
        )
        .await;
    }
    let apollo = app.project(acme, "Apollo").await;
    let mut inviters = Vec::new();
    for role in ["guest", "clerk", "host"] {
        inviters.push(app.person(&format!("{role}@example.com"), Some((acme, role))).await);
    }
    for role in ["viewer", "maker"] {
        let email = format!("{role}@example.com");
        app.invite(json!({ "project_id": apollo, "email": email, "role": role }))
            .await;
        app.run_jobs().await;
        inviters.push(app.person(&email, None).await);
    }
    let mut may = Vec::new();
    for inviter in inviters {
        for (target, id, role) in [("organization_id", acme, "guest"), ("project_id", apollo, "viewer")] {
            let body = json!({ target: id, "email": "bob@example.com", "role": role, "invited_by": inviter.id });
            if compare(&app, body).await["code"].is_null() {
                may.push(format!("{} {role}", inviter.emails[0].0));
            }
        }
    }
    let expected = [
        "clerk guest",
        "clerk viewer",
        "host guest",
        "host viewer",
        "maker viewer",
    ];
    assert_eq!(may, expected.map(|who| who.replacen(' ', "@example.com ", 1)));
    sqlx::query("delete from usher_settings")
        .execute(app.pool.pg())
        .await
        .unwrap();
    let mut conn = app.pool.pg().acquire().await.unwrap();
    let early = sql_invite(
        &mut conn,
        &json!({ "organization_id": acme, "email": "ada@example.com", "role": "guest" }),
    )
    .await;
    assert_eq!(refused(early.unwrap_err())["code"], "not_set_up");
    app.run_jobs().await;
    app.finish().await;
}
