//! Secrets are replaced while what they made is under way.

use crate::support::TestDatabase;
use crate::support::app::TOKEN_KEY;
use crate::support::process::{UsherProcess, eventually};
use crate::support::smtp::SmtpServer;
use reqwest::Method;
use serde_json::{Value, json};

const NEW_KEY: &str = "another-token-key-of-more-than-32-characters";

/// The token in the newest mail to an address.
fn token_to(smtp: &SmtpServer, email: &str) -> Option<String> {
    let mails = smtp.mails();
    let mail = mails.iter().rev().find(|mail| mail.to == [email])?;
    let text = mail.text();
    let link = text
        .split_whitespace()
        .find(|word| word.starts_with("https://app.example.com/invite#"))?;
    Some(link.split_once('#')?.1.to_owned())
}

async fn status_of(usher: &UsherProcess, token: &str) -> u16 {
    let answer = reqwest::get(format!("{}/v1/invite-links/{token}", usher.address)).await;
    answer.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_link_of_the_old_key_works_after_a_rotation_and_no_longer_once_the_old_key_is_dropped() {
    let database = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start().await;
    let id = "11111111-1111-4111-8111-111111111111";
    let invite = async |usher: &UsherProcess, email: &str| {
        let body = json!({ "organization_id": id, "email": email, "role": "member" });
        let invited: Value = usher.call(Method::POST, "/v1/invites", body).await;
        assert_eq!(invited["email"], email);
        eventually("the mail has come", async || token_to(&smtp, email).is_some()).await;
        token_to(&smtp, email).unwrap()
    };
    let usher = UsherProcess::start(&database, &smtp.url()).await;
    let organization = json!({ "name": "Acme" });
    usher
        .call(Method::PUT, &format!("/v1/organizations/{id}"), organization)
        .await;
    let old = invite(&usher, "ada@example.com").await;
    assert_eq!(status_of(&usher, &old).await, 200);
    assert!(usher.terminate().await);

    let both = format!("{NEW_KEY}, {TOKEN_KEY}");
    let usher = UsherProcess::start_with(&database, &smtp.url(), &[("USHER_TOKEN_KEY", &both)]).await;
    let new = invite(&usher, "grace@example.com").await;
    assert_eq!(
        (status_of(&usher, &old).await, status_of(&usher, &new).await),
        (200, 200)
    );
    assert!(usher.terminate().await);

    let usher = UsherProcess::start_with(&database, &smtp.url(), &[("USHER_TOKEN_KEY", NEW_KEY)]).await;
    assert_eq!(
        (status_of(&usher, &old).await, status_of(&usher, &new).await),
        (404, 200)
    );
    assert!(usher.terminate().await);
}
