//! What `docs/security.md` promises and no other file of stories tells.

use axum::Router;
use axum::http::Method;
use axum::routing::get;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use usher_testkit::fake_clerk::FakeUser;
use uuid::Uuid;

use crate::support::app::{SIGNER, request};
use crate::support::{TestApp, stories};

const ORGANIZATION_ROLES: &[&str] = &["member", "admin", "owner"];
const PROJECT_ROLES: &[&str] = &["support", "client", "editor", "admin"];

/// What somebody holds, and what they may therefore give.
struct Case {
    organization_role: Option<&'static str>,
    project_role: Option<&'static str>,
    organization_gives: &'static [&'static str],
    project_gives: &'static [&'static str],
}

/// Every pair of an organization role and a project role, with what is inherited.
fn cases() -> Vec<Case> {
    let given_by = |order: &'static [&'static str], role: Option<&str>| {
        let rank = role.and_then(|role| order.iter().position(|name| *name == role));
        rank.map_or(&order[..0], |rank| &order[..=rank])
    };
    let mut cases = Vec::new();
    for organization_role in [None, Some("member"), Some("admin"), Some("owner")] {
        for project_role in [None, Some("support"), Some("client"), Some("editor"), Some("admin")] {
            let manages = matches!(organization_role, Some("admin" | "owner"));
            cases.push(Case {
                organization_role,
                project_role,
                organization_gives: if manages {
                    given_by(ORGANIZATION_ROLES, organization_role)
                } else {
                    &[]
                },
                project_gives: if manages {
                    PROJECT_ROLES
                } else {
                    given_by(
                        PROJECT_ROLES,
                        project_role.filter(|role| matches!(*role, "editor" | "admin")),
                    )
                },
            });
        }
    }
    cases
}

/// Somebody with these roles and no others, by the store: the API lets nobody into a project without its organization.
async fn holder(app: &TestApp, n: usize, case: &Case, acme: Uuid, apollo: Uuid) -> FakeUser {
    let person = app.person(&format!("holder{n}@example.com"), None).await;
    let mut tx = app.app.store.begin().await.unwrap();
    let known = tx.people_by_clerk_id(&[&person.id]).await.unwrap().remove(0);
    tx.add_to_admins(&[usher::store::NewAdmin {
        person_id: known.id,
        organization_id: acme,
        role: "member".to_owned(),
    }])
    .await
    .unwrap();
    let admin_id = known.admin_id.unwrap();
    let grant = |place_id, role: &str| usher::store::Grant {
        target_id: place_id,
        admin_id,
        role: role.to_owned(),
    };
    let roles = &app.app.config.roles;
    if let Some(role) = case.organization_role {
        tx.grant_in_organizations(&[grant(acme, role)], &roles.organization)
            .await
            .unwrap();
    }
    if let Some(role) = case.project_role {
        tx.grant_in_projects(&[grant(apollo, role)], &roles.project)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    person
}

stories! {
    async fn security_1_a_link_lets_nobody_in_who_has_not_verified_the_address(app) {
        let acme = app.organization("Acme").await;
        let invite = app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("ada@example.com");
        let mut ada = app.clerk().user("ada@example.com");
        ada.emails[0].1 = false;
        app.clerk().tells_of(&ada).await;
        app.run_jobs().await;
        assert_eq!(app.signed_in(&ada).accept_link(&token).await.problem(403), "other_address");
        assert_eq!(app.show(&invite).await["status"], "pending");
        assert_eq!(app.members(acme).await, [""; 0]);
    }

    async fn security_5_all_role_pairs_through_create_batch_and_inviting_again(app) {
        let acme = app.organization("Acme").await;
        let apollo = app.project(acme, "Apollo").await;
        for (n, case) in cases().iter().enumerate() {
            let inviter = holder(app, n, case, acme, apollo).await;
            let places = [
                ("organization_id", acme, ORGANIZATION_ROLES, case.organization_gives),
                ("project_id", apollo, PROJECT_ROLES, case.project_gives),
            ];
            for (target, id, roles, given) in places {
                let lowest = roles[0];
                for role in roles {
                    let what = format!("{:?} {:?} gives {target} {role}", case.organization_role, case.project_role);
                    let body = |way: &str, role: &str| json!({
                        target: id, "email": format!("{way}-{n}-{target}-{role}@example.com"), "role": role,
                    });
                    let by = |mut body: Value| {
                        body["invited_by"] = json!(inviter.id);
                        body
                    };
                    let expected = if given.contains(role) { 201 } else { 403 };
                    let created = app.post("/v1/invites", by(body("create", role))).await;
                    assert_eq!(created.status, expected, "{what}");
                    let batch = app.post("/v1/invites/batch", json!({ "invites": [by(body("batch", role))] })).await.expect(200);
                    assert_eq!(batch["results"][0]["status"], expected, "{what}, by batch");

                    // Open already, on the lowest rung and by nobody; asked again by the inviter with the role.
                    let mut again = body("again", role);
                    again["role"] = json!(lowest);
                    let open = app.invite(again.clone()).await;
                    again["role"] = json!(role);
                    let answer = app.post("/v1/invites", by(again)).await;
                    if expected == 201 {
                        assert_eq!(answer.expect(200)["role"], *role, "{what}, again");
                    } else {
                        assert_eq!(answer.problem(403), "role_above_inviter", "{what}, again");
                        assert_eq!(app.show(&open).await["role"], lowest, "{what}, again");
                    }
                }
            }
        }
        app.run_jobs().await;
    }

    async fn security_8_no_answer_is_kept_by_a_cache_or_told_to_the_next_page(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ada@example.com", "member").await;
        app.run_jobs().await;
        let token = app.token_in_mail_to("ada@example.com");
        for path in [&format!("/v1/invite-links/{token}"), "/v1/invite-links/forged", "/v1/me/invites", "/v1/invites", "/nothing"] {
            for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE] {
                let answer = app.send(request(method.clone(), path, None, None)).await;
                assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{method} {path}");
                assert_eq!(answer.headers["cache-control"], "no-store", "{method} {path}");
                assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{method} {path}");
            }
        }
        for page in ["/", "/docs", "/i"] {
            let answer = app.open(page).await;
            assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{page}");
            assert_eq!(answer.headers["cache-control"], "no-store", "{page}");
        }
        // Nothing is loaded from anywhere by what stands beside the token.
        let mail = app.mails()[0].html();
        assert!(!mail.contains("<img") && !mail.contains("src=") && !mail.contains("@import"), "{mail}");
    }

    async fn security_13_a_token_signed_with_the_public_key_as_a_secret_is_refused(app) {
        let bob = app.person("bob@example.com", None).await;
        let good = app.session_token(json!({ "sub": bob.id }));
        let claims: Value = jsonwebtoken::dangerous::insecure_decode(&good).unwrap().claims;
        let pem = SIGNER.public_pem().unwrap();
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let secret = EncodingKey::from_secret(pem.as_bytes());
            let forged = jsonwebtoken::encode(&Header::new(algorithm), &claims, &secret).unwrap();
            let answer = app.send(request(Method::GET, "/v1/me/invites", Some(&forged), None)).await;
            assert_eq!(answer.problem(401), "unauthorized", "{algorithm:?}");
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_problem_without_its_cause() {
    async fn panics() -> &'static str {
        panic!("the cause, with ada@example.com")
    }
    let router = usher::service::guard(Router::new().route("/panics", get(panics)));
    let request = request(Method::GET, "/panics", None, None);
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        problem,
        json!({ "status": 500, "code": "internal", "title": "Internal error." })
    );
}
