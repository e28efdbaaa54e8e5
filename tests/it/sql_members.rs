//! Organizations, projects and members by SQL, in the app's own transaction: as the API does it.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::sql_interface::{refused, refused_by_api};
use crate::support::app::API_KEY;
use crate::support::{TestApp, TestDatabase};

/// One deed by both doors.
struct Step {
    method: Method,
    path: String,
    body: Option<Value>,
    sql: String,
}

fn put(path: &str, body: Value, sql: &str) -> Step {
    Step {
        method: Method::PUT,
        path: format!("/v1/{path}"),
        body: Some(body),
        sql: sql.to_owned(),
    }
}

fn organization(id: &str, name: &str) -> Step {
    let letters: String = name.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
    put(
        &format!("organizations/{id}"),
        json!({ "name": name }),
        &format!("usher.put_organization('{id}', e'{letters}')"),
    )
}

fn project(id: &str, organization: &str) -> Step {
    put(
        &format!("projects/{id}"),
        json!({ "name": "Apollo", "organization_id": organization }),
        &format!("usher.put_project('{id}', '{organization}', 'Apollo')"),
    )
}

fn member(target: &str, id: &str, user_id: &str, role: &str) -> Step {
    put(
        &format!("{target}s/{id}/members/{user_id}"),
        json!({ "role": role }),
        &format!("usher.put_member('{user_id}', '{role}', {target}_id => '{id}')"),
    )
}

fn removal(target: &str, id: &str, user_id: &str) -> Step {
    Step {
        method: Method::DELETE,
        path: format!("/v1/{target}s/{id}/members/{user_id}"),
        body: None,
        sql: format!("usher.remove_member('{user_id}', {target}_id => '{id}')"),
    }
}

async fn by_api(app: &TestApp, step: &Step) -> Value {
    let request = crate::support::app::request(step.method.clone(), &step.path, Some(API_KEY), step.body.clone());
    let answer = app.send(request).await;
    if answer.status.is_success() {
        return json!("done");
    }
    refused_by_api(&answer)
}

async fn by_sql(app: &TestApp, step: &Step) -> Value {
    let mut conn = app.pool.pg().acquire().await.unwrap();
    let text = format!("select {}", step.sql);
    match sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *conn).await {
        Ok(_) => json!("done"),
        Err(error) => {
            let mut refusal = refused(error);
            if refusal["status"] != 422 {
                // A column beside a conflict is more than the API says.
                refusal["field"] = Value::Null;
            }
            refusal
        }
    }
}

/// What the app is told, who is in what and which invites there are, without what differs each time.
async fn all_there_is(app: &TestApp) -> Value {
    let told: Vec<(String, String)> = app
        .pool
        .rows("select type, changes from usher_outgoing_events where type not like 'invite.sent' order by seq")
        .await;
    let members: Vec<(String, Option<String>, String, String)> = app
        .pool
        .rows(
            "select organization_id, project_id, clerk_user_id, role from usher.app_memberships
             where clerk_user_id like 'user\\_by%' order by 1, 2, 3",
        )
        .await;
    let invites: Vec<(String, Option<String>, String, String, String)> = app
        .pool
        .rows("select organization_id, project_id, email, role, status from usher.app_invites order by 1, 2, 3, 4")
        .await;
    let names: Vec<(String,)> = app
        .pool
        .rows("select name from organizations union all select name from projects order by 1")
        .await;
    json!({ "told": told, "members": members, "invites": invites, "names": names })
}

#[tokio::test]
async fn organizations_projects_and_members_are_the_same_by_sql() {
    let api = TestApp::start(TestDatabase::postgres().await).await;
    let sql = TestApp::start(TestDatabase::postgres().await).await;
    for app in [&api, &sql] {
        let _known = app.person("known@example.com", None).await;
        app.pool
            .execute("update usher_people set clerk_user_id = 'user_by_mail'; update admins set external_id = 'user_by_mail'")
            .await;
    }
    let long = "x".repeat(201);
    for step in [
        organization("acme", "Acme"),
        organization("acme", "  Acme Ltd\u{a0}"),
        organization("zeta", ""),
        organization("zeta", " \u{2003}"),
        organization("zeta", &long),
        organization("zeta", "a\u{1}b"),
        organization("zeta", "\u{200b}\u{3164}"),
        organization("zeta", "Zeta'; drop table invites; --"),
        organization("42", "\u{202e}Z"),
        project("apollo", "acme"),
        project("apollo", "nowhere"),
        project("apollo", ".."),
        member("organization", "acme", "user_by1", "owner"),
        member("organization", "acme", "user_by1", "owner"),
        member("organization", "acme", "user_by1", "member"),
        member("organization", "acme", "user_by2", "emperor"),
        member("organization", "acme", "user_by2", "client"),
        removal("organization", "acme", "user_by1"),
        removal("organization", "acme", "user_by9"),
        member("project", "apollo", "user_by2", "client"),
        member("project", "apollo", "user_by2", "editor"),
        member("organization", "acme", "user_by3", "owner"),
        member("organization", "acme", "user_by1", "member"),
        removal("project", "apollo", "user_by2"),
        member("project", "apollo", "user_by2", "client"),
        removal("organization", "acme", "user_by2"),
        member("project", "apollo", "user_by2", "support"),
        project("apollo", "zeta"),
        member("project", "apollo", "user_by3", "admin"),
    ] {
        assert_eq!(
            by_sql(&sql, &step).await,
            by_api(&api, &step).await,
            "{} {:?}",
            step.sql,
            step.body
        );
    }
    for app in [&api, &sql] {
        app.invite(json!({ "organization_id": "acme", "email": "known@example.com", "role": "member" }))
            .await;
    }
    let joins = member("organization", "acme", "user_by_mail", "owner");
    assert_eq!(by_sql(&sql, &joins).await, by_api(&api, &joins).await);
    for app in [&api, &sql] {
        app.pool
            .execute("update usher_people set banned = true where clerk_user_id = 'user_by_mail'")
            .await;
    }
    let mut answers = Vec::new();
    for app in [&api, &sql] {
        let open = app
            .invite(json!({ "project_id": "apollo", "email": "late@example.com", "role": "client" }))
            .await;
        let revoke = Step {
            method: Method::POST,
            path: format!("/v1/invites/{open}/revoke"),
            body: Some(json!({})),
            sql: format!("usher.revoke('{open}')"),
        };
        for _twice in 0..2 {
            let is_by_api = std::ptr::eq(app, &api);
            answers.push(if is_by_api {
                by_api(app, &revoke).await
            } else {
                by_sql(app, &revoke).await
            });
        }
        app.call(Method::DELETE, "/v1/organizations/zeta", None)
            .await
            .expect(204);
    }
    assert_eq!(answers[..2], answers[2..]);
    assert_eq!(
        (&answers[0], &answers[1]["code"]),
        (&json!("done"), &json!("invite_revoked"))
    );
    for step in [
        member("organization", "acme", "user_by_mail", "admin"),
        removal("organization", "acme", "user_by3"),
        member("organization", "acme", "user_by3", "member"),
        removal("organization", "acme", "user_by_mail"),
        organization("zeta", "Zeta"),
        project("apollo", "acme"),
        project("other", "zeta"),
    ] {
        assert_eq!(by_sql(&sql, &step).await, by_api(&api, &step).await, "{}", step.sql);
    }
    assert_eq!(all_there_is(&sql).await, all_there_is(&api).await);
    for app in [api, sql] {
        app.run_jobs().await;
        app.finish().await;
    }
}

#[tokio::test]
async fn the_functions_say_what_they_did() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    app.pool.execute("select usher.put_organization('acme', 'Acme')").await;
    let put = |role: &str| format!("select usher.put_member('user_ada', '{role}', 'acme')");
    for (deed, said) in [
        (put("member").as_str(), "added"),
        (put("member").as_str(), "unchanged"),
        (put("admin").as_str(), "changed"),
        ("select usher.remove_member('user_ada', 'acme')::text", "true"),
        ("select usher.remove_member('user_ada', 'acme')::text", "false"),
        (put("member").as_str(), "added"),
    ] {
        assert_eq!(app.pool.text(deed).await.as_deref(), Some(said), "{deed}");
    }
    app.finish().await;
}

/// As the app's own role, which may call the functions and read the views and nothing else.
#[tokio::test]
async fn an_organization_its_owner_and_the_first_invite_are_one_transaction_of_the_app() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    let role = format!("app_{}", app.clock.new_id().simple());
    let grants = crate::support::docs_sql("### Rights");
    app.pool.execute(&format!("create role {role}")).await;
    app.pool
        .execute(
            &grants
                .replace("(text, text) ", "(bigint, text) ")
                .replace("(text, text, text) ", "(bigint, bigint, text) ")
                .replace("(text, text, text, text) ", "(text, text, bigint, bigint) ")
                .replace(
                    "(text, text, text, text, text, interval",
                    "(text, text, bigint, bigint, text, interval",
                )
                .replace(" to app;", &format!(" to {role};")),
        )
        .await;
    let mut conn = app.pool.pg().acquire().await.unwrap().detach();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "set role {role}; set search_path = public"
    )))
    .execute(&mut conn)
    .await
    .unwrap();
    for outcome in ["rollback", "commit"] {
        let text = format!(
            "begin;
             select usher.put_organization(7::bigint, 'Acme');
             select usher.put_project(8::bigint, 7::bigint, 'Apollo');
             select usher.put_member('user_founder', 'owner', organization_id => 7::bigint);
             select usher.invite('ada@example.com', 'client', project_id => 8::bigint, invited_by => 'user_founder');
             {outcome};"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(text))
            .execute(&mut conn)
            .await
            .unwrap();
        let members: i64 = sqlx::query_scalar("select count(*) from usher.app_memberships")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        let invites: i64 = sqlx::query_scalar("select count(*) from usher.app_invites")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        let expected = i64::from(outcome == "commit");
        assert_eq!((members, invites), (expected, expected), "{outcome}");
        assert_eq!(app.pool.count("usher_app_ids").await, 2 * expected);
        assert_eq!(app.pool.count("usher_outgoing_events").await, 2 * expected);
    }
    for forbidden in ["select * from usher.invites", "select usher.usher_read_name('x')"] {
        let refused = sqlx::raw_sql(forbidden).execute(&mut conn).await.unwrap_err();
        assert_eq!(
            refused.as_database_error().and_then(|error| error.code()).as_deref(),
            Some("42501"),
            "{forbidden}"
        );
    }
    app.run_jobs().await;
    assert_eq!(app.mails().len(), 1);
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "reset role; drop owned by {role}; drop role {role}"
    )))
    .execute(&mut conn)
    .await
    .unwrap();
    conn.close().await.unwrap();
    app.finish().await;
}
