//! Mail over TLS: real handshakes with a server whose authority lives as long as the test. Which authorities are trusted
//! is told to a process as a team would, in `SSL_CERT_FILE`.

use std::collections::BTreeSet;

use usher_mail::SendError;

use crate::mail::{delivery, letter, mailer_to};
use crate::support::TestDatabase;
use crate::support::process::{UsherProcess, eventually};
use crate::support::smtp::{Behaviour, Encryption, Phase, SmtpServer};
use crate::support::tls::{Authority, Certificate};

const RIGHT: Certificate = Certificate {
    name: "localhost",
    is_expired: false,
};

/// usher as a process that trusts this authority and no other.
async fn trusting(authority: &Authority, server: &SmtpServer, database: &TestDatabase) -> UsherProcess {
    let settings = [("SSL_CERT_FILE", authority.path())];
    UsherProcess::start_with(database, &server.url(), &settings).await
}

async fn invite(usher: &UsherProcess, email: &str) {
    let acme = usher.organization("Acme").await;
    usher.invite(acme, email).await;
}

/// What kinds of commands these are.
fn verbs(commands: &[String]) -> BTreeSet<&str> {
    commands
        .iter()
        .filter_map(|command| command.split([' ', ':']).next())
        .collect()
}

fn errors(usher: &UsherProcess) -> Vec<String> {
    let log = usher.log().into_iter();
    log.filter(|line| line.contains("\"ERROR\"")).collect()
}

#[tokio::test]
async fn mail_and_login_go_out_encrypted_to_a_server_that_a_trusted_authority_vouches_for() {
    let authority = Authority::new();
    for (encryption, in_clear) in [
        (
            Encryption::StartTls(authority.vouches(RIGHT)),
            BTreeSet::from(["EHLO", "STARTTLS"]),
        ),
        (Encryption::Implicit(authority.vouches(RIGHT)), BTreeSet::new()),
    ] {
        let (server, database) = (
            SmtpServer::start_encrypted(encryption).await,
            TestDatabase::sqlite().await,
        );
        let usher = trusting(&authority, &server, &database).await;
        invite(&usher, "ada@example.com").await;
        let mails = server.wait_for_mails(1).await;
        assert_eq!(mails[0].to, ["ada@example.com"]);
        assert!(verbs(&server.commands()).contains("AUTH"));
        let said = usher.well(&["check"]).await;
        assert!(said.contains("ok    mail server    connected and logged in"), "{said}");
        assert_eq!(verbs(&server.commands_in_clear()), in_clear);
        assert!(usher.terminate().await);
    }
}

#[tokio::test]
async fn a_server_that_nobody_trusted_vouches_for_gets_neither_mail_nor_login_and_the_mail_waits() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for encryption in [
        Encryption::StartTls(authority.vouches(RIGHT)),
        Encryption::Implicit(authority.vouches(RIGHT)),
    ] {
        let (server, database) = (
            SmtpServer::start_encrypted(encryption).await,
            TestDatabase::sqlite().await,
        );
        let usher = trusting(&stranger, &server, &database).await;
        invite(&usher, "ada@example.com").await;
        eventually("it was tried", async || {
            let tried = "usher_deliveries where status = 'queued' and attempts > 0";
            database.pool.count(tried).await == 1
        })
        .await;
        let error = database.pool.text("select last_error from usher_deliveries").await;
        let error = error.unwrap();
        assert!(
            error.contains("certificate") && error.contains("UnknownIssuer"),
            "{error}"
        );
        assert_eq!(
            database.pool.count("usher_mail_circuit").await,
            0,
            "it may be somebody on the way, for a while"
        );
        assert_eq!(errors(&usher), [""; 0], "the failure of the attempt is told, and once");
        assert!(verbs(&server.commands()).is_subset(&BTreeSet::from(["EHLO", "STARTTLS"])));
        assert!(usher.terminate().await);

        let usher = trusting(&authority, &server, &database).await;
        usher.well(&["jobs", "retry", "--queue", "send-mail", "--yes"]).await;
        server.wait_for_mails(1).await;
        assert!(usher.terminate().await);
    }
}

/// Whoever takes STARTTLS out of the server's answer on the way gets nothing by it.
#[tokio::test]
async fn a_server_without_starttls_where_it_is_required_hears_nothing_and_raises_the_alarm() {
    let authority = Authority::new();
    let server = SmtpServer::start_encrypted(Encryption::StartTls(authority.vouches(RIGHT))).await;
    server.without("STARTTLS");
    let database = TestDatabase::sqlite().await;
    let usher = trusting(&authority, &server, &database).await;
    for email in ["ada@example.com", "bob@example.com", "cy@example.com"] {
        invite(&usher, email).await;
    }
    eventually("all mails wait", async || {
        database.pool.count("usher_mail_circuit").await == 1
    })
    .await;
    eventually("the alarm is raised", async || !errors(&usher).is_empty()).await;
    let said = usher.usher(&["check"]).await.1;
    assert!(said.contains("FAIL  mail server    SMTP_URL: "), "{said}");
    assert_eq!(errors(&usher).len(), 1, "{:?}", errors(&usher));
    assert!(errors(&usher)[0].contains("STARTTLS"), "{:?}", errors(&usher));
    let waiting = "usher_deliveries where status = 'queued'";
    assert_eq!(database.pool.count(waiting).await, 3);
    assert_eq!(verbs(&server.commands()), BTreeSet::from(["EHLO"]));
    assert!(usher.terminate().await);

    // Whoever starts may bring the cure, so it is tried at once.
    server.with("STARTTLS");
    let usher = trusting(&authority, &server, &database).await;
    eventually("the circuit is closed", async || {
        database.pool.count("usher_mail_circuit").await == 0
    })
    .await;
    usher.well(&["jobs", "retry", "--queue", "send-mail", "--yes"]).await;
    server.wait_for_mails(3).await;
    assert!(usher.terminate().await);
}

#[tokio::test]
async fn a_check_names_what_is_wrong_with_a_certificate_and_opportunism_encrypts_where_it_can() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = SmtpServer::start_encrypted(Encryption::StartTls(authority.vouches(RIGHT))).await;
    let database = TestDatabase::sqlite().await;
    let usher = trusting(&authority, &server, &database).await;
    let check = async |url: &str| usher.usher(&["check", "--smtp-url", url]).await;
    let other = Certificate {
        name: "mail.example.com",
        ..RIGHT
    };
    let expired = Certificate {
        is_expired: true,
        ..RIGHT
    };
    for (acceptor, words) in [
        (stranger.vouches(RIGHT), "UnknownIssuer"),
        (authority.vouches(other), "not valid for name"),
        (authority.vouches(expired), "expired"),
    ] {
        for encryption in [Encryption::StartTls(acceptor.clone()), Encryption::Implicit(acceptor)] {
            let server = SmtpServer::start_encrypted(encryption).await;
            let (well, said) = check(&server.url()).await;
            let line = said.lines().find(|line| line.contains("mail server")).unwrap();
            assert!(!well && line.starts_with("FAIL") && line.contains(words), "{line}");
            assert!(!verbs(&server.commands()).contains("AUTH"));
        }
    }
    let opportunistic = server.url().replace("required", "opportunistic");
    let is_logged_in = |said: &str| said.contains("ok    mail server    connected and logged in");
    let (well, said) = check(&opportunistic).await;
    assert!(well && is_logged_in(&said), "{said}");
    assert!(!verbs(&server.commands_in_clear()).contains("AUTH"));
    server.without("STARTTLS");
    let (well, said) = check(&opportunistic).await;
    assert!(well && is_logged_in(&said), "{said}");
    assert!(
        verbs(&server.commands_in_clear()).contains("AUTH"),
        "as it was asked to"
    );
}

#[tokio::test]
async fn a_server_that_can_not_encrypt_for_now_is_tried_again() {
    let authority = Authority::new();
    for (behaviour, words) in [
        (Behaviour::Reply("454 4.7.0 TLS not available"), "STARTTLS: 454"),
        (Behaviour::Drop, "STARTTLS: the connection ended"),
    ] {
        let server = SmtpServer::start_encrypted(Encryption::StartTls(authority.vouches(RIGHT))).await;
        server.at(Phase::StartTls, behaviour);
        let error = mailer_to(server.url())
            .send("ada@example.com", &delivery(1), &letter())
            .await;
        assert!(
            matches!(&error, Err(SendError::Temporary(why)) if why.starts_with(words)),
            "{error:?}"
        );
        assert!(verbs(&server.commands()).is_subset(&BTreeSet::from(["EHLO", "STARTTLS", "QUIT"])));
    }
}
