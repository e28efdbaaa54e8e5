//! usher under test: its real router, store, mailer and jobs, with a clock that the story moves.

use std::io::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use usher::app::App;
use usher::clock::Clock;
use usher::config::Settings;
use usher::jobs::Context;
use usher::secret::Secret;
use usher_clerk::DevSigner;
use usher_testkit::fake_clerk::{FakeUser, Webhook};
use uuid::Uuid;

use tempfile::{NamedTempFile, TempDir};

use super::clerk::{ClerkActor, into_request};
use super::db::{TestDatabase, TestPool};
use super::smtp::{ReceivedMail, SmtpServer};
pub use usher_testkit::process::{API_KEY, LINK, SIGNING_SECRET, TOKEN_KEY};

pub const ISSUER: &str = "https://clerk.example.com";
pub const ORIGIN: &str = "https://app.example.com";

/// Clerk's key pair, as far as the stories are concerned.
pub static SIGNER: LazyLock<DevSigner> = LazyLock::new(|| kept_signer().expect("a key pair"));

/// Reads the key that an earlier test made, or makes one. Each test is a process of its own, and without optimisation to
/// find an RSA key takes a good part of a second.
fn kept_signer() -> anyhow::Result<DevSigner> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("session-key.pem");
    if let Ok(pem) = std::fs::read_to_string(&path) {
        return Ok(DevSigner::from_pkcs8_pem(&pem)?);
    }
    let signer = DevSigner::generate()?;
    // Written beside it and renamed, so that no other test reads half a key.
    let mut file = NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    file.write_all(signer.to_pkcs8_pem()?.as_bytes())?;
    file.persist(&path)?;
    Ok(signer)
}

/// usher under test.
pub struct TestApp {
    pub app: App,
    pub clock: Clock,
    pub pool: TestPool,
    pub smtp: SmtpServer,
    pub context: Context,
    router: Router,
    /// Kept until the story has ended.
    _folder: TempDir,
}

/// What usher answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The answer's JSON, which must come with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The problem's code, which must come with this status and as problem+json.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        let problem = self.expect(status);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(problem["status"], status);
        problem["code"].as_str().expect("a code").to_owned()
    }

    /// The names of the fields that a 422 names.
    #[track_caller]
    pub fn wrong_fields(&self) -> Vec<String> {
        assert_eq!(self.problem(422), "invalid_request");
        let errors = self.json()["errors"].as_array().expect("errors").clone();
        errors
            .iter()
            .map(|error| {
                let field = error["pointer"].as_str().or(error["parameter"].as_str());
                field.expect("a field").trim_start_matches('/').to_owned()
            })
            .collect()
    }
}

/// Settings for a story.
pub fn settings(database_url: &str, smtp_url: &str) -> Settings {
    let secret = |text: &str| Some(Secret::from(text.to_owned()));
    Settings {
        usher_env: Some("production".to_owned()),
        usher_database_url: secret(database_url),
        clerk_webhook_signing_secret: secret(SIGNING_SECRET),
        clerk_jwt_key: Some(SIGNER.public_pem().expect("a public key")),
        clerk_issuer: Some(ISSUER.to_owned()),
        clerk_authorized_parties: Some(ORIGIN.to_owned()),
        usher_api_keys: secret(API_KEY),
        usher_token_key: secret(TOKEN_KEY),
        smtp_url: secret(smtp_url),
        mail_from: Some("Acme <no-reply@acme.example>".to_owned()),
        app_name: Some("Acme".to_owned()),
        invite_url: Some(format!("{LINK}{{token}}")),
        ..Settings::default()
    }
}

impl TestApp {
    pub async fn start(database: TestDatabase) -> Self {
        Self::start_with(database, |_| {}).await
    }

    /// usher on the app's own tables.
    pub async fn start_shared(database: TestDatabase) -> Self {
        Self::start_with(database, |settings| settings.usher_tables = Some("shared".to_owned())).await
    }

    pub async fn start_with(database: TestDatabase, change: impl FnOnce(&mut Settings)) -> Self {
        let smtp = SmtpServer::start().await;
        let mut settings = settings(&database.url, &smtp.url());
        change(&mut settings);
        let config = settings.resolve_in(database.folder.path()).expect("a configuration");
        // Ahead of the database's own clock, which new jobs are due by: what is due there is due here.
        let clock = Clock::manual(Clock::System.now().trunc_subsecs(0) + TimeDelta::hours(1));
        let app = App::new(config, clock.clone()).await.expect("an app");
        let router = usher::service::public_router(&app).expect("a router");
        let context = Context::start(app.clone());
        Self {
            clock,
            pool: database.pool,
            smtp,
            context,
            router,
            app,
            _folder: database.folder,
        }
    }

    /// Ends the story: nothing may be left to do, now or later.
    pub async fn finish(self) {
        let left = super::jobs::unfinished(&self.pool).await;
        assert!(left.is_empty(), "jobs remain: {left:?}");
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Sends any request. Whatever the answer, it must be one that the contract tells of.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        answer_of(self.router.clone(), request).await
    }

    /// Opens a page or a file of usher's, which the contract does not describe.
    pub async fn open(&self, path: &str) -> Answer {
        let opened = raw_answer_of(self.router.clone(), request(Method::GET, path, None, None)).await;
        assert_eq!(opened.status, 200, "{path}");
        opened
    }

    /// Delivers a webhook as it is.
    pub async fn deliver(&self, webhook: Webhook) -> Answer {
        self.send(into_request(webhook)).await
    }

    /// Sends a request to another usher on the same database, as it is after a restart with other settings.
    pub async fn send_after_restart(&self, change: impl FnOnce(&mut Settings), request: Request<Body>) -> Answer {
        let mut settings = settings(self.app.config.database_url.expose(), &self.smtp.url());
        change(&mut settings);
        let config = settings.resolve_in(self._folder.path()).expect("a configuration");
        let app = App::new(config, self.clock.clone()).await.expect("an app");
        let answer = answer_of(usher::service::public_router(&app).expect("a router"), request).await;
        app.store.close().await;
        answer
    }

    /// Calls the API as the app does.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(request(method, path, Some(API_KEY), body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, Some(body)).await
    }

    /// Makes an organization.
    pub async fn organization(&self, name: &str) -> Uuid {
        let id = self.clock.new_id();
        self.put(&format!("/v1/organizations/{id}"), json!({ "name": name }))
            .await
            .expect(201);
        id
    }

    /// Makes a project.
    pub async fn project(&self, organization_id: Uuid, name: &str) -> Uuid {
        let id = self.clock.new_id();
        let body = json!({ "name": name, "organization_id": organization_id });
        self.put(&format!("/v1/projects/{id}"), body).await.expect(201);
        id
    }

    /// Invites an address, which must be new; returns the invite's id.
    pub async fn invite(&self, body: Value) -> String {
        let invite = self.post("/v1/invites", body).await.expect(201);
        invite["id"].as_str().expect("an id").to_owned()
    }

    pub async fn invite_to_organization(&self, organization_id: Uuid, email: &str, role: &str) -> String {
        self.invite(json!({ "organization_id": organization_id, "email": email, "role": role }))
            .await
    }

    /// The invite as the app sees it.
    pub async fn show(&self, id: &str) -> Value {
        self.get(&format!("/v1/invites/{id}")).await.expect(200)
    }

    /// Who is in an organization, as `address role`, sorted.
    pub async fn members(&self, organization_id: Uuid) -> Vec<String> {
        members(
            &self
                .get(&format!("/v1/organizations/{organization_id}/members"))
                .await
                .expect(200),
        )
    }

    /// Who is in a project, as `address role`, sorted.
    pub async fn project_members(&self, project_id: Uuid) -> Vec<String> {
        members(
            &self
                .get(&format!("/v1/projects/{project_id}/members"))
                .await
                .expect(200),
        )
    }

    /// Clerk, telling of things.
    pub fn clerk(&self) -> ClerkActor<'_> {
        ClerkActor { app: self }
    }

    /// A person who signed up with a verified address; they are in `organization_id` with `role`, if any is given.
    pub async fn person(&self, email: &str, place: Option<(Uuid, &str)>) -> FakeUser {
        if let Some((organization_id, role)) = place {
            self.invite_to_organization(organization_id, email, role).await;
            // The mail goes out before they sign up; else it might be unwanted by then, or not.
            self.run_jobs().await;
        }
        let user = self.clerk().user_created(email).await;
        self.run_jobs().await;
        user
    }

    /// A person who had signed up before they were invited; Clerk tells of them now.
    pub async fn earlier_person(&self, email: &str) -> FakeUser {
        let user = self.clerk().old_user(email);
        self.clerk().tells_of(&user).await;
        self.run_jobs().await;
        user
    }

    /// Calls the API as a signed-in person does.
    pub fn signed_in<'a>(&'a self, user: &FakeUser) -> Invitee<'a> {
        Invitee {
            app: self,
            token: self.session_token(json!({ "sub": user.id })),
        }
    }

    /// A session token with the usual claims and these.
    pub fn session_token(&self, claims: Value) -> String {
        let now = self.now().timestamp();
        let mut all = json!({
            "iss": ISSUER, "azp": ORIGIN, "sid": "sess_test", "iat": now, "nbf": now - 5, "exp": now + 60,
        });
        for (name, value) in claims.as_object().expect("claims") {
            all[name] = value.clone();
        }
        SIGNER.sign_session(&all).expect("a token")
    }

    /// Runs whatever is due, and what comes of it, until nothing is.
    pub async fn run_jobs(&self) {
        super::jobs::run_due(self).await;
    }

    /// Lets what is done again and again come round, and runs it with whatever else is due.
    pub async fn run_schedules(&self) {
        usher::worker::tick(&self.app).await.expect("a look at the schedules");
        self.run_jobs().await;
    }

    /// The mails that the server took, oldest first.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.smtp.mails()
    }

    /// The token in the newest mail to an address, taken out as a person would: from the link.
    pub fn token_in_mail_to(&self, email: &str) -> String {
        let mails = self.mails();
        let mail = mails.iter().rev().find(|mail| mail.to == [email]).expect("a mail");
        mail.token(LINK).expect("a link")
    }
}

/// A signed-in person.
pub struct Invitee<'a> {
    app: &'a TestApp,
    token: String,
}

impl Invitee<'_> {
    pub async fn call(&self, method: Method, path: &str) -> Answer {
        self.app.send(request(method, path, Some(&self.token), None)).await
    }

    /// What the banner shows.
    pub async fn banner(&self) -> Value {
        self.call(Method::GET, "/v1/me/invites").await.expect(200)
    }

    /// The ids of what the banner shows.
    pub async fn banner_ids(&self) -> Vec<String> {
        let banner = self.banner().await;
        let items = banner["items"].as_array().expect("items");
        items
            .iter()
            .map(|item| item["id"].as_str().expect("an id").to_owned())
            .collect()
    }

    pub async fn accept(&self, id: &str) -> Answer {
        self.call(Method::POST, &format!("/v1/me/invites/{id}/accept")).await
    }

    /// Accepts by a link's token.
    pub async fn accept_link(&self, token: &str) -> Answer {
        let body = Some(json!({ "token": token }));
        self.app
            .send(request(Method::POST, "/v1/me/invites/accept", Some(&self.token), body))
            .await
    }

    pub async fn decline(&self, id: &str) -> Answer {
        self.call(Method::POST, &format!("/v1/me/invites/{id}/decline")).await
    }

    pub async fn dismiss(&self, id: &str) -> Answer {
        self.call(Method::POST, &format!("/v1/me/invites/{id}/dismiss")).await
    }
}

async fn answer_of(router: Router, request: Request<Body>) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = raw_answer_of(router, request).await;
    super::contract::assert_kept(&method, &path, &answer);
    answer
}

async fn raw_answer_of(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

/// A request with a bearer and a JSON body, where given.
pub fn request(method: Method, path: &str, bearer: Option<&str>, body: Option<Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let body = match body {
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    request.body(body).expect("a request")
}

fn members(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items");
    let mut members: Vec<String> = items
        .iter()
        .map(|item| {
            format!(
                "{} {}",
                item["email"].as_str().unwrap_or("?"),
                item["role"].as_str().unwrap_or("?")
            )
        })
        .collect();
    members.sort();
    members
}
