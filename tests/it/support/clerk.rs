//! Clerk: tells of people and sessions by webhooks that are signed for real.

use axum::body::Body;
use axum::http::{Method, Request};
use chrono::TimeDelta;
use serde_json::Value;
use usher_testkit::fake_clerk::{self, FakeUser, Webhook};

use super::app::{Answer, SIGNING_SECRET, TestApp};

pub struct ClerkActor<'a> {
    pub app: &'a TestApp,
}

/// Signed with the right secret, now.
pub fn signed(app: &TestApp, svix_id: &str, body: impl Into<Vec<u8>>) -> Webhook {
    signed_at(SIGNING_SECRET, svix_id, app.now().timestamp(), body)
}

pub fn signed_at(secret: &str, svix_id: &str, timestamp: i64, body: impl Into<Vec<u8>>) -> Webhook {
    Webhook::sign(secret, svix_id, timestamp, body).expect("a signature")
}

pub fn into_request(webhook: Webhook) -> Request<Body> {
    let mut request = Request::builder().method(Method::POST).uri("/webhooks/clerk");
    for (name, value) in webhook.headers() {
        request = request.header(name, value);
    }
    request.body(Body::from(webhook.body)).expect("a request")
}

impl ClerkActor<'_> {
    /// Somebody with one verified address, created now; Clerk has told nobody yet.
    pub fn user(&self, email: &str) -> FakeUser {
        let name: String = email.chars().filter(char::is_ascii_alphanumeric).collect();
        FakeUser::new(format!("user_{name}"), email, self.app.now())
    }

    /// Somebody who was there long before.
    pub fn old_user(&self, email: &str) -> FakeUser {
        let created_at = self.app.now() - TimeDelta::days(100);
        FakeUser {
            created_at,
            updated_at: created_at,
            ..self.user(email)
        }
    }

    /// A new person appears.
    pub async fn user_created(&self, email: &str) -> FakeUser {
        let user = self.user(email);
        self.tell("user.created", user.to_json()).await;
        user
    }

    pub async fn tells_of(&self, user: &FakeUser) {
        self.tell("user.updated", user.to_json()).await;
    }

    pub async fn user_deleted(&self, user: &FakeUser) {
        self.tell("user.deleted", fake_clerk::deleted_user(&user.id)).await;
    }

    /// A person signs in; the event does not carry the user.
    pub async fn session_created(&self, session: &str, user: &FakeUser) {
        self.tell(
            "session.created",
            fake_clerk::session(session, &user.id, "active", None, self.app.now()),
        )
        .await;
    }

    /// A person signs in; the event carries the user.
    pub async fn session_created_with_user(&self, session: &str, user: &FakeUser) {
        let data = fake_clerk::session(session, &user.id, "active", Some(user), self.app.now());
        self.tell("session.created", data).await;
    }

    pub async fn session_over(&self, event_type: &str, session: &str, user: &FakeUser) {
        let status = event_type.trim_start_matches("session.");
        self.tell(
            event_type,
            fake_clerk::session(session, &user.id, status, None, self.app.now()),
        )
        .await;
    }

    /// Delivers an event under a fresh id; usher must take it.
    pub async fn tell(&self, event_type: &str, data: Value) -> String {
        let svix_id = format!("msg_{}", self.app.clock.new_id().simple());
        self.deliver(&svix_id, event_type, data).await.expect(202);
        svix_id
    }

    pub async fn deliver(&self, svix_id: &str, event_type: &str, data: Value) -> Answer {
        let body = fake_clerk::event(event_type, data, self.app.now()).to_string();
        self.app.deliver(signed(self.app, svix_id, body)).await
    }
}
