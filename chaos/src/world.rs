//! Clerk, the app and the people, as usher meets them: over HTTP, signed for real.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use rand::rngs::StdRng;
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::time::Instant;
use usher::clock::Clock;
use usher_clerk::DevSigner;
use usher_testkit::fake_clerk::{SignIn, Webhook};
use usher_testkit::process::{API_KEY, SIGNING_SECRET};
use usher_testkit::receiver::Receiver;
use usher_testkit::smtp::SmtpServer;
use uuid::Uuid;

use crate::fleet::{Fleet, ISSUER, Process};
use crate::journal::{GoesOn, Journal, WEBHOOKS_MEANWHILE};
use crate::model::{FOUNDERS, Model};

/// What a webhook is called in the journal.
const WEBHOOK: &str = "a webhook";
/// No request may take longer: Svix gives up after 15 s.
const TIMEOUT: Duration = Duration::from_secs(15);

/// An organization, its projects and whoever invites into them.
pub struct Place {
    /// The organization.
    pub organization: Uuid,
    /// Its projects.
    pub projects: Vec<Uuid>,
    /// The owner's Clerk user id.
    pub founder: String,
}

/// Everything outside of usher.
pub struct World {
    /// What is known.
    model: Mutex<Model>,
    /// The processes.
    pub fleet: Fleet,
    /// Where mails end.
    pub smtp: SmtpServer,
    /// The app, as it hears of events.
    pub receiver: Receiver,
    /// What happened.
    pub journal: Arc<Journal>,
    /// Where people are invited into.
    pub places: Vec<Place>,
    /// Each request on a connection of its own: which process answers is then known.
    pub http: reqwest::Client,
    signer: DevSigner,
}

/// What came back.
#[derive(Debug)]
pub enum Reply {
    /// An answer.
    Answer(u16, Value),
    /// `503`: come again.
    Away,
    /// None: nobody there, or the connection broke.
    Nothing,
}

impl World {
    /// Nothing has happened yet.
    pub fn new(
        fleet: Fleet,
        smtp: SmtpServer,
        receiver: Receiver,
        journal: Arc<Journal>,
        signer: DevSigner,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .build()?;
        let places = (0..FOUNDERS)
            .map(|number| Place {
                organization: Clock::System.new_id(),
                projects: vec![Clock::System.new_id(), Clock::System.new_id()],
                founder: format!("user_{number}"),
            })
            .collect();
        Ok(Self {
            model: Mutex::default(),
            fleet,
            smtp,
            receiver,
            journal,
            places,
            http,
            signer,
        })
    }

    /// What is known.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, as Clerk tells it.
    pub fn now() -> DateTime<Utc> {
        Clock::System.now().trunc_subsecs(3)
    }

    /// What must not be refused while something else is held up.
    fn must_go_on(&self, what: &str, sent: Instant) -> bool {
        let of = if what == WEBHOOK {
            GoesOn::Webhooks
        } else {
            GoesOn::Everything
        };
        self.journal.had_to_go_on(of, sent)
    }

    async fn send(&self, process: &Process, request: RequestBuilder, what: &str) -> Reply {
        let sent = Instant::now();
        let answer = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let retry_after = response.headers().contains_key(RETRY_AFTER);
            let body = response.bytes().await?;
            anyhow::Ok((status, retry_after, body))
        };
        let answer = answer.await;
        let took = sent.elapsed();
        match answer {
            Ok((503, retry_after, _)) => {
                self.journal.count("answers 503");
                self.journal
                    .insist(retry_after, || format!("{what}: a 503 without Retry-After"));
                self.journal.insist(!self.journal.was_calm(sent), || {
                    format!("{what}: {} answered 503 although all was well", process.name)
                });
                self.journal.insist(!self.must_go_on(what, sent), || {
                    format!("{what}: {} answered 503 because of something else", process.name)
                });
                Reply::Away
            }
            Ok((status, _, body)) => {
                self.journal.insist(status < 500, || {
                    format!(
                        "{what}: {} answered {status}: {}",
                        process.name,
                        String::from_utf8_lossy(&body)
                    )
                });
                Reply::Answer(status, serde_json::from_slice(&body).unwrap_or_default())
            }
            Err(_) => {
                self.journal.count("requests without an answer");
                let is_excused = process.was_disturbed_since(sent);
                self.journal.insist(is_excused || took < TIMEOUT, || {
                    format!("{what}: {} gave no answer in {} s", process.name, TIMEOUT.as_secs())
                });
                self.journal.insist(is_excused || !self.journal.was_calm(sent), || {
                    format!("{what}: {} gave no answer although all was well", process.name)
                });
                self.journal.insist(is_excused || !self.must_go_on(what, sent), || {
                    format!("{what}: {} gave no answer because of something else", process.name)
                });
                Reply::Nothing
            }
        }
    }

    /// Delivers an event, once, as Svix does; whether it was taken.
    pub async fn deliver(&self, number: usize, rng: &mut StdRng) -> bool {
        let Some(process) = self.fleet.any_api(rng) else {
            return false;
        };
        let Some(address) = process.public() else { return false };
        let (svix_id, body) = {
            let model = self.model();
            let told = &model.events[number];
            (told.svix_id.clone(), told.body.clone())
        };
        let timestamp = Clock::System.now().timestamp();
        let Ok(webhook) = Webhook::sign(SIGNING_SECRET, svix_id, timestamp, body) else {
            return false;
        };
        let mut request = self.http.post(format!("{address}/webhooks/clerk"));
        for (name, value) in webhook.headers() {
            request = request.header(name, value);
        }
        let request = request.body(webhook.body);
        let sent = Instant::now();
        let Reply::Answer(status, _) = self.send(&process, request, WEBHOOK).await else {
            return false;
        };
        self.journal
            .insist(status == 202, || format!("a webhook was answered {status}"));
        self.journal.insist(!self.journal.was_away(sent, Instant::now()), || {
            format!("{} took a webhook while the database was away", process.name)
        });
        if self.journal.had_to_go_on(GoesOn::Webhooks, sent) {
            self.journal.took(WEBHOOKS_MEANWHILE, sent.elapsed());
        }
        self.journal.count("webhooks taken");
        self.model().events[number].is_acknowledged |= status == 202;
        status == 202
    }

    /// Delivers an event until it is taken.
    pub async fn insist_on(&self, number: usize, rng: &mut StdRng) {
        while !self.deliver(number, rng).await {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Whether somebody is among an organization's members, on whichever page. `false` also where nobody answers.
    pub async fn is_member(&self, rng: &mut StdRng, organization: Uuid, clerk_user_id: &str) -> bool {
        let mut path = format!("/v1/organizations/{organization}/members?limit=500");
        loop {
            let Reply::Answer(200, page) = self.call(rng, Method::GET, &path, None, None).await else {
                return false;
            };
            let members = page["items"].as_array().cloned().unwrap_or_default();
            if members.iter().any(|member| member["clerk_user_id"] == clerk_user_id) {
                return true;
            }
            let Some(cursor) = page["next_cursor"].as_str() else {
                return false;
            };
            path = format!("/v1/organizations/{organization}/members?limit=500&cursor={cursor}");
        }
    }

    /// Calls the API as the app does.
    pub async fn call(
        &self,
        rng: &mut StdRng,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Reply {
        let Some(process) = self.fleet.any_api(rng) else {
            return Reply::Nothing;
        };
        let Some(address) = process.public() else {
            return Reply::Nothing;
        };
        let mut request = self
            .http
            .request(method, format!("{address}{path}"))
            .bearer_auth(API_KEY);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(&process, request, path).await
    }

    /// Calls the API as the app does, until there is an answer.
    pub async fn call_until_answered(
        &self,
        rng: &mut StdRng,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let key = Clock::System.new_id().to_string();
        loop {
            match self.call(rng, method.clone(), path, body, Some(&key)).await {
                Reply::Answer(status, body) => return (status, body),
                Reply::Away | Reply::Nothing => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// Calls the API as somebody who is signed in.
    pub async fn call_as(
        &self,
        rng: &mut StdRng,
        user_id: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Reply {
        let Some(process) = self.fleet.any_api(rng) else {
            return Reply::Nothing;
        };
        let (Some(address), Ok(token)) = (process.public(), self.session_token(user_id)) else {
            return Reply::Nothing;
        };
        let mut request = self.http.request(method, format!("{address}{path}")).bearer_auth(token);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(&process, request, path).await
    }

    fn session_token(&self, user_id: &str) -> anyhow::Result<String> {
        let sign_in = SignIn {
            user_id,
            session_id: &format!("sess_of_{user_id}"),
            issuer: ISSUER,
            party: None,
        };
        sign_in
            .token(&self.signer, Clock::System.now(), TimeDelta::seconds(60))
            .context("the session token can't be signed")
    }
}
