//! usher with tables of its own beside apps of many shapes: nothing of theirs is touched.

use serde_json::json;
use sqlx::Connection as _;
use usher::store::Rules;

use crate::support::db::TestPool;
use crate::support::{TestApp, TestDatabase};

/// All of the app's: columns, constraints, indexes, functions, triggers, policies, comments, extensions but usher's.
const CATALOG: &str = "
select string_agg(line, E'\\n' order by line) from (
    select format('column %s.%s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid))
    from pg_attribute a join pg_class c on c.oid = a.attrelid left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = 'public'::regnamespace and a.attnum > 0
    union all select format('%s %s %s', relname, relkind, relacl) from pg_class where relnamespace = 'public'::regnamespace
    union all select format('%s %s', conname, pg_get_constraintdef(oid)) from pg_constraint where connamespace = 'public'::regnamespace
    union all select pg_get_functiondef(p.oid) from pg_proc p where pronamespace = 'public'::regnamespace and prokind = 'f'
        and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
    union all select pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid
        where c.relnamespace = 'public'::regnamespace and not tgisinternal
    union all select format('policy %s', polname) from pg_policy
) as things (line)";

/// By names with their schema, whatever the search path.
async fn catalog(url: &str) -> Option<String> {
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("set search_path = pg_catalog")
        .execute(&mut conn)
        .await
        .unwrap();
    sqlx::query_scalar(CATALOG).fetch_one(&mut conn).await.unwrap()
}

async fn rows(pool: &TestPool) -> Vec<String> {
    let tables =
        "select format('select string_agg(t::text, chr(10) order by t::text) from public.%I t', relname) from pg_class
                  where relnamespace = 'public'::regnamespace and relkind = 'r' order by relname";
    let tables: Vec<(String,)> = pool.rows(tables).await;
    let mut rows = Vec::new();
    for (text,) in tables {
        rows.push(pool.text(&text).await.unwrap_or_default());
    }
    rows
}

/// Invited, mailed, signed up, a member: with the app's own ids.
async fn a_whole_life(app: &TestApp, organization: &str) {
    app.put(&format!("/v1/organizations/{organization}"), json!({ "name": "Acme" }))
        .await
        .expect(201);
    app.invite(json!({ "organization_id": organization, "email": "new@example.com", "role": "admin" }))
        .await;
    app.run_jobs().await;
    assert_eq!(app.mails().len(), 1);
    let new = app.person("new@example.com", None).await;
    let theirs = app.get(&format!("/v1/users/{}/memberships", new.id)).await.expect(200);
    assert_eq!(theirs["items"][0]["organization"]["id"], organization);
    assert_eq!(theirs["items"][0]["role"], "admin");
    // By SQL, in the app's transaction.
    let by_sql = format!(
        "select count(*)::text from usher.invite('sql@example.com', 'member', organization_id => '{organization}')"
    );
    assert_eq!(app.pool.text(&by_sql).await.as_deref(), Some("1"));
    app.run_jobs().await;
    app.clerk().user_deleted(&new).await;
    app.run_jobs().await;
}

async fn beside(schema: &str, organization: &str) {
    let database = TestDatabase::empty_postgres().await;
    database.pool.execute(schema).await;
    let (before_catalog, before) = (catalog(&database.url).await, rows(&database.pool).await);
    database.migrate(&Rules::default()).await.expect("a schema");
    let app = TestApp::start(database).await;
    a_whole_life(&app, organization).await;
    assert_eq!(catalog(app.app.config.database_url.expose()).await, before_catalog);
    assert_eq!(rows(&app.pool).await, before);
    app.finish().await;
}

macro_rules! beside {
    ($($name:ident: $organization:literal,)+) => {
        $(#[tokio::test]
        async fn $name() {
            let schema = include_str!(concat!("../schemas/", stringify!($name), ".sql"));
            beside(schema, $organization).await;
        })+
    };
}

beside! {
    issue: "a0000000-0000-4000-8000-000000000000",
    identities: "b0000000-0000-4000-8000-000000000000",
    prisma: "clh3am7y10000s6k5x0z1",
    rails: "1",
    clerk_ids: "org_2abc",
    own_invites: "1",
}

#[tokio::test]
async fn ids_are_the_same_in_sql() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    for id in [
        "42",
        "org_2abc",
        "a.b:c~d|e=f-g_h",
        "A0000000-0000-4000-8000-00000000000F",
    ] {
        let key = usher::app_id::AppId::parse(id).unwrap().key().to_string();
        let by_sql = app
            .pool
            .text(&format!("select usher.usher_app_id_key('{id}')::text"))
            .await;
        assert_eq!(by_sql, Some(key), "{id}");
    }
    app.put("/v1/organizations/42", json!({ "name": "Acme" }))
        .await
        .expect(201);
    for by_sql in [
        "organization_id => 42",
        "organization_id => '42'",
        "organization_id => '42'::text",
    ] {
        let text = format!("select count(*)::text from usher.invite('ada@example.com', 'member', {by_sql})");
        assert_eq!(app.pool.text(&text).await.as_deref(), Some("1"), "{by_sql}");
    }
    app.run_jobs().await;
    app.finish().await;
}
