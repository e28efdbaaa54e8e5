//! Mail on its way out: what a server gets to see, and what its refusals mean.

use std::{fs, time::Duration};

use chrono::{DateTime, Utc};
use usher_mail::{
    AcceptedNotice, Lines, MailConfig, Mailer, MessageIdentity, OrganizationInvite, ProjectInvite, Reminder, Rendered,
    SendError, TransportConfig,
};

use crate::support::smtp::{Behaviour, Phase, SmtpServer};

const GRACE: &str = "grace@example.com";

fn config(transport: TransportConfig) -> MailConfig {
    MailConfig {
        from: "usher <no-reply@usher.example>".to_owned(),
        reply_to: None,
        transport,
        templates_dir: None,
        default_locale: "en".to_owned(),
        unsubscribe: None,
    }
}

pub fn mailer_to(url: impl Into<String>) -> Mailer {
    Mailer::new(config(TransportConfig::Smtp { url: url.into() })).unwrap()
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000 + seconds, 0).unwrap()
}

pub fn delivery(number: u32) -> MessageIdentity {
    MessageIdentity {
        message_id: format!("delivery-{number}@usher.example"),
        date: at(number.into()),
    }
}

pub fn letter() -> Rendered {
    Rendered {
        language: "en".to_owned(),
        is_unsolicited: true,
        subject: "Hello".to_owned(),
        text: "Hello\n".to_owned(),
        html: "<p>Hello</p>\n".to_owned(),
    }
}

/// What is true of every mail on the wire, whatever was in it.
fn assert_sound(raw: &[u8]) {
    for (index, byte) in raw.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(raw.get(index + 1), Some(&b'\n'), "a bare CR"),
            b'\n' => assert_eq!(index.checked_sub(1).map(|before| raw[before]), Some(b'\r'), "a bare LF"),
            b'\t' => {}
            byte => assert!(!byte.is_ascii_control(), "a control character: {byte}"),
        }
    }
    for line in raw.split(|byte| *byte == b'\n') {
        assert!(line.len() <= 998, "a line of {} bytes", line.len());
    }
}

#[tokio::test]
async fn an_invite_arrives_as_text_and_html_under_its_own_identity() {
    let server = SmtpServer::start().await;
    let mailer = Mailer::new(MailConfig {
        from: "Zoë's usher, Ltd. <no-reply@usher.example>".to_owned(),
        reply_to: Some("help@usher.example".to_owned()),
        unsubscribe: Some("mailto:stop@usher.example, https://usher.example/stop?who={email}".to_owned()),
        ..config(TransportConfig::Smtp { url: server.url() })
    })
    .unwrap();
    let invite = OrganizationInvite {
        organization_name: "Zürich Engines".into(),
        ..OrganizationInvite::sample()
    };
    let rendered = mailer.render(invite.clone(), &[]).unwrap();

    let sent = mailer.send(GRACE, &delivery(1), &rendered).await.unwrap();

    assert_eq!(sent.description, "250 2.0.0 queued as 1");
    let [mail] = &server.mails()[..] else {
        panic!("one mail")
    };
    assert_sound(&mail.raw);
    assert_eq!(
        (mail.from.as_str(), &mail.to[..]),
        ("no-reply@usher.example", &[GRACE.to_owned()][..])
    );
    let expected = [
        ("Subject", "Ada Lovelace invites you to Zürich Engines"),
        ("To", GRACE),
        ("Reply-To", "help@usher.example"),
        ("Message-ID", "delivery-1@usher.example"),
        ("Date", "Wed, 18 Nov 2026 11:06:41 +0000"),
        ("Auto-Submitted", "auto-generated"),
        ("Content-Language", "en"),
        (
            "List-Unsubscribe",
            "mailto:stop@usher.example>, <https://usher.example/stop?who=grace%40example.com",
        ),
        ("MIME-Version", "1.0"),
    ];
    for (name, value) in expected {
        let found = mail.header(name).unwrap_or_default();
        assert_eq!(found.trim_matches(['<', '>']), value, "{name}");
        assert_eq!(mail.count(name), 1, "{name}");
    }
    assert!(mail.header("From").unwrap().ends_with("<no-reply@usher.example>"));
    assert!(
        mail.header("Content-Type")
            .unwrap()
            .starts_with("multipart/alternative")
    );
    assert_eq!(mail.text(), rendered.text);
    assert_eq!(mail.html(), rendered.html);
    assert!(
        mail.text().contains(invite.link.as_str()),
        "the link survives the encoding"
    );
}

#[tokio::test]
async fn only_what_nobody_asked_for_can_be_unsubscribed_from() {
    let server = SmtpServer::start().await;
    let mailer = Mailer::new(MailConfig {
        unsubscribe: Some("mailto:stop@usher.example".to_owned()),
        ..config(TransportConfig::Smtp { url: server.url() })
    })
    .unwrap();
    let mails = [
        mailer.render(OrganizationInvite::sample(), &[]),
        mailer.render(ProjectInvite::sample(), &[]),
        mailer.render(Reminder::sample(), &[]),
        mailer.render(AcceptedNotice::sample(), &[]),
    ];
    for (number, mail) in (0..).zip(mails) {
        mailer.send(GRACE, &delivery(number), &mail.unwrap()).await.unwrap();
    }
    let counts: Vec<_> = server
        .mails()
        .iter()
        .map(|mail| mail.count("List-Unsubscribe"))
        .collect();
    assert_eq!(counts, [1, 1, 1, 0], "the inviter has a part in the notice");
}

#[tokio::test]
async fn names_in_any_script_arrive_as_they_were_written() {
    let server = SmtpServer::start().await;
    for name in [
        "Zoë Ångström",
        "山田 太郎",
        "محمد علي",
        "דנה",
        "Владимир",
        "👩‍🚀 Kai",
        "Last, First (Team)",
        "A \"B\" C",
    ] {
        let mailer = Mailer::new(MailConfig {
            from: format!("{name} <no-reply@usher.example>"),
            ..config(TransportConfig::Smtp { url: server.url() })
        })
        .unwrap();
        for language in ["en", "ja"] {
            let invite = OrganizationInvite {
                organization_name: name.into(),
                inviter_name: Some(name.into()),
                ..OrganizationInvite::sample()
            };
            let rendered = mailer.render(invite.clone(), &[Some(language)]).unwrap();
            mailer.send(GRACE, &delivery(1), &rendered).await.unwrap();
            let mails = server.mails();
            let mail = mails.last().unwrap();
            assert!(mail.raw.is_ascii(), "any server can take it");
            assert_sound(&mail.raw);
            assert_eq!(mail.header("Subject").as_deref(), Some(rendered.subject.as_str()));
            assert_eq!(mail.sender_name().as_deref(), Some(name));
            assert_eq!((mail.text(), mail.html()), (rendered.text, rendered.html));
        }
    }
}

#[tokio::test]
async fn a_second_attempt_is_recognisable_as_the_same_mail() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    for _ in 0..2 {
        mailer.send(GRACE, &delivery(7), &letter()).await.unwrap();
    }
    let mails = server.mails();
    for name in ["Message-ID", "Date", "Subject", "To", "From"] {
        assert_eq!(mails[0].header(name), mails[1].header(name), "{name}");
    }
}

/// A value in the place of a name, whatever kind of one the mail wants.
fn name<'a, T: From<&'a str>>(value: &'a str) -> T {
    value.into()
}

#[tokio::test]
async fn whatever_people_call_themselves_the_mail_stays_one_mail() {
    let hostile = [
        "<script>alert(1)</script>".to_owned(),
        "\"><img src=x onerror=alert(1)>".to_owned(),
        "Eve\r\nBcc: all@example.com".to_owned(),
        "Eve\nBcc: all@example.com\n\n<html>".to_owned(),
        "Eve\rBcc: all@example.com".to_owned(),
        "\r\n.\r\nMAIL FROM:<eve@example.com>\r\n".to_owned(),
        ".".to_owned(),
        "\0\u{1}\u{7f}\u{9b}".to_owned(),
        "Eve\u{2028}Bcc: all@example.com\u{2029}".to_owned(),
        "\u{202e}elpmaxe\u{2066}\u{2069}".to_owned(),
        "=?utf-8?q?Eve=0D=0ABcc=3A_all=40example=2Ecom?=".to_owned(),
        "{{link}} {{{link}}} {{#each}}".to_owned(),
        "--\r\nContent-Type: text/html\r\n".to_owned(),
        "a".repeat(10_000),
        "é".repeat(10_000),
        "word ".repeat(2_000),
        "👩‍🚀🏴󠁧󠁢󠁥󠁮󠁧󠁿 ẞ ﷽".to_owned(),
        String::new(),
    ];
    let server = SmtpServer::start().await;
    for (number, value) in (0..).zip(&hostile) {
        let mailer = Mailer::new(MailConfig {
            from: format!("{value} <no-reply@usher.example>"),
            reply_to: Some(format!("\"{value}\" <help@usher.example>")),
            ..config(TransportConfig::Smtp { url: server.url() })
        })
        .unwrap();
        let rendered = [
            mailer.render(
                OrganizationInvite {
                    app_name: name(value),
                    organization_name: name(value),
                    inviter_name: Some(name(value)),
                    role: name(value),
                    message: Some(Lines::from(value.as_str())),
                    email: name(value),
                    ..OrganizationInvite::sample()
                },
                &[],
            ),
            mailer.render(
                ProjectInvite {
                    project_name: name(value),
                    ..ProjectInvite::bare_sample()
                },
                &[],
            ),
            mailer.render(
                AcceptedNotice {
                    invitee_name: Some(name(value)),
                    ..AcceptedNotice::sample()
                },
                &[],
            ),
            mailer.render(
                Reminder {
                    app_name: name(value),
                    organization_name: name(value),
                    project_name: Some(name(value)),
                    inviter_name: Some(name(value)),
                    role: name(value),
                    email: name(value),
                    ..Reminder::sample()
                },
                &[Some("ja")],
            ),
            // Past the templates' own cleaning.
            Ok(Rendered {
                language: "en".to_owned(),
                is_unsolicited: true,
                subject: value.clone(),
                text: value.clone(),
                html: value.clone(),
            }),
        ];
        for rendered in rendered {
            let rendered = rendered.unwrap();
            let before = server.mails().len();
            mailer.send(GRACE, &delivery(number), &rendered).await.unwrap();
            let mails = server.mails();
            assert_eq!(mails.len(), before + 1, "{value:?}");
            let mail = mails.last().unwrap();
            assert_sound(&mail.raw);
            assert_eq!(mail.to, [GRACE], "{value:?}");
            assert_eq!(mail.count("Bcc"), 0, "{value:?}");
            for name in [
                "From",
                "To",
                "Subject",
                "Reply-To",
                "Message-ID",
                "Date",
                "Content-Type",
            ] {
                assert_eq!(mail.count(name), 1, "{name} with {value:?}");
            }
            // Whatever it was, it arrived as it was sent; a mail has its own kind of line ends.
            let lines = |text: &str| text.replace("\r\n", "\n").trim_end().to_owned();
            assert_eq!(lines(&mail.text()), lines(&rendered.text), "{value:?}");
            assert_eq!(lines(&mail.html()), lines(&rendered.html), "{value:?}");
        }
        mailer.close().await;
    }
    assert!(
        server
            .commands()
            .iter()
            .all(|command| !command.contains("eve") && !command.contains("all@"))
    );
}

#[tokio::test]
async fn what_is_no_address_or_identity_never_reaches_the_server() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    let long = format!("{}@example.com", "a".repeat(500));
    let addresses = [
        "",
        "grace",
        "grace@",
        "@example.com",
        "Grace <grace@example.com>",
        "grace@example.com, eve@example.com",
        "grace@example.com\r\nBcc: eve@example.com",
        "grace@example.com>\r\nRCPT TO:<eve@example.com",
        "\"\r\nDATA\r\n\"@example.com",
        "gra\0ce@example.com",
        "grace@exam\u{2028}ple.com",
        "\u{202e}grace@example.com",
        &long,
    ];
    for address in addresses {
        let error = mailer.send(address, &delivery(1), &letter()).await.unwrap_err();
        assert!(matches!(error, SendError::Unaddressable(_)), "{address:?}: {error}");
    }
    for message_id in ["", "x", "x@y\r\nBcc: eve@example.com", "x@y>\r\n", "é@y", "\0@y"] {
        let id = MessageIdentity {
            message_id: message_id.to_owned(),
            date: at(0),
        };
        let error = mailer.send(GRACE, &id, &letter()).await.unwrap_err();
        assert!(matches!(error, SendError::Unaddressable(_)), "{message_id:?}: {error}");
    }
    for date in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        let id = MessageIdentity { date, ..delivery(1) };
        let error = mailer.send(GRACE, &id, &letter()).await.unwrap_err();
        assert!(matches!(error, SendError::Unaddressable(_)), "{date}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_address_outside_ascii_needs_a_server_that_knows_them() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    mailer
        .send("zoë@bücher.example", &delivery(1), &letter())
        .await
        .unwrap();
    assert_eq!(server.mails()[0].to, ["zoë@xn--bcher-kva.example"]);
    let mail_from = "MAIL FROM:<no-reply@usher.example> SMTPUTF8 BODY=8BITMIME".to_owned();
    assert!(server.commands().contains(&mail_from));

    let plain = SmtpServer::start().await;
    plain.without("SMTPUTF8");
    let mailer = mailer_to(plain.url());
    let error = mailer
        .send("zoë@example.com", &delivery(1), &letter())
        .await
        .unwrap_err();
    assert!(matches!(error, SendError::Unaddressable(_)), "{error}");
    // The domain alone is no trouble: it has a form in ASCII.
    mailer
        .send("zoe@bücher.example", &delivery(2), &letter())
        .await
        .unwrap();
    assert_eq!(plain.mails()[0].to, ["zoe@xn--bcher-kva.example"]);
}

#[tokio::test]
async fn a_refusal_says_whether_to_try_again_to_give_up_or_to_call_ops() {
    use Behaviour::{Drop, Reply};
    use SendError::{Account, Bounced, Policy, Rejected, Sender, Temporary};
    type Case = (Phase, Behaviour, fn(String) -> SendError, &'static str);
    let broken = "the connection ended without a proper reply";
    #[rustfmt::skip]
    let cases: [Case; 26] = [
        (Phase::Greeting, Reply("421 4.3.2 not now"), Temporary, "connecting: 421 4.3.2 not now"),
        (Phase::Greeting, Reply("554 5.3.2 no service"), Account, "connecting: 554 5.3.2 no service"),
        (Phase::Greeting, Reply("HTTP/1.1 400 Bad Request"), Temporary, "connecting: {broken}"),
        (Phase::Greeting, Drop, Temporary, "connecting: {broken}"),
        (Phase::Ehlo, Reply("550 5.7.1 go away"), Account, "connecting: 550 5.7.1 go away"),
        (Phase::Ehlo, Drop, Temporary, "connecting: {broken}"),
        (Phase::Ehlo, Reply("250-localhost\r\nwhat?\r\n250 HELP"), Temporary, "connecting: {broken}"),
        (Phase::Auth, Reply("454 4.7.0 not now"), Temporary, "AUTH: 454 4.7.0 not now"),
        (Phase::Auth, Reply("535 5.7.8 wrong"), Account, "AUTH: 535 5.7.8 wrong"),
        (Phase::Auth, Drop, Temporary, "AUTH: {broken}"),
        (Phase::MailFrom, Reply("451 4.7.1 greylisted"), Temporary, "MAIL FROM: 451 4.7.1 greylisted"),
        (Phase::MailFrom, Reply("553 5.7.1 not yours"), Account, "MAIL FROM: 553 5.7.1 not yours"),
        (Phase::MailFrom, Drop, Temporary, "MAIL FROM: {broken}"),
        (Phase::Rcpt, Reply("450-4.2.0 <grace@example.com>\r\n450 4.2.0 greylisted"), Temporary, "RCPT TO: 450 4.2.0 <g***@example.com> greylisted"),
        (Phase::Rcpt, Reply("550 5.1.1 <grace@example.com>: no such user"), Bounced, "RCPT TO: 550 5.1.1 <g***@example.com>: no such user"),
        (Phase::Rcpt, Reply("554 5.7.1 Relay access denied"), Policy, "RCPT TO: 554 5.7.1 Relay access denied"),
        (Phase::Rcpt, Reply("421 4.4.2 too slow"), Temporary, "RCPT TO: 421 4.4.2 too slow"),
        (Phase::Rcpt, Drop, Temporary, "RCPT TO: {broken}"),
        (Phase::Data, Reply("451 4.3.0 no room"), Temporary, "DATA: 451 4.3.0 no room"),
        (Phase::Data, Reply("554 5.5.1 no"), Temporary, "DATA: 554 5.5.1 no"),
        (Phase::Data, Drop, Temporary, "DATA: {broken}"),
        (Phase::EndOfData, Reply("451 4.3.0 scanner"), Temporary, "end of data: 451 4.3.0 scanner"),
        (Phase::EndOfData, Reply("554 5.7.1 spam"), Temporary, "end of data: 554 5.7.1 spam"),
        (Phase::EndOfData, Reply("552 5.3.4 too big"), Rejected, "end of data: 552 5.3.4 too big"),
        (Phase::EndOfData, Reply("550 The from address does not match a verified Sender Identity."), Sender, "end of data: 550 The from address does not match a verified Sender Identity."),
        (Phase::EndOfData, Drop, Temporary, "end of data: {broken}"),
    ];
    // With the commands in one go, and one by one.
    let both_ways = cases.into_iter().flat_map(|case| [(case, true), (case, false)]);
    for ((phase, behaviour, kind, words), is_pipelining) in both_ways {
        let server = SmtpServer::start_with_login("usher", "secret").await;
        if !is_pipelining {
            server.without("PIPELINING");
        }
        server.next(1, phase, behaviour);
        let mailer = mailer_to(server.url());
        let error = mailer.send(GRACE, &delivery(1), &letter()).await.unwrap_err();
        assert_eq!(
            error,
            kind(words.replace("{broken}", broken)),
            "{phase:?} {behaviour:?}"
        );
        assert_eq!(server.mails(), []);

        // And the trouble leaves nothing behind: the next mail goes out, to its own recipient only.
        mailer.send("ada@example.com", &delivery(2), &letter()).await.unwrap();
        assert_eq!(server.mails()[0].to, ["ada@example.com"], "{phase:?} {behaviour:?}");
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_in_time() {
    let phases = [
        Phase::Greeting,
        Phase::Ehlo,
        Phase::Auth,
        Phase::MailFrom,
        Phase::Rcpt,
        Phase::Data,
        Phase::EndOfData,
    ];
    for phase in phases {
        let server = SmtpServer::start_with_login("usher", "secret").await;
        server.next(1, phase, Behaviour::Stall);
        let mailer = mailer_to(server.url());
        let (id, mail) = (delivery(1), letter());
        let sending = mailer.send(GRACE, &id, &mail);
        let patience = async {
            server.wait_for_stalls(1).await;
            // Only now: with nothing else to do, a paused clock jumps to the next deadline.
            tokio::time::pause();
            let since = tokio::time::Instant::now();
            std::future::pending::<()>().await;
            since
        };
        let error = tokio::select! {
            result = sending => result.unwrap_err(),
            _ = patience => unreachable!(),
        };
        tokio::time::resume();
        assert!(
            matches!(&error, SendError::Temporary(text) if text.contains("no reply within")),
            "{phase:?}: {error}"
        );

        // The silent connection is not used again: its late replies would answer the next mail's commands.
        mailer.send("ada@example.com", &delivery(2), &letter()).await.unwrap();
        assert_eq!(server.connections(), 2, "{phase:?}");
        assert_eq!(server.mails()[0].to, ["ada@example.com"], "{phase:?}");
    }
}

#[tokio::test]
async fn a_send_that_is_cancelled_takes_its_connection_along() {
    let server = SmtpServer::start().await;
    server.next(1, Phase::Rcpt, Behaviour::Stall);
    let mailer = mailer_to(server.url());
    let (id, mail) = (delivery(1), letter());
    tokio::select! {
        result = mailer.send(GRACE, &id, &mail) => panic!("it can't have come to an end: {result:?}"),
        () = server.wait_for_stalls(1) => {}
    }
    mailer.send("ada@example.com", &delivery(2), &letter()).await.unwrap();
    assert_eq!(server.connections(), 2);
    assert_eq!(server.mails()[0].to, ["ada@example.com"]);
}

#[tokio::test]
async fn nobody_listening_is_temporary() {
    let server = SmtpServer::start().await;
    let url = server.url();
    drop(server);
    tokio::task::yield_now().await;
    let error = mailer_to(url).send(GRACE, &delivery(1), &letter()).await.unwrap_err();
    assert!(matches!(error, SendError::Temporary(_)), "{error}");
}

#[tokio::test]
async fn a_wrong_setup_is_a_case_for_ops() {
    let server = SmtpServer::start_with_login("usher", "right").await;
    let address = server.address();
    let error = mailer_to(format!("smtp://usher:wrong@{address}"))
        .send(GRACE, &delivery(1), &letter())
        .await;
    assert_eq!(error, Err(SendError::Account("AUTH: 535 5.7.8 bad credentials".into())));
    let error = mailer_to(format!("smtp://{address}"))
        .send(GRACE, &delivery(1), &letter())
        .await;
    assert_eq!(
        error,
        Err(SendError::Account("MAIL FROM: 530 5.7.0 login first".into()))
    );
    let error = mailer_to(format!("smtp://{address}?tls=required"))
        .send(GRACE, &delivery(1), &letter())
        .await;
    assert!(matches!(error, Err(SendError::Account(_))), "no STARTTLS: {error:?}");

    server.without("AUTH");
    let error = mailer_to(server.url()).check().await;
    assert!(matches!(error, Err(SendError::Account(_))), "no AUTH: {error:?}");

    let error = mailer_to(format!("smtps://{address}")).check().await;
    assert!(
        matches!(error, Err(SendError::Temporary(_))),
        "no TLS where TLS should be: {error:?}"
    );
}

#[tokio::test]
async fn both_logins_work_and_a_check_sends_nothing() {
    for mechanism in ["PLAIN", "LOGIN"] {
        let server = SmtpServer::start_with_login("usher", "secret").await;
        if mechanism == "LOGIN" {
            server.at(Phase::Ehlo, Behaviour::Reply("250-localhost\r\n250 AUTH LOGIN"));
        }
        let mailer = mailer_to(server.url());
        mailer.check().await.unwrap();
        assert_eq!(server.mails(), []);
        mailer.send(GRACE, &delivery(1), &letter()).await.unwrap();
        assert_eq!((server.mails().len(), server.connections()), (1, 1));
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_mail_and_closed_politely() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    for number in 0..5 {
        mailer.send(GRACE, &delivery(number), &letter()).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
    // A refused mail doesn't cost the connection either.
    server.at(Phase::Rcpt, Behaviour::Reply("550 5.1.1 no such user"));
    mailer
        .send("nobody@example.com", &delivery(5), &letter())
        .await
        .unwrap_err();
    server.at(Phase::Rcpt, Behaviour::Accept);
    mailer.send(GRACE, &delivery(6), &letter()).await.unwrap();
    assert_eq!(server.connections(), 1);
    mailer.close().await;
    assert_eq!(server.commands().last().map(String::as_str), Some("QUIT"));
    mailer.send(GRACE, &delivery(7), &letter()).await.unwrap();
    assert_eq!((server.connections(), server.mails().len()), (2, 7));
}

#[tokio::test]
async fn a_connection_that_died_while_it_waited_is_replaced() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    mailer.send(GRACE, &delivery(1), &letter()).await.unwrap();
    server.next(1, Phase::Rset, Behaviour::Drop);
    mailer.send(GRACE, &delivery(2), &letter()).await.unwrap();
    assert_eq!((server.connections(), server.mails().len()), (2, 2));
}

#[tokio::test]
async fn commands_go_out_in_one_go_where_the_server_takes_them_so() {
    let server = SmtpServer::start().await;
    let plain = SmtpServer::start().await;
    plain.without("PIPELINING");
    for (server, at_least) in [(&server, 4), (&plain, 0)] {
        let mailer = mailer_to(server.url());
        for number in 0..3 {
            mailer.send(GRACE, &delivery(number), &letter()).await.unwrap();
        }
        assert_eq!((server.mails().len(), server.connections()), (3, 1));
        assert!(server.pipelined() >= at_least, "{}", server.pipelined());
    }
    assert_eq!(plain.pipelined(), 0);
}

#[tokio::test]
async fn a_go_ahead_for_nobody_sends_nothing_and_spoils_no_other_mail() {
    let server = SmtpServer::start().await;
    server.accept_data_without_recipients();
    let mailer = mailer_to(server.url());
    for number in [1, 3] {
        server.next(1, Phase::Rcpt, Behaviour::Reply("550 5.1.1 no such user"));
        let refused = mailer.send("nobody@example.com", &delivery(number), &letter()).await;
        assert!(matches!(refused, Err(SendError::Bounced(_))), "{refused:?}");
        mailer.send(GRACE, &delivery(number + 1), &letter()).await.unwrap();
    }
    let mails = server.mails();
    assert_eq!((mails.len(), server.connections()), (2, 1));
    assert!(mails.iter().all(|mail| mail.to == [GRACE] && mail.text() == "Hello\n"));
}

#[tokio::test]
async fn a_rate_spreads_the_mails_over_time() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url()).at_most(20.try_into().unwrap());
    let since = tokio::time::Instant::now();
    let sending = (0..5).map(async |number| {
        let (id, mail) = (delivery(number), letter());
        mailer.send(GRACE, &id, &mail).await
    });
    for result in futures::future::join_all(sending).await {
        result.unwrap();
    }
    assert!(
        since.elapsed() >= Duration::from_millis(190),
        "four waits of a twentieth: {:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn an_unused_connection_is_given_back() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    mailer.send(GRACE, &delivery(1), &letter()).await.unwrap();
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(31)).await;
    tokio::time::resume();
    server.wait_for_command("QUIT").await;
}

#[tokio::test]
async fn many_mails_share_a_few_connections() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    let mail = letter();
    let sending = (0..50).map(|number| {
        let (mailer, mail) = (&mailer, &mail);
        async move {
            mailer
                .send(&format!("user{number}@example.com"), &delivery(number), mail)
                .await
        }
    });
    for result in futures::future::join_all(sending).await {
        result.unwrap();
    }
    let mails = server.wait_for_mails(50).await;
    let recipients: std::collections::HashSet<_> = mails.iter().map(|mail| mail.to.clone()).collect();
    assert_eq!(recipients.len(), 50);
    assert!(
        server.connections() <= usher_mail::MAX_CONNECTIONS,
        "{}",
        server.connections()
    );
}

#[tokio::test]
async fn the_outbox_holds_one_whole_file_per_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("var/outbox");
    let mailer = Mailer::new(config(TransportConfig::Outbox { dir: dir.clone() })).unwrap();
    mailer.check().await.unwrap();
    let rendered = mailer.render(ProjectInvite::sample(), &[]).unwrap();
    for number in [1, 2, 2] {
        let sent = mailer.send(GRACE, &delivery(number), &rendered).await.unwrap();
        assert!(fs::metadata(&sent.description).unwrap().is_file());
    }
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["20261118T110641Z-delivery-1.eml", "20261118T110642Z-delivery-2.eml"]
    );
    assert_sound(&fs::read(dir.join(&files[0])).unwrap());
}

#[tokio::test]
async fn an_outbox_that_can_not_be_written_is_temporary() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let dir = file.path().join("outbox");
    let mailer = Mailer::new(config(TransportConfig::Outbox { dir })).unwrap();
    for result in [
        mailer.check().await,
        mailer.send(GRACE, &delivery(1), &letter()).await.map(drop),
    ] {
        assert!(matches!(result, Err(SendError::Temporary(_))), "{result:?}");
    }
}

#[tokio::test]
async fn three_digits_alone_are_an_answer_at_every_step() {
    let server = SmtpServer::start_with_login("usher", "secret").await;
    for (phase, words) in [
        (Phase::Greeting, "220"),
        (Phase::Ehlo, "250-localhost\r\n250-\r\n250-AUTH PLAIN\r\n250"),
        (Phase::Auth, "235"),
        (Phase::Rset, "250"),
        (Phase::MailFrom, "250"),
        (Phase::Rcpt, "250-\r\n250"),
        (Phase::Data, "354"),
        (Phase::EndOfData, "250"),
    ] {
        server.at(phase, Behaviour::Say(words));
    }
    let mailer = mailer_to(server.url());
    for number in 0..2 {
        let sent = mailer.send(GRACE, &delivery(number), &letter()).await.unwrap();
        assert_eq!(sent.description, "250");
    }
    assert_eq!((server.mails().len(), server.connections()), (2, 1));
}

#[tokio::test]
async fn ehlo_names_the_sender_s_domain_an_address_or_what_is_set() {
    let server = SmtpServer::start().await;
    let hello = async |mailer: Mailer| {
        mailer.send(GRACE, &delivery(1), &letter()).await.unwrap();
        let commands = server.commands();
        let hellos: Vec<_> = commands.iter().filter(|command| command.starts_with("EHLO")).collect();
        (*hellos.last().unwrap()).clone()
    };
    let from = |from: &str| {
        Mailer::new(MailConfig {
            from: from.to_owned(),
            ..config(TransportConfig::Smtp { url: server.url() })
        })
        .unwrap()
    };
    assert_eq!(
        hello(from("usher <no-reply@usher.example>")).await,
        "EHLO usher.example"
    );
    assert_eq!(hello(from("usher <no-reply@localhost>")).await, "EHLO [127.0.0.1]");
    let set = from("no-reply@usher.example").hello_as("mail.acme.example").unwrap();
    assert_eq!(hello(set).await, "EHLO mail.acme.example");
    for wrong in ["", "3f2a9c1b04d5", "mail.example.com\r\nMAIL FROM:<>"] {
        let error = from("no-reply@usher.example").hello_as(wrong).unwrap_err();
        assert!(error.to_string().starts_with("SMTP_HELO_NAME"), "{error}");
    }
}

/// Over a connection that has served some mails, at whichever step, with whatever words or none.
#[tokio::test]
async fn a_limit_per_connection_costs_no_attempt_and_is_learnt() {
    use Behaviour::{Drop, Reply};
    let cases = [
        (Phase::Rset, Reply("421 4.7.0 too many messages")),
        (Phase::MailFrom, Reply("421 too many messages in this connection")),
        (Phase::MailFrom, Reply("452 4.5.0 too many messages sent in session")),
        (Phase::MailFrom, Drop),
        (Phase::Rcpt, Reply("452 4.7.28 Session exceeded transfer quota.")),
        (Phase::Rcpt, Reply("550 5.7.0 too many messages in this session")),
        (
            Phase::Data,
            Reply("452 4.4.5 Maximum number of messages per session exceeded."),
        ),
        (Phase::Data, Drop),
        (Phase::Rset, Drop),
    ];
    for (phase, behaviour) in cases {
        for is_pipelining in [true, false] {
            let server = SmtpServer::start().await;
            server.limit_connections(3, phase, behaviour);
            if !is_pipelining {
                server.without("PIPELINING");
            }
            let mailer = mailer_to(server.url());
            for number in 0..12 {
                let sent = mailer.send(GRACE, &delivery(number), &letter()).await;
                assert!(sent.is_ok(), "{phase:?} {behaviour:?}: {sent:?}");
            }
            let what = format!("{phase:?} {behaviour:?} pipelining: {is_pipelining}");
            assert_eq!(server.mails().len(), 12, "{what}");
            assert_eq!(server.limit_met(), 2, "met twice, then ended before it: {what}");
            assert_eq!(server.connections(), 4, "{what}");
        }
    }
}

#[tokio::test]
async fn a_limit_that_the_server_tells_of_is_kept() {
    let server = SmtpServer::start().await;
    server.at(Phase::Ehlo, Behaviour::Say("250-localhost\r\n250 LIMITS MAILMAX=2"));
    server.limit_connections(2, Phase::MailFrom, Behaviour::Reply("421 enough"));
    let mailer = mailer_to(server.url());
    for number in 0..6 {
        mailer.send(GRACE, &delivery(number), &letter()).await.unwrap();
    }
    assert_eq!((server.limit_met(), server.connections()), (0, 3));
}

/// A connection that rested too long was ended for that, which says nothing of how many mails it takes.
#[tokio::test]
async fn a_connection_that_ended_while_it_rested_teaches_no_limit() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    mailer.send(GRACE, &delivery(0), &letter()).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
    server.next(1, Phase::Rset, Behaviour::Reply("421 4.4.2 idle too long"));
    for number in 1..5 {
        mailer.send(GRACE, &delivery(number), &letter()).await.unwrap();
    }
    assert_eq!((server.mails().len(), server.connections()), (5, 2));
}

/// On a fresh connection a refusal for now is one, and nobody is asked twice for the same.
#[tokio::test]
async fn a_mail_is_tried_again_on_a_fresh_connection_once() {
    let server = SmtpServer::start().await;
    let mailer = mailer_to(server.url());
    mailer.send(GRACE, &delivery(0), &letter()).await.unwrap();
    server.at(Phase::Rcpt, Behaviour::Reply("450 4.2.0 greylisted"));
    let refused = mailer.send(GRACE, &delivery(1), &letter()).await;
    assert!(matches!(refused, Err(SendError::Temporary(_))), "{refused:?}");
    assert_eq!(server.connections(), 2);
    let asked = server.commands();
    assert_eq!(asked.iter().filter(|command| command.starts_with("RCPT")).count(), 3);
    assert!(asked.iter().any(|command| command == "QUIT"), "the used one is quit");
}

#[tokio::test]
async fn an_answer_to_the_final_dot_that_comes_late_is_waited_for() {
    for seconds in [65, 590] {
        let server = SmtpServer::start().await;
        server.next(1, Phase::EndOfData, Behaviour::Wait(Duration::from_secs(seconds)));
        let mailer = mailer_to(server.url());
        let (id, mail) = (delivery(1), letter());
        let patience = async {
            server.wait_for_stalls(1).await;
            tokio::time::pause();
            std::future::pending::<()>().await;
        };
        let sent = tokio::select! {
            sent = mailer.send(GRACE, &id, &mail) => sent,
            () = patience => unreachable!(),
        };
        tokio::time::resume();
        assert_eq!(sent.unwrap().description, "250 2.0.0 queued as 1");
        assert_eq!(server.mails().len(), 1, "one copy");
    }
}

/// More mails than there are turns wait for an answer that does not come; others go out meanwhile.
#[tokio::test]
async fn a_slow_answer_holds_up_no_other_mail() {
    let slow = usher_mail::MAX_CONNECTIONS;
    for phase in [Phase::Greeting, Phase::Rcpt, Phase::EndOfData] {
        let server = SmtpServer::start().await;
        server.next(slow, phase, Behaviour::Stall);
        let mailer = mailer_to(server.url());
        let (id, mail) = (delivery(1), letter());
        let held = futures::future::join_all((0..slow).map(|_| mailer.send("slow@example.com", &id, &mail)));
        let others = async {
            server.wait_for_stalls(slow).await;
            for number in 2..8 {
                mailer.send(GRACE, &delivery(number), &letter()).await.unwrap();
            }
        };
        tokio::select! {
            _ = held => panic!("{phase:?}: nobody answered them"),
            () = others => {}
        }
        assert_eq!(server.mails().len(), 6, "{phase:?}");
    }
}
