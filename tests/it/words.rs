//! What people read, from the app's request to the mail that arrives: in their language, and harmless whatever others
//! call themselves.

use serde_json::json;
use usher_testkit::fake_clerk::FakeUser;

use crate::support::stories;

/// What somebody might type into a field on a bad day.
fn hostile() -> Vec<String> {
    vec![
        "<script>alert(1)</script>".to_owned(),
        "\"><img src=x onerror=alert(1)>".to_owned(),
        "Eve\r\nBcc: all@example.com\r\n\r\n<html>".to_owned(),
        "Eve\rBcc: all@example.com\n".to_owned(),
        "E\0ve\u{1}\u{1b}[31m\u{7f}".to_owned(),
        ".".to_owned(),
        "[click](javascript:alert(1)) javascript:alert(1)".to_owned(),
        "Eve\u{2028}Bcc: all@example.com\u{2029}".to_owned(),
        "\r\n.\r\nMAIL FROM:<eve@example.com>\r\n".to_owned(),
        "{{link}} {{{link}}} {{#each message}}".to_owned(),
        "\u{202e}moc.elpmaxe\u{2066}".to_owned(),
        "👩‍🚀 Ⓔⓥⓔ ﷽".to_owned(),
        "long ".repeat(2_000),
        "w".repeat(10_000),
    ]
}

stories! {
    async fn a_mail_is_in_the_language_of_the_invite_or_else_of_its_reader(app) {
        let acme = app.organization("Acme").await;
        let clerk = app.clerk();
        for (email, language) in [("ken@example.com", "ja-JP"), ("ines@example.com", "es-MX")] {
            let mut person = clerk.old_user(email).to_json();
            person["locale"] = language.into();
            clerk.tell("user.created", person).await;
        }
        app.run_jobs().await;
        for (email, wanted, language) in [
            ("ken@example.com", None, "ja"),
            ("ines@example.com", Some("fr-CA"), "fr"),
            ("nobody@example.com", Some("de"), "de"),
            ("noone@example.com", Some("tlh"), "en"),
            ("no.one@example.com", None, "en"),
        ] {
            let mut body = json!({ "organization_id": acme, "email": email, "role": "member" });
            if let Some(wanted) = wanted {
                body["locale"] = wanted.into();
            }
            app.invite(body).await;
            app.run_jobs().await;
            let mail = app.mails().pop().unwrap();
            assert_eq!(mail.header("Content-Language").as_deref(), Some(language), "{email}");
        }
    }

    async fn the_inviter_reads_the_notice_in_their_own_language(app) {
        let acme = app.organization("Acme").await;
        app.invite_to_organization(acme, "ken@example.com", "owner").await;
        app.run_jobs().await;
        let ken = app.clerk().user("ken@example.com");
        let mut data = ken.to_json();
        data["locale"] = "ja".into();
        app.clerk().tell("user.created", data).await;
        app.run_jobs().await;
        app.invite(json!({
            "organization_id": acme, "email": "grace@example.com", "role": "member", "invited_by": ken.id, "locale": "de",
        })).await;
        app.run_jobs().await;
        app.clerk().user_created("grace@example.com").await;
        app.run_jobs().await;
        let notice = app.mails().pop().unwrap();
        assert_eq!(notice.to, ["ken@example.com"]);
        assert_eq!(notice.header("Content-Language").as_deref(), Some("ja"));
    }

    async fn security_6_and_12_hostile_names_and_messages_change_neither_markup_nor_headers(app) {
        for (number, value) in hostile().into_iter().enumerate() {
            // Names come by the API as one line of at most 200 characters, and from Clerk as they are.
            let name: String = value.chars().filter(|c| !c.is_control()).take(150).collect();
            let acme = app.clock.new_id();
            let created = app.put(&format!("/v1/organizations/{acme}"), json!({ "name": name })).await;
            if created.status != 201 {
                created.expect(422);
                app.put(&format!("/v1/organizations/{acme}"), json!({ "name": "Acme" })).await.expect(201);
            }
            let inviter_address = format!("eve{number}@example.com");
            app.invite_to_organization(acme, &inviter_address, "owner").await;
            app.run_jobs().await;
            let eve = FakeUser { first_name: Some(value.clone()), ..app.clerk().user(&inviter_address) };
            app.clerk().tell("user.created", eve.to_json()).await;
            app.run_jobs().await;
            let guest = format!("guest{number}@example.com");
            let mut invitation = json!({
                "organization_id": acme, "email": guest, "role": "member", "invited_by": eve.id,
                "message": value.chars().take(2_000).collect::<String>(),
            });
            if value.contains('\0') {
                assert_eq!(app.post("/v1/invites", invitation.clone()).await.wrong_fields(), ["message"]);
                invitation["message"] = json!(value.replace('\0', ""));
            }
            app.invite(invitation).await;
            app.run_jobs().await;

            let mail = app.mails().pop().unwrap();
            assert_eq!(mail.to, [guest], "{value:?}");
            assert_eq!(mail.count("Bcc"), 0, "{value:?}");
            for header in ["From", "To", "Subject", "Message-ID", "Date", "Content-Type"] {
                assert_eq!(mail.count(header), 1, "{header} with {value:?}");
            }
            let (text, html) = (mail.text(), mail.html());
            for executable in ["<script", "<img", "onerror=", "{{", "javascript:"] {
                let quoted = matches!(executable, "{{" | "javascript:") && value.contains(executable);
                assert!(quoted || !html.contains(executable), "{executable} with {value:?}");
            }
            for (at, _) in html.match_indices("href=") {
                assert!(html[at..].starts_with("href=\"https://app.example.com/invite#"), "{value:?}: {}", &html[at..]);
            }
            assert_eq!(html.matches("<!DOCTYPE").count(), 1, "{value:?}");
            assert!(html.trim_end().ends_with("</html>"), "{value:?}");
            for part in [&text, &html] {
                assert!(part.contains("https://app.example.com/invite#"), "the body is whole with {value:?}");
                let harmful = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                assert!(!part.contains(harmful), "{value:?}");
            }
        }
    }

    async fn security_26_a_name_is_no_place_for_an_address_or_a_link(app) {
        let name = "Eve Bcc: all https://phish.example/login Your account";
        let acme = app.organization(name).await;
        let apollo = app.project(acme, "phish.example www.phish.example").await;
        app.invite_to_organization(acme, "eve@example.com", "owner").await;
        app.run_jobs().await;
        let eve = FakeUser {
            first_name: Some(name.to_owned()), last_name: Some("eve@phish.example".to_owned()), ..app.clerk().user("eve@example.com")
        };
        app.clerk().tell("user.created", eve.to_json()).await;
        app.run_jobs().await;
        app.invite(json!({ "organization_id": acme, "email": "a@example.com", "role": "member", "invited_by": eve.id })).await;
        app.invite(json!({ "project_id": apollo, "email": "b@example.com", "role": "editor", "invited_by": eve.id })).await;
        app.run_jobs().await;
        let names = FakeUser { first_name: Some(name.to_owned()), ..app.clerk().user("a@example.com") };
        app.clerk().tell("user.created", names.to_json()).await;
        app.run_jobs().await;
        let subjects: Vec<String> = app.mails().iter().skip(1).filter_map(|mail| mail.header("Subject")).collect();
        let mut expected = [
            "Eve Bcc: all … Your account … invites you to Eve Bcc: all … Your account",
            "Eve Bcc: all … Your account … invites you to phish. example …",
            "Eve Bcc: all … Your account joined Eve Bcc: all … Your account",
        ];
        let mut subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
        subjects.sort_unstable();
        expected.sort_unstable();
        assert_eq!(subjects, expected);
        for mail in app.mails() {
            for part in [mail.text(), mail.html()] {
                assert!(!part.contains("phish.example") && !part.contains("://phish") && !part.contains("@phish"), "{part}");
                let words: Vec<&str> = part.split_whitespace().collect();
                assert!(words.join(" ").contains("https: //phish. example/login"), "{part}");
            }
        }
        // The app is told of names as they are, and escapes what it shows.
        assert_eq!(app.signed_in(&app.clerk().user("b@example.com")).banner().await["items"], json!([]));
        let shown = app.get(&format!("/v1/invites?project_id={apollo}")).await.expect(200);
        assert_eq!(shown["items"][0]["project"]["name"], "phish.example www.phish.example");
    }

    async fn security_11_addresses_that_differ_by_unicode_are_written_to_each_by_itself(app) {
        let acme = app.organization("Acme").await;
        let addresses = [
            ("mike@example.com", "mike@example.com"),
            ("m\u{131}ke@example.com", "m\u{131}ke@example.com"),
            ("kate@example.com", "kate@example.com"),
            ("\u{212a}ate@example.com", "\u{212a}ate@example.com"),
            ("ada@b\u{fc}cher.example", "ada@xn--bcher-kva.example"),
        ];
        for (address, recipient) in addresses {
            app.invite_to_organization(acme, address, "member").await;
            app.run_jobs().await;
            let mail = app.mails().pop().unwrap();
            assert_eq!(mail.to, [recipient]);
        }
        assert_eq!(app.mails().len(), addresses.len());
        for (address, other) in [(addresses[0], addresses[1]), (addresses[2], addresses[3])] {
            let token = app.token_in_mail_to(address.1);
            let impostor = FakeUser::new(format!("user_{}", other.0.len()), other.0, app.now());
            app.clerk().tells_of(&impostor).await;
            app.run_jobs().await;
            assert_eq!(app.signed_in(&impostor).accept_link(&token).await.problem(403), "other_address", "{other:?}");
        }
    }

    async fn security_12_an_address_with_a_line_break_or_a_nul_is_refused_and_nobody_written_to(app) {
        let acme = app.organization("Acme").await;
        for address in [
            "ada@example.com\r\nBcc: eve@example.com",
            "ada@example.com>\r\nRCPT TO:<eve@example.com",
            "ada\nRSET@example.com",
            "\"\r\nDATA\r\n\"@example.com",
            "a\0da@example.com",
            "ada@exam\u{2028}ple.com",
            "\u{202e}ada@example.com",
            "Ada <ada@example.com>",
            "ada@example.com, eve@example.com",
        ] {
            let item = json!({ "organization_id": acme, "email": address, "role": "member" });
            assert_eq!(app.post("/v1/invites", item.clone()).await.wrong_fields(), ["email"], "{address:?}");
            let batch = app.post("/v1/invites/batch", json!({ "invites": [item] })).await.expect(200);
            assert_eq!(batch["results"][0]["status"], 422, "{address:?}");
        }
        app.run_jobs().await;
        assert_eq!((app.smtp.connections(), app.pool.count("invites").await), (0, 0));
    }

    async fn security_8_a_mail_with_a_token_loads_nothing_from_anybody(app) {
        let acme = app.organization("Acme").await;
        for language in ["en", "de", "es", "fr", "ja"] {
            let email = format!("{language}@example.com");
            app.invite(json!({ "organization_id": acme, "email": email, "role": "member", "locale": language })).await;
            app.run_jobs().await;
            let html = app.mails().pop().unwrap().html();
            assert!(html.contains(r#"<meta name="referrer" content="no-referrer">"#));
            let addresses: Vec<_> = html.match_indices("://").map(|(at, _)| &html[at..]).collect();
            assert_eq!(addresses.len(), 3, "the button, the bare link and its words");
            for address in addresses {
                assert!(address.starts_with("://app.example.com/invite#"), "{address}");
            }
            for loading in ["src=", "<link", "url(", "@import", "background="] {
                assert!(!html.contains(loading), "{loading}");
            }
        }
    }
}
