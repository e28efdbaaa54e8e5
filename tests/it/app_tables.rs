//! `USHER_TABLES=shared` while the app goes on: it drops columns, adds others that must have a value, and forbids what usher would
//! write. Nothing of it stops usher, and each refusal is named.

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::{Value, json};
use usher::secret::Secret;
use usher::store::Rules;
use usher_testkit::fake_clerk::FakeUser;
use uuid::Uuid;

use crate::support::{TestApp, TestDatabase};

const ACME: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0000);

/// The issue's own shape, where Ada owns Acme.
async fn issue() -> TestDatabase {
    let database = TestDatabase::empty_postgres().await;
    database.pool.execute(include_str!("../schemas/issue.sql")).await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    database
}

async fn shared() -> TestApp {
    TestApp::start_shared(issue().await).await
}

/// All that may happen to invites and members, once, with people of its own.
async fn life(app: &TestApp, n: usize) {
    let address = |name: &str| format!("{name}{n}@example.com");
    let mails = app.mails().len();
    app.put(&format!("/v1/organizations/{ACME}"), json!({ "name": "Acme" }))
        .await
        .expect(200);
    let project = app.project(ACME, "Apollo").await;
    let rename = json!({ "name": "Artemis", "organization_id": ACME });
    app.put(&format!("/v1/projects/{project}"), rename).await.expect(200);

    // A new person is accepted at once, an earlier one is asked; the inviter gets a notice.
    let invite = json!({
        "project_id": project, "email": address("new"), "role": "editor", "invited_by": "user_ada",
    });
    let invite = app.invite(invite).await;
    app.run_jobs().await;
    let token = app.token_in_mail_to(&address("new"));
    app.get(&format!("/v1/invite-links/{token}")).await.expect(200);
    let new = app.person(&address("new"), None).await;
    assert_eq!(app.show(&invite).await["status"], "accepted");
    assert_eq!(app.mails().len(), mails + 2, "the invite and the notice");
    let old = app.earlier_person(&address("old")).await;
    let asked = app.invite_to_organization(ACME, &address("old"), "member").await;
    app.clock.advance(TimeDelta::minutes(10));
    app.post(&format!("/v1/invites/{asked}/resend"), json!({}))
        .await
        .expect(202);
    app.run_jobs().await;
    assert_eq!(app.signed_in(&old).banner_ids().await, std::slice::from_ref(&asked));
    app.signed_in(&old).accept(&asked).await.expect(200);

    let project_members = app.project_members(project).await;
    assert_eq!(project_members, [format!("{} editor", address("new"))]);
    for name in ["new", "old"] {
        assert!(app.members(ACME).await.contains(&format!("{} member", address(name))));
    }
    let theirs = app.get(&format!("/v1/users/{}/memberships", new.id)).await.expect(200);
    assert_eq!(theirs["items"].as_array().unwrap().len(), 2);
    let list = app
        .get(&format!("/v1/invites?email={}", address("new")))
        .await
        .expect(200);
    assert_eq!(list["items"][0]["id"], json!(invite));

    // From SQL, and revoked.
    let by_sql = format!(
        "select invite_id::text from usher.invite('{}', 'member', organization_id => '{ACME}', invited_by => 'user_ada')",
        address("sql")
    );
    let by_sql = app.pool.text(&by_sql).await.unwrap();
    app.clock.advance(TimeDelta::minutes(10));
    app.run_jobs().await;
    app.post(&format!("/v1/invites/{by_sql}/revoke"), json!({}))
        .await
        .expect(200);

    // Banned, removed, deleted.
    let mut banned = new.clone();
    banned.banned = true;
    banned.updated_at = app.now();
    app.clerk().tell("user.updated", banned.to_json()).await;
    let member = format!("/v1/organizations/{ACME}/members/{}", old.id);
    app.call(Method::DELETE, &member, None).await.expect(204);
    let role = json!({ "role": "admin" });
    app.put(&member, role).await.expect(201);
    app.clerk().user_deleted(&old).await;
    app.run_jobs().await;
    assert!(!app.members(ACME).await.contains(&format!("{} admin", address("old"))));
    let project = format!("/v1/projects/{project}");
    app.call(Method::DELETE, &project, None).await.expect(204);
    app.run_jobs().await;
    let feed = app.get("/v1/events?limit=500").await.expect(200);
    assert!(feed["items"].as_array().unwrap().len() > 5);
    let failed = "usher_events where processed_at is null";
    assert_eq!(app.pool.count(failed).await, 0);
}

#[tokio::test]
async fn the_app_may_drop_each_column_but_the_ids_and_all_goes_on() {
    let app = shared().await;
    let mut ada = app.clerk().old_user("ada@example.com");
    ada.id = "user_ada".to_owned();
    app.clerk().tells_of(&ada).await;
    life(&app, 0).await;
    let columns = [
        (
            "admins",
            &[
                "email",
                "first_name",
                "last_name",
                "image_url",
                "role",
                "organization_id",
            ][..],
        ),
        ("organizations", &["name"]),
        ("projects", &["name"]),
    ];
    let times = ["created_at", "updated_at", "deleted_at"];
    let mut n = 0;
    for (table, own) in columns {
        for column in own.iter().chain(&times) {
            n += 1;
            app.pool
                .execute(&format!("alter table {table} drop column {column}"))
                .await;
            life(&app, n).await;
        }
    }
    for column in ["id", "created_at", "updated_at"] {
        n += 1;
        app.pool
            .execute(&format!("alter table project_admins drop column {column}"))
            .await;
        life(&app, n).await;
    }
    app.finish().await;
}

#[tokio::test]
async fn a_person_has_the_name_and_the_address_that_clerk_tells() {
    let app = shared().await;
    let mut ada = app.clerk().old_user("countess@example.com");
    ada.id = "user_ada".to_owned();
    assert_eq!(
        app.members(ACME).await,
        ["ada@example.com owner"],
        "the app's, until Clerk tells"
    );
    app.clerk().tells_of(&ada).await;
    app.run_jobs().await;
    assert_eq!(app.members(ACME).await, ["countess@example.com owner"]);
    assert_eq!(
        app.pool.count("admins where email = 'ada@example.com'").await,
        1,
        "the app's row stays as it is"
    );
    app.finish().await;
}

fn detail(answer: &Value) -> &str {
    answer["detail"].as_str().unwrap()
}

#[tokio::test]
async fn what_only_the_app_can_fill_is_named_and_nothing_is_stored() {
    let app = shared().await;
    app.pool
        .execute(
            "alter table organizations add column billing text not null default 'x', add column plan text not null default 'x';
             alter table organizations alter column billing drop default, alter column plan drop default;
             alter table projects add column budget integer not null default 0; alter table projects alter column budget drop default",
        )
        .await;
    let (acme, new) = (format!("/v1/organizations/{ACME}"), app.clock.new_id());
    let refused = app
        .put(&format!("/v1/organizations/{new}"), json!({ "name": "New" }))
        .await;
    assert_eq!(refused.problem(409), "app_must_create");
    assert!(
        detail(&refused.json()).starts_with("organizations.billing and organizations.plan"),
        "{refused:?}"
    );
    let project = format!("/v1/projects/{}", app.clock.new_id());
    let body = json!({ "name": "New", "organization_id": ACME });
    let refused = app.put(&project, body.clone()).await;
    assert_eq!(refused.problem(409), "app_must_create");
    assert!(detail(&refused.json()).starts_with("projects.budget"), "{refused:?}");
    assert_eq!(app.pool.count("organizations").await, 1);
    assert_eq!(app.pool.count("projects").await, 0);

    // What is there is renamed, if there is a name; what the app makes is found.
    app.put(&acme, json!({ "name": "Acme Inc." })).await.expect(200);
    assert_eq!(app.pool.count("organizations where name = 'Acme Inc.'").await, 1);
    app.pool
        .execute(&format!(
            "insert into projects (id, organization_id, name, budget) values ('{}', '{ACME}', 'Old', 1)",
            project.rsplit('/').next().unwrap()
        ))
        .await;
    assert_eq!(app.put(&project, body).await.expect(200)["name"], "New");
    app.pool.execute("alter table organizations drop column name").await;
    assert_eq!(app.put(&acme, json!({ "name": "Acme" })).await.expect(200)["name"], "");
    app.finish().await;
}

#[tokio::test]
async fn what_a_constraint_of_the_apps_forbids_is_named() {
    let app = shared().await;
    app.pool
        .execute(
            "alter table organizations add constraint short_names check (length(name) < 9);
             create unique index one_name on organizations (name);
             alter table projects alter column name type varchar(5)",
        )
        .await;
    let (acme, other) = (
        format!("/v1/organizations/{ACME}"),
        format!("/v1/organizations/{}", app.clock.new_id()),
    );
    for (path, name, constraint) in [
        (&acme, "Acme Incorporated", "short_names on organizations"),
        (&other, "Acme Incorporated", "short_names on organizations"),
        (&other, "Acme", "one_name on organizations"),
    ] {
        let refused = app.put(path, json!({ "name": name })).await;
        assert_eq!(refused.problem(409), "app_refused");
        assert!(detail(&refused.json()).contains(constraint), "{refused:?}");
    }
    let body = json!({ "name": "Apollo", "organization_id": ACME });
    let refused = app.put(&format!("/v1/projects/{}", app.clock.new_id()), body).await;
    assert_eq!(refused.problem(409), "app_refused");
    assert_eq!(app.pool.count("organizations where name = 'Acme'").await, 1);
    assert_eq!(
        app.pool.count("organizations").await + app.pool.count("projects").await,
        1
    );
    app.finish().await;
}

#[tokio::test]
async fn a_member_whose_address_the_app_needs_is_added_once_clerk_has_told() {
    let app = shared().await;
    let member = |id: &str| format!("/v1/organizations/{ACME}/members/{id}");
    let role = json!({ "role": "member" });
    let refused = app.put(&member("user_newexamplecom"), role.clone()).await;
    assert_eq!(refused.problem(409), "not_synced");
    assert_eq!(refused.headers["retry-after"], "1");
    let known = app.earlier_person("known@example.com").await;
    let batch = ["user_newexamplecom", &known.id]
        .map(|id| json!({ "organization_id": ACME, "clerk_user_id": id, "role": "member" }));
    let answers = app
        .post("/v1/members/batch", json!({ "members": batch }))
        .await
        .expect(200);
    assert_eq!(answers["results"][0]["problem"]["code"], "not_synced");
    assert_eq!(answers["results"][1]["status"], 201, "the other is not affected");
    assert_eq!(app.pool.count("admins").await, 2);
    let events = "usher_outgoing_events where type = 'membership.created'";
    assert_eq!(app.pool.count(events).await, 1);

    app.earlier_person("new@example.com").await;
    app.put(&member("user_newexamplecom"), role.clone()).await.expect(201);
    // The row has what the app's schema promises: no null, and the role that they came with.
    let row = "admins where email = 'new@example.com' and role = 'member'";
    assert_eq!(app.pool.count(row).await, 1);

    // A person that Clerk knows by telephone alone has no address; a name that is missing is empty.
    app.pool
        .execute("update admins set last_name = ''; alter table admins alter column last_name set not null")
        .await;
    let mut phone = app.clerk().old_user("phone@example.com");
    phone.emails.clear();
    phone.last_name = None;
    app.clerk().tells_of(&phone).await;
    app.run_jobs().await;
    let refused = app.put(&member(&phone.id), role.clone()).await;
    assert_eq!(refused.problem(409), "app_must_create");
    assert!(
        detail(&refused.json()).starts_with("admins.email must not be null"),
        "{refused:?}"
    );
    app.pool
        .execute("alter table admins alter column email drop not null")
        .await;
    app.put(&member(&phone.id), role).await.expect(201);
    assert_eq!(app.pool.count("admins where email is null and last_name = ''").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn clerk_is_asked_about_a_member_whose_address_the_app_needs() {
    let users = axum::routing::get(async |axum::extract::Path(id): axum::extract::Path<String>| {
        let email = format!("{}@example.com", id.trim_start_matches("user_"));
        axum::Json(FakeUser::new(id, &email, chrono::DateTime::UNIX_EPOCH).to_json())
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/v1/users/{id}", users);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let app = TestApp::start_with(issue().await, |settings| {
        settings.usher_tables = Some("shared".to_owned());
        settings.clerk_secret_key = Some(Secret::from("sk_test_of_app_tables".to_owned()));
        settings.clerk_api_url = Some(url);
    })
    .await;
    let member = format!("/v1/organizations/{ACME}/members/user_new");
    app.put(&member, json!({ "role": "member" })).await.expect(201);
    let batch = ["user_ada", "user_one", "user_two"]
        .map(|id| json!({ "organization_id": ACME, "clerk_user_id": id, "role": "owner" }));
    let answers = app
        .post("/v1/members/batch", json!({ "members": batch }))
        .await
        .expect(200);
    let statuses = answers["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["status"].clone());
    assert_eq!(statuses.collect::<Vec<_>>(), [200, 201, 201]);
    let names = "admins where email in ('new@example.com', 'one@example.com', 'two@example.com')";
    assert_eq!(app.pool.count(names).await, 3);
    app.run_jobs().await;
    app.finish().await;
}

#[tokio::test]
async fn an_invite_that_the_apps_tables_refuse_waits_and_takes_no_other_with_it() {
    let app = shared().await;
    let project = app.project(ACME, "Apollo").await;
    let forbid = [
        (
            "alter table project_admins add constraint no_editors check (role <> 'editor')",
            "alter table project_admins drop constraint no_editors",
        ),
        (
            "create function full() returns trigger language plpgsql as 'begin raise exception ''the plan is full''; end';
             create trigger no_more before insert on project_admins for each row execute function full()",
            "drop trigger no_more on project_admins; drop function full()",
        ),
        (
            "create function late() returns trigger language plpgsql as 'begin raise exception ''too many''; end';
             create constraint trigger at_commit after insert on project_admins deferrable initially deferred
             for each row execute function late()",
            "drop trigger at_commit on project_admins; drop function late()",
        ),
        (
            "alter table project_admins add column seat integer not null default 0; alter table project_admins alter column seat drop default",
            "alter table project_admins drop column seat",
        ),
    ];
    for (n, (forbid, allow)) in forbid.into_iter().enumerate() {
        app.pool.execute(forbid).await;
        let email = format!("new{n}@example.com");
        let into_project = json!({ "project_id": project, "email": email, "role": "editor" });
        let into_project = app.invite(into_project).await;
        // Two at once, and one of them alone is refused.
        let new = app.person(&email, Some((ACME, "admin"))).await;
        assert!(app.members(ACME).await.contains(&format!("{email} admin")));
        assert_eq!(app.show(&into_project).await["status"], "pending");
        assert_eq!(
            app.pool.count("usher_events where processed_at is null").await,
            0,
            "no endless retry"
        );
        let reason = "usher_invite_history where event = 'refused' and reason = 'app_refuses'";
        assert_eq!(app.pool.count(reason).await, n as i64 + 1);
        let invitee = app.signed_in(&new);
        assert_eq!(invitee.accept(&into_project).await.problem(409), "app_refused");
        let person = format!("/v1/projects/{project}/members/{}", new.id);
        let put = app.put(&person, json!({ "role": "editor" })).await;
        assert_eq!(put.status, 409, "{put:?}");
        app.pool.execute(allow).await;
        invitee.accept(&into_project).await.expect(200);
        assert!(app.project_members(project).await.contains(&format!("{email} editor")));
    }
    app.run_jobs().await;
    app.finish().await;
}

#[tokio::test]
async fn a_member_that_clerk_has_not_told_of_is_known_by_their_address() {
    let app = shared().await;
    app.pool
        .execute(&format!(
            "insert into admins (id, organization_id, email, role) values (gen_random_uuid(), '{ACME}', 'Bob@Example.com', 'admin')"
        ))
        .await;
    let project = app.project(ACME, "Apollo").await;
    let invite = |email: &str, role: &str| json!({ "organization_id": ACME, "email": email, "role": role });
    let by_sql = |email: &str, role: &str| {
        format!("select invite_id::text from usher.invite('{email}', '{role}', organization_id => '{ACME}')")
    };
    for email in ["bob@example.com", " BOB@EXAMPLE.COM", "ada@example.com"] {
        assert_eq!(
            app.post("/v1/invites", invite(email, "member")).await.problem(409),
            "already_member"
        );
        let refused = sqlx::query(sqlx::AssertSqlSafe(by_sql(email, "member")))
            .fetch_one(app.pool.pg())
            .await;
        assert!(
            refused.unwrap_err().to_string().contains("is a member already"),
            "{email}"
        );
    }
    let in_project = json!({ "project_id": project, "email": "bob@example.com", "role": "admin" });
    assert_eq!(app.post("/v1/invites", in_project).await.problem(409), "already_member");
    app.run_jobs().await;
    assert_eq!(app.mails().len(), 0);
    // A higher role is an offer, and so is the same to an address that differs by more than ASCII case.
    app.post("/v1/invites", invite("bob@example.com", "owner"))
        .await
        .expect(201);
    app.post("/v1/invites", invite("b\u{f6}b@example.com", "member"))
        .await
        .expect(201);
    assert!(app.pool.text(&by_sql("ada.l@example.com", "member")).await.is_some());

    // An invite from before the app itself made them a member is not asked about any more.
    let eve = app.earlier_person("eve@example.com").await;
    let open = app.invite_to_organization(ACME, "eve@example.com", "member").await;
    app.run_jobs().await;
    assert_eq!(app.signed_in(&eve).banner_ids().await, std::slice::from_ref(&open));
    app.pool
        .execute(&format!(
            "insert into admins (id, organization_id, external_id, email, role)
             values (gen_random_uuid(), '{ACME}', '{}', 'eve@example.com', 'member')",
            eve.id
        ))
        .await;
    assert_eq!(app.signed_in(&eve).banner_ids().await, [""; 0]);
    let known_later = app.invite_to_organization(ACME, "zoe@example.com", "member").await;
    app.run_jobs().await;
    app.pool
        .execute(&format!(
            "insert into admins (id, organization_id, email, role) values (gen_random_uuid(), '{ACME}', 'zoe@example.com', 'member')"
        ))
        .await;
    app.earlier_person("zoe@example.com").await;
    assert_eq!(app.show(&known_later).await["status"], "pending");
    assert_eq!(
        app.pool
            .count("invites where flagged_at is not null and email like 'zoe%'")
            .await,
        0
    );
    app.run_jobs().await;
    app.finish().await;
}

#[tokio::test]
async fn the_apps_profiles_follow_clerk_only_where_that_is_wanted() {
    for is_on in [false, true] {
        let app = TestApp::start_with(issue().await, |settings| {
            settings.usher_tables = Some("shared".to_owned());
            settings.usher_sync_profiles = Some(if is_on { "on" } else { "off" }.to_owned());
        })
        .await;
        app.app.store.migrate(&app.app.config.rules()).await.unwrap();
        app.pool
            .execute(&format!(
                "update admins set first_name = 'A.', last_name = 'L.';
                 insert into admins (id, organization_id, email, role) values (gen_random_uuid(), '{ACME}', 'bob@example.com', 'member')"
            ))
            .await;
        let mut ada = app.clerk().old_user("countess@example.com");
        ada.id = "user_ada".to_owned();
        ada.first_name = Some("Ada".to_owned());
        ada.last_name = None;
        let row = "select concat_ws(' ', first_name, last_name, email) from admins where external_id = 'user_ada'";
        let mut tell = async |email: &str, expected: &str| {
            app.clock.advance(TimeDelta::minutes(1));
            ada.updated_at = app.now();
            ada.emails = vec![(email.to_owned(), true)];
            app.clerk().tells_of(&ada).await;
            app.run_jobs().await;
            let expected = if is_on { expected } else { "A. L. ada@example.com" };
            assert_eq!(app.pool.text(row).await.as_deref(), Some(expected), "{email}");
        };
        tell("countess@example.com", "Ada L. countess@example.com").await;
        // Another row has it, and the app's addresses are unique: it stays away, and the rest is written.
        tell("bob@example.com", "Ada L. countess@example.com").await;
        app.pool
            .execute("alter table admins add constraint short check (length(email) < 22)")
            .await;
        tell("ada.lovelace@example.com", "Ada L. countess@example.com").await;
        app.pool
            .execute("alter table admins drop column image_url, drop column updated_at")
            .await;
        tell("ada@example.com", "Ada L. ada@example.com").await;
        assert_eq!(app.pool.count("usher_events where processed_at is null").await, 0);
        app.finish().await;
    }
}

#[tokio::test]
async fn reading_an_apps_tables_goes_by_their_indexes() {
    let database = issue().await;
    database
        .pool
        .execute(&format!(
            "set session_replication_role = replica;
             insert into admins (id, organization_id, external_id, email, role)
             select gen_random_uuid(), '{ACME}', 'user_' || n, n || '@example.com', 'member' from generate_series(1, 20000) n;
             set session_replication_role = origin; analyze admins"
        ))
        .await;
    for dropped in [
        "select 1",
        "alter table admins drop column created_at, drop column deleted_at, drop column last_name",
    ] {
        database.pool.execute(dropped).await;
        for statement in [
            "select a.id, a.last_name from usher.usher_admins a where a.external_id = 'user_7' and a.deleted_at is null
                 order by a.created_at, a.id limit 1",
            "select i.id, a.email from invites i left join usher.usher_admins a on a.id = i.invited_by where i.id = gen_random_uuid()",
        ] {
            let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("explain {statement}")))
                .fetch_all(database.pool.pg())
                .await
                .unwrap();
            let plan = plan.join("\n");
            assert!(
                plan.contains("Index Scan") && !plan.contains("Seq Scan on admins"),
                "{plan}"
            );
            assert!(!plan.contains("Function Scan"), "{plan}");
        }
    }
}

#[tokio::test]
async fn what_the_app_has_declared_stays_and_a_dump_without_ushers_tables_works() {
    let database = TestDatabase::empty_postgres().await;
    database.pool.execute(include_str!("../schemas/issue.sql")).await;
    database
        .pool
        .execute(
            "create table organization_users (id uuid primary key default gen_random_uuid(),
                 organization_id uuid not null references organizations (id) on delete restrict,
                 admin_id uuid not null references admins (id) on delete restrict, role text not null,
                 unique (organization_id, admin_id))",
        )
        .await;
    let declared = "select string_agg(line, ' ' order by line) from (
        select conname || pg_get_constraintdef(oid) from pg_constraint where connamespace = 'public'::regnamespace
            and conrelid::regclass::text in ('organizations', 'admins', 'projects', 'project_admins', 'organization_users')
        union all select attrelid::regclass || attname from pg_attribute where attnotnull
            and attrelid::regclass::text in ('organizations', 'admins', 'projects', 'organization_users')
            and attname not in ('created_at', 'updated_at')) as lines (line)";
    let before = database.pool.text(declared).await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    assert_eq!(database.pool.text(declared).await, before);

    database
        .pool
        .execute("drop table usher.usher_settings, organization_users cascade")
        .await;
    database
        .pool
        .execute(&format!(
            "insert into admins (id, organization_id, email, role) values (gen_random_uuid(), '{ACME}', 'bob@example.com', 'member');
             update admins set role = 'owner'"
        ))
        .await;
    assert_eq!(database.pool.count("admins where role = 'owner'").await, 2);
}

#[tokio::test]
async fn rows_in_admins_that_may_not_be_changed_hold_no_event_up() {
    let app = shared().await;
    app.pool
        .execute(&format!(
            "alter table admins add unique (external_id);
             insert into admins (id, organization_id, external_id, email, role, deleted_at) values
                 (gen_random_uuid(), '{ACME}', 'user_bobexamplecom', 'gone@example.com', 'member', now());
             insert into admins (id, organization_id, email, role) values
                 (gen_random_uuid(), '{ACME}', 'bob@example.com', 'member'), (gen_random_uuid(), '{ACME}', 'eve@example.com', 'member')"
        ))
        .await;
    // Together, and Eve is linked though Bob can't be.
    for email in ["bob@example.com", "eve@example.com"] {
        app.clerk().user_created(email).await;
    }
    app.run_jobs().await;
    assert_eq!(app.pool.count("usher_people where email is not null").await, 2);
    let linked = "select string_agg(email, ' ') from admins where external_id is not null and deleted_at is null";
    assert_eq!(
        app.pool.text(linked).await.as_deref(),
        Some("ada@example.com eve@example.com")
    );

    app.pool
        .execute(
            "create function keep() returns trigger language plpgsql as 'begin raise exception ''kept''; end';
             create trigger keep before update on admins for each row execute function keep()",
        )
        .await;
    let eve = app.clerk().user("eve@example.com");
    app.clerk().user_deleted(&eve).await;
    app.run_jobs().await;
    assert_eq!(app.pool.count("organization_users m join admins a on a.id = m.admin_id where a.email = 'eve@example.com' and m.deleted_at is null").await, 0);
    assert_eq!(app.pool.count("usher_events where processed_at is null").await, 0);
    app.finish().await;
}
