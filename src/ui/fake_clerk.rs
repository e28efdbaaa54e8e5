//! Clerk's place on the accept page, in development without Clerk: the visitor says who they are. The event goes
//! the way of Clerk's events, and the session token is signed by development's own key.

use anyhow::Context as _;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::app::App;
use crate::config::DevSecrets;
use crate::invites::email::EmailAddress;
use crate::problem::Problem;
use crate::store::NewEvent;
use usher_clerk::DevSigner;
use usher_testkit::fake_clerk::{FakeUser, SignIn, event};

const LIFETIME: TimeDelta = TimeDelta::hours(1);
/// Who opens a link that was sent to another address.
const STRANGER: &str = "another.person@example.com";

/// The Clerk user who owns this address, here: always the same one for one address, however it is written.
#[must_use]
pub fn user_id(email: &str) -> String {
    let key = EmailAddress::parse(email).map_or_else(|_| email.to_owned(), |email| email.key().as_str().to_owned());
    format!("user_{}", digest(&key))
}

/// The one session that a user has, here.
#[must_use]
pub fn session_id(user_id: &str) -> String {
    format!("sess_{}", digest(user_id))
}

/// As long as the random part of Clerk's ids, about.
fn digest(text: &str) -> String {
    let bytes = Sha256::digest(text);
    bytes.iter().take(13).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Deserialize)]
struct Visitor {
    /// Of the link.
    token: String,
    who: Who,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Who {
    Invitee,
    Stranger,
}

#[derive(Serialize)]
struct Session {
    email: String,
    session_token: String,
}

/// Where the page signs in, if no Clerk is configured.
pub(super) fn router(app: &App) -> Router {
    match app.config.fake_clerk_key {
        Some(_) => Router::new().route("/i/development/sign-in", post(sign_in).with_state(app.clone())),
        None => Router::new(),
    }
}

async fn sign_in(State(app): State<App>, Json(visitor): Json<Visitor>) -> Result<Json<Session>, Problem> {
    let claim = app.token_key.verify(&visitor.token).ok_or_else(Problem::not_found)?;
    let invite = app.store.read().await?.invite(claim.invite_id).await?;
    let invite = invite.ok_or_else(Problem::not_found)?;
    let email = match visitor.who {
        Who::Invitee => invite.email,
        Who::Stranger => STRANGER.to_owned(),
    };
    let user = FakeUser::new(user_id(&email), &email, app.clock.now());
    let told = NewEvent {
        svix_id: format!("msg_{}", app.clock.new_id().simple()),
        event_type: "user.created".to_owned(),
        payload: event("user.created", user.to_json(), app.clock.now()).to_string(),
    };
    app.store.receive_events(&[told]).await?;
    let session_token = session_token(&app, &user.id).map_err(|error| {
        tracing::error!(error = %format!("{error:#}"), "development's session token can't be signed");
        Problem::internal()
    })?;
    Ok(Json(Session { email, session_token }))
}

fn session_token(app: &App, user_id: &str) -> anyhow::Result<String> {
    let key = app.config.fake_clerk_key.as_ref().context("Clerk is configured")?;
    let signer = DevSigner::from_pkcs8_pem(key.expose())?;
    let sign_in = SignIn {
        user_id,
        session_id: &session_id(user_id),
        issuer: DevSecrets::ISSUER,
        party: app.config.authorized_parties.first().map(String::as_str),
    };
    Ok(sign_in.token(&signer, app.clock.now(), LIFETIME)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_one_user_however_it_is_written() {
        assert_eq!(user_id("ada@example.com"), user_id(" Ada@EXAMPLE.com"));
        assert_ne!(user_id("ada@example.com"), user_id("ad.a@example.com"));
        assert_ne!(user_id("not an address"), user_id("nor this"));
        assert_eq!(user_id("ada@example.com").len(), "user_".len() + 26);
    }
}
