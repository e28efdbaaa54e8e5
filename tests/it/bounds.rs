//! What is too deep, too long or out of range: refused where it comes in, with a reason, and not tried for two days.

use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::{Value, json};
use usher_testkit::fake_clerk;

use crate::support::app::{API_KEY, request};
use crate::support::clerk::signed;
use crate::support::{TestApp, TestDatabase, jobs, stories};

/// An event about somebody, with `data` changed.
fn user_event(app: &TestApp, email: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut data = app.clerk().user(email).to_json();
    change(&mut data);
    fake_clerk::event("user.created", data, app.now()).to_string()
}

async fn deliver(app: &TestApp, svix_id: &str, body: &str) {
    app.deliver(signed(app, svix_id, body)).await.expect(202);
}

/// The only attempt failed for good, and the inbox says why.
async fn assert_unreadable_at_once(app: &TestApp, svix_id: &str) -> String {
    let of_it = format!("usher_events where svix_id = '{svix_id}' and processed_at is null and payload is not null");
    assert_eq!(app.pool.count(&of_it).await, 1, "{svix_id} is kept");
    let job = jobs::all(&app.pool)
        .await
        .into_iter()
        .find(|job| String::from_utf8_lossy(&job.job).contains(&format!("\"{svix_id}\"")));
    let job = job.expect("its job");
    assert_eq!((job.status.as_str(), job.attempts), ("Killed", 1), "{svix_id}");
    let error = format!("select error from usher_events where svix_id = '{svix_id}'");
    app.pool.text(&error).await.expect("its error")
}

stories! {
    async fn an_event_that_is_nested_deeper_than_any_stack_is_kept_with_its_error(app) {
        let nest = |open: &str, inside: &str, close: &str, times: usize| {
            format!("{}{inside}{}", open.repeat(times), close.repeat(times))
        };
        for (n, body) in [
            format!(r#"{{"type":"user.created",{}}}"#, nest(r#""data":{"#, r#""data":1"#, "}", 6_000)),
            format!(r#"{{"type":"user.created","data":{{{}}}}}"#, nest(r#""user":{"#, r#""id":1"#, "}", 20_000)),
            format!(r#"{{"type":"user.deleted","data":{}}}"#, nest("[", "", "]", 100_000)),
            format!(r#"{{"type":"user.deleted","data":{{"id":{}}}}}"#, nest(r#"{"id":"#, "1", "}", 20_000)),
            format!(r#"{{"type":"user.updated","data":{{"id":"user_1","email_addresses":{}}}}}"#, nest("[", "", "]", 100_000)),
            format!(
                r#"{{"type":"session.created","data":{{"id":"sess_1","user_id":"user_1","status":"active","actor":{},"created_at":1,"updated_at":1,"user":{}}}}}"#,
                nest("[", "", "]", 20_000), nest(r#"{"user":"#, "1", "}", 10_000),
            ),
        ].into_iter().enumerate() {
            let svix_id = format!("msg_deep_{n}");
            deliver(app, &svix_id, &body).await;
            deliver(app, &format!("msg_good_{n}"), &user_event(app, &format!("ada{n}@example.com"), |_| {})).await;
            app.run_jobs().await;
            let error = assert_unreadable_at_once(app, &svix_id).await;
            assert!(error.starts_with("data"), "{error}");
        }
        assert_eq!(app.pool.count("usher_people").await, 6, "the others have their effect");
    }

    async fn what_no_database_takes_is_unreadable_at_once_and_spoils_no_other_event(app) {
        type Change = fn(&mut Value);
        let cases: [(&str, Change, &str); 9] = [
            ("year_10000", |data| data["updated_at"] = json!(253_402_300_800_000_i64), "data.updated_at is not a time"),
            ("max", |data| data["created_at"] = json!(i64::MAX), "data.created_at is not a time"),
            ("before_1970", |data| data["created_at"] = json!(-1), "data.created_at is not a time"),
            ("float", |data| data["created_at"] = json!(1e300), "data.created_at is not a time"),
            ("long_id", |data| data["id"] = json!(format!("user_{}", "x".repeat(2_704))), "data.id is longer than 255 bytes"),
            ("nul_id", |data| data["id"] = json!("user_\u{0}"), "data.id is not an id"),
            ("half", |data| data["id"] = json!("HALF"), "data.id is not an id"),
            ("half_address", |data| data["email_addresses"][0]["email_address"] = json!("HALF@example.com"), "data.email_addresses[0].email_address is a string with"),
            (
                "many",
                |data| data["email_addresses"] = json!(vec![json!({ "email_address": "a@example.com" }); 5_000]),
                "data.email_addresses is a list of more than 1000",
            ),
        ];
        for (svix_id, change, _) in cases {
            deliver(app, svix_id, &user_event(app, "bad@example.com", change).replace("HALF", r"\ud800")).await;
        }
        deliver(app, "msg_good", &user_event(app, "ada@example.com", |_| {})).await;
        app.run_jobs().await;
        for (svix_id, _, expected) in cases {
            let error = assert_unreadable_at_once(app, svix_id).await;
            assert!(error.starts_with(expected), "{svix_id}: {error}");
        }
        assert_eq!(app.pool.count("usher_people").await, 1);
        assert_eq!(app.pool.count("usher_events where svix_id = 'msg_good' and processed_at is not null").await, 1);
    }

    async fn sessions_with_ids_or_times_that_no_database_takes_are_unreadable_at_once(app) {
        let ada = app.person("ada@example.com", None).await;
        for (n, (field, value)) in [
            ("id", json!(format!("sess_{}", "x".repeat(3_000)))),
            ("user_id", json!(format!("user_{}", "x".repeat(3_000)))),
            ("id", json!("sess_\u{0}")),
            ("created_at", json!(i64::MAX)),
            ("updated_at", json!(253_402_300_800_000_i64)),
        ].into_iter().enumerate() {
            for event_type in ["session.created", "session.ended"] {
                let mut data = fake_clerk::session("sess_1", &ada.id, "active", None, app.now());
                data[field] = value.clone();
                let svix_id = format!("msg_{n}_{}", event_type.len());
                app.clerk().deliver(&svix_id, event_type, data).await.expect(202);
                app.run_jobs().await;
                let error = assert_unreadable_at_once(app, &svix_id).await;
                assert!(error.starts_with(&format!("data.{field} is ")), "{error}");
            }
        }
        let deleted = json!({ "id": "user_\u{0}", "deleted": true });
        app.clerk().deliver("msg_deleted", "user.deleted", deleted).await.expect(202);
        app.run_jobs().await;
        assert_unreadable_at_once(app, "msg_deleted").await;
    }

    async fn what_people_type_is_cut_to_size_and_makes_no_event_unreadable(app) {
        let body = user_event(app, "ada@example.com", |data| {
            data["first_name"] = json!("AdaHALF\u{0}");
            data["last_name"] = json!("L".repeat(100_000));
            data["image_url"] = json!(format!("https://img.example/{}", "x".repeat(10_000)));
            data["locale"] = json!("en\u{0}".repeat(1_000));
            data["unsafe_metadata"] = json!({ "HALF": "HALF" });
        });
        deliver(app, "msg_1", &body.replace("HALF", r"\ud83d")).await;
        app.run_jobs().await;
        let name = app.pool.text("select first_name || ' ' || last_name from usher_people").await.unwrap();
        let (first, last) = name.split_once(' ').unwrap();
        assert!(first.starts_with("Ada") && !first.contains('\0'), "{first:?}");
        assert_eq!(last, "L".repeat(255));
        assert_eq!(app.pool.count("usher_people where image_url is null and email = 'ada@example.com'").await, 1);
        assert_eq!(app.pool.count("usher_people where locale is null").await, 1);
    }

    async fn a_user_with_a_thousand_addresses_is_taken(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ada999@example.com", "member").await;
        app.run_jobs().await;
        let body = user_event(app, "ada@example.com", |data| {
            let address = |n: usize| json!({
                "id": format!("idn_{n}"), "email_address": format!("ada{n}@example.com"), "verification": { "status": "verified" },
            });
            data["email_addresses"] = (0..1_000).map(address).collect();
        });
        deliver(app, "msg_1", &body).await;
        app.run_jobs().await;
        assert_eq!(app.pool.count("usher_addresses").await, 1_000);
        assert_eq!(app.members(acme).await.len(), 1);
    }

    async fn a_session_token_names_a_user_that_could_be_one(app) {
        for sub in ["user_\u{0}".to_owned(), format!("user_{}", "x".repeat(3_000)), "user ada".to_owned(), "\u{fffd}".to_owned()] {
            let token = app.session_token(json!({ "sub": sub }));
            for (method, path) in [
                (Method::GET, "/v1/me/invites".to_owned()),
                (Method::POST, format!("/v1/me/invites/{}/accept", app.clock.new_id())),
            ] {
                app.send(request(method, &path, Some(&token), None)).await.problem(401);
            }
        }
        // Times that no calendar has: one that never ends is as good as any, the others are not valid.
        for (claims, status) in [
            (json!({ "sub": "user_ada", "exp": 1e308 }), 200),
            (json!({ "sub": "user_ada", "exp": -1e308 }), 401),
            (json!({ "sub": "user_ada", "nbf": u64::MAX }), 401),
        ] {
            let token = app.session_token(claims);
            app.send(request(Method::GET, "/v1/me/invites", Some(&token), None)).await.expect(status);
        }
    }

    async fn no_text_that_a_client_sends_makes_the_database_fail(app) {
        let acme = app.organization("Acme").await;
        let hostile = [
            "\u{0}".to_owned(), "a\u{0}b".to_owned(), "x".repeat(3_000), "\u{fffd}".repeat(900), "'; drop table x; --".to_owned(),
            "\u{202e}\u{2028}".to_owned(), "-1".to_owned(), "99999999999999999999".to_owned(), "1.5e400".to_owned(), "%00".to_owned(),
            "user_\u{0}".to_owned(), format!("user_{}", "x".repeat(3_000)), format!("{}@example.com", "x".repeat(3_000)),
            "a\u{0}b@example.com".to_owned(), "ada@exa\u{0}mple.com".to_owned(), "______________8AAAAAAAAAAAAAAAAAAAAA".to_owned(),
            "+10000-01-01T00:00:00Z".to_owned(), "[".repeat(3_000), "9223372036854775807d".to_owned(),
        ];
        for text in &hostile {
            for field in ["organization_id", "project_id", "email", "role", "invited_by", "expires_in", "acceptance", "locale"] {
                let mut invite = json!({ "organization_id": acme, "email": "ada@example.com", "role": "member" });
                if field == "project_id" {
                    invite["organization_id"] = Value::Null;
                }
                invite[field] = json!(text);
                app.post("/v1/invites", invite.clone()).await.problem(422);
                let batch = app.post("/v1/invites/batch", json!({ "invites": [invite] })).await.expect(200);
                assert_eq!(batch["results"][0]["status"], 422, "{field}: {text:?}");
                let query = url::form_urlencoded::Serializer::new(String::new()).append_pair(field, text).finish();
                let listed = app.get(&format!("/v1/invites?{query}")).await;
                // Some of it may be an app's id; it names nothing then.
                if !(field.ends_with("_id") && listed.json() == json!({ "items": [], "next_cursor": null })) {
                    listed.problem(422);
                }
            }
            for name in ["cursor", "limit", "status", "q"] {
                let query = url::form_urlencoded::Serializer::new(String::new()).append_pair(name, text).finish();
                app.get(&format!("/v1/invites?{query}")).await.problem(422);
            }
            let segment: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
            for (path, status) in [
                (format!("/v1/users/{segment}/invites"), 404),
                (format!("/v1/invites/{segment}"), 404),
                (format!("/v1/organizations/{segment}/members"), 404),
                (format!("/v1/invite-links/{segment}"), 404),
            ] {
                let answer = app.get(&path).await;
                assert!(matches!(answer.status.as_u16(), 404 | 400 | 422), "{path}: {} {status}", answer.status);
            }
        }
        assert_eq!(app.pool.count("invites").await, 0);
    }

    async fn an_answer_to_nonsense_is_not_larger_than_the_nonsense(app) {
        let fields = (0..100).map(|n| (format!("{n}{}", "x".repeat(200)), json!(1)));
        let answer = app.post("/v1/invites", Value::Object(fields.collect())).await;
        let wrong = answer.wrong_fields();
        assert!(wrong.iter().any(|field| field == "email") && wrong.len() < 30, "{}", wrong.len());
        assert!(answer.body.len() < 10_000, "{} bytes", answer.body.len());
        // Deeper than anybody writes: not JSON, as far as usher is concerned.
        for body in ["[".repeat(20_000), format!(r#"{{"email":{}"#, r#"{"a":"#.repeat(5_000))] {
            let request = Request::post("/v1/invites")
                .header(header::AUTHORIZATION, format!("Bearer {API_KEY}"))
                .header(header::CONTENT_TYPE, "application/json")
                .body(Body::from(body))
                .unwrap();
            assert_eq!(app.send(request).await.problem(400), "not_json");
        }
    }

    async fn a_page_sends_no_more_than_a_token(app) {
        let token = app.session_token(json!({ "sub": "user_ada" }));
        let body = json!({ "token": "x".repeat(100_000) });
        let answer = app.send(request(Method::POST, "/v1/me/invites/accept", Some(&token), Some(body))).await;
        assert_eq!(answer.problem(413), "too_large");
    }
}

/// The app's own columns may be narrower than what people call themselves.
#[tokio::test]
async fn what_the_apps_own_tables_do_not_take_is_failed_at_once_and_spoils_no_other_event() {
    let app = TestApp::start(TestDatabase::postgres().await).await;
    app.pool
        .execute(
            "create function narrow() returns trigger language plpgsql as $$ begin
                 if length(new.first_name) > 5 then raise string_data_right_truncation; end if; return new; end $$;
             create trigger narrow before insert on admins for each row execute function narrow()",
        )
        .await;
    let acme = app.organization("Acme").await;
    for email in ["augusta@example.com", "ada@example.com"] {
        app.invite_to_organization(acme, email, "member").await;
    }
    let named = |email: &str, name: &str| user_event(&app, email, |data| data["first_name"] = json!(name));
    deliver(&app, "msg_long", &named("augusta@example.com", "Augusta")).await;
    deliver(&app, "msg_short", &named("ada@example.com", "Ada")).await;
    app.run_jobs().await;
    let error = assert_unreadable_at_once(&app, "msg_long").await;
    assert_eq!(error, "the database refuses what it was given (error 22001)");
    assert_eq!(app.pool.count("admins where first_name = 'Ada'").await, 1);
    app.finish().await;
}
