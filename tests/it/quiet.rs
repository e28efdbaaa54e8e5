//! What people write, who they are and what opens doors stays out of the log, however much is asked of it.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;
use usher::clock::Clock;
use usher_testkit::fake_clerk::{FakeUser, event};

use crate::support::app::{API_KEY, ISSUER, ORIGIN, SIGNER, SIGNING_SECRET, TOKEN_KEY};
use crate::support::process::{UsherProcess, eventually};
use crate::support::smtp::SmtpServer;
use crate::support::{TestDatabase, on_both_databases};

const MESSAGE: &str = "the quick brown fox is between us";
const ADA: &str = "ada.lovelace@example.com";
const ALAN: &str = "alan.turing@example.com";

/// An invite on its whole way, twice: let in by the match, and by the link. What must not be in the log.
async fn invite_and_accept(usher: &UsherProcess, smtp: &SmtpServer) -> Vec<String> {
    let id = "11111111-1111-4111-8111-111111111111";
    let organization = json!({ "name": "Analytical Engines" });
    usher
        .call(Method::PUT, &format!("/v1/organizations/{id}"), organization)
        .await;
    for email in [ADA, ALAN] {
        let invite = json!({ "organization_id": id, "email": email, "role": "member", "message": MESSAGE });
        usher.call(Method::POST, "/v1/invites", invite).await;
        eventually("the mail has come", async || {
            smtp.mails().iter().any(|mail| mail.to == [email])
        })
        .await;
    }
    let mails = smtp.mails();
    let text = mails.iter().find(|mail| mail.to == [ALAN]).unwrap().text();
    let link = text.split_whitespace().find_map(|word| word.split_once("/invite#"));
    let token = link.unwrap().1.to_owned();
    assert!(text.contains(MESSAGE));

    let now = Clock::System.now();
    let ada = FakeUser::new("user_ada".to_owned(), ADA, now);
    // Alan was in Clerk before he was invited, so he is asked.
    let alan = FakeUser {
        created_at: now - TimeDelta::days(30),
        ..FakeUser::new("user_alan".to_owned(), ALAN, now)
    };
    for (svix_id, user) in [("msg_1", &ada), ("msg_2", &alan)] {
        assert!(
            usher
                .deliver(svix_id, &event("user.created", user.to_json(), now))
                .await
        );
    }
    let members = format!("/v1/organizations/{id}/members");
    eventually("Ada is in", async || {
        let list = usher.call(Method::GET, &members, json!({})).await;
        list["items"].as_array().unwrap().len() == 1
    })
    .await;
    let session = SIGNER
        .sign_session(&json!({
            "iss": ISSUER, "azp": ORIGIN, "sub": "user_alan", "sid": "sess_alan", "iat": now.timestamp(),
            "nbf": now.timestamp() - 5, "exp": now.timestamp() + 60,
        }))
        .unwrap();
    let http = reqwest::Client::new();
    let accept = || {
        let request = http.post(format!("{}/v1/me/invites/accept", usher.address));
        request.bearer_auth(&session).json(&json!({ "token": token })).send()
    };
    eventually("Alan is let in", async || accept().await.unwrap().status() == 200).await;
    vec![token, session]
}

async fn security_25_no_message_address_or_secret_is_logged_whatever_is_asked_for(database: TestDatabase) {
    let smtp = SmtpServer::start_with_login("usher", "pa55word-of-the-relay").await;
    for filter in [
        "trace",
        "debug",
        "info,handlebars=trace,html5ever=trace,selectors=trace,svix=trace,lettre=trace",
    ] {
        let usher = UsherProcess::start_with(&database, &smtp.url(), &[("RUST_LOG", filter)]).await;
        let opening = invite_and_accept_once(&usher, &smtp, filter).await;
        assert!(usher.ask("/metrics").await.0 == 200);
        let log = usher.log();
        assert!(usher.terminate().await);
        assert!(!log.is_empty(), "{filter}");
        let personal = [MESSAGE, "quick brown fox", ADA, ALAN, "ada.lovelace", "alan.turing"];
        let secrets = [
            API_KEY,
            TOKEN_KEY,
            SIGNING_SECRET,
            &SIGNING_SECRET[6..],
            "pa55word-of-the-relay",
        ];
        for line in &log {
            for word in personal
                .iter()
                .chain(&secrets)
                .copied()
                .chain(opening.iter().map(String::as_str))
            {
                assert!(!line.contains(word), "{filter}: {word} in {line}");
            }
        }
    }
}

/// The first round does it all; those after it invite again.
async fn invite_and_accept_once(usher: &UsherProcess, smtp: &SmtpServer, filter: &str) -> Vec<String> {
    if filter == "trace" {
        return invite_and_accept(usher, smtp).await;
    }
    let id = "11111111-1111-4111-8111-111111111111";
    let before = smtp.mails().len();
    let email = format!("{}.alan.turing@example.com", filter.len());
    let invite = json!({ "organization_id": id, "email": email, "role": "member", "message": MESSAGE });
    usher.call(Method::POST, "/v1/invites", invite).await;
    eventually("the mail has come", async || smtp.mails().len() > before).await;
    Vec::new()
}

on_both_databases!(security_25_no_message_address_or_secret_is_logged_whatever_is_asked_for);
