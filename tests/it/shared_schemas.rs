//! `USHER_TABLES=shared` beside apps of many shapes: adopted without harm, or refused before anything is changed.

use uuid::Uuid;

use usher::store::Rules;

use crate::support::{TestApp, TestDatabase};

const ACME: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0000);

/// What there is of tables, columns, constraints, triggers and schemas.
const CATALOG: &str = "
select string_agg(line, E'\\n' order by line) from (
    select format('%s.%s %s', c.oid::regclass, a.attname, a.attnotnull) from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.oid > 16000 and a.attnum > 0 and c.relnamespace <> 'pg_toast'::regnamespace
    union all select conname || pg_get_constraintdef(oid) from pg_constraint where conrelid > 16000
    union all select tgname from pg_trigger where tgrelid > 16000
    union all select nspname from pg_namespace
) as things (line)";

#[tokio::test]
async fn what_does_not_fit_is_named_and_left_as_it_is() {
    for (schema, words) in [
        (
            include_str!("../schemas/identities.sql"),
            "the table organization_members refers to organizations and admins and has rows",
        ),
        (
            include_str!("../schemas/prisma.sql"),
            "there is no table organizations in the schema public",
        ),
        (
            include_str!("../schemas/rails.sql"),
            "organizations.id is of the type int8, but usher needs uuid",
        ),
        (
            include_str!("../schemas/clerk_ids.sql"),
            "organizations.id is of the type text, but usher needs uuid",
        ),
        (
            include_str!("../schemas/own_invites.sql"),
            "there is a table invites that is not usher's",
        ),
    ] {
        let database = TestDatabase::empty_postgres().await;
        database.pool.execute(schema).await;
        let before = database.pool.text(CATALOG).await;
        let refused = database
            .migrate_shared(&Rules::default())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(words) && refused.contains("USHER_TABLES=own"),
            "{refused}"
        );
        assert_eq!(database.pool.text(CATALOG).await, before, "{words}");
    }
}

#[tokio::test]
async fn the_issues_own_shape_is_adopted_and_the_app_goes_on() {
    let database = TestDatabase::empty_postgres().await;
    database.pool.execute(include_str!("../schemas/issue.sql")).await;
    let ada = "select (to_jsonb(a) - 'first_name' - 'last_name' - 'image_url' - 'created_at' - 'updated_at' - 'deleted_at')::text
               from admins a where external_id = 'user_ada'";
    let before = database.pool.text(ada).await;
    database.migrate_shared(&Rules::default()).await.unwrap();
    let app = TestApp::start_shared(database).await;
    // Clerk tells of people that the app has and of people that it has not.
    let mut known = app.clerk().old_user("other@example.com");
    known.id = "user_ada".to_owned();
    app.clerk().tells_of(&known).await;
    app.earlier_person("stranger@example.com").await;
    assert_eq!(app.pool.count("admins").await, 1);
    assert_eq!(
        app.pool.text(ada).await,
        before,
        "usher changes nothing of what the app keeps"
    );

    app.person("new@example.com", Some((ACME, "member"))).await;
    assert_eq!(
        app.members(ACME).await,
        ["new@example.com member", "other@example.com owner"]
    );
    // The app's next migrations.
    app.pool
        .execute(
            "alter table admins add column phone text; alter table admins alter column organization_id set not null;
             alter table organizations add column slug text; update admins set phone = '1'",
        )
        .await;
    app.person("later@example.com", Some((ACME, "admin"))).await;
    assert_eq!(app.members(ACME).await.len(), 3);
    app.run_jobs().await;
    app.finish().await;
}
