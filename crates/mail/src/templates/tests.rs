use std::fs;

use super::*;
use crate::messages::{AcceptedNotice, MailKind, OrganizationInvite, ProjectInvite, Reminder};

/// What somebody might type into a name field on a bad day.
const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "Acme\r\nBcc: everyone@example.com\r\n\r\n<html>",
    "Acme\0\u{1b}[2J\u{7f}\u{9b}",
    "Acme\u{2028}\u{2029}Ltd",
    "\u{202e}moc.elpmaxe\u{2066}",
    "{{app_name}} {{{link}}} {{&link}} {{> layout.html}} {{#each this}}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "<!--[if mso]><![endif]--></style></title></table>",
    "",
];

fn hostile_mails(templates: &Templates, value: &str) -> [Rendered; 4] {
    let organization = OrganizationInvite {
        app_name: value.into(),
        organization_name: value.into(),
        inviter_name: Some(value.into()),
        role: value.into(),
        message: Some(value.into()),
        email: value.into(),
        ..OrganizationInvite::sample()
    };
    let project = ProjectInvite {
        app_name: value.into(),
        organization_name: value.into(),
        project_name: value.into(),
        inviter_name: Some(value.into()),
        role: value.into(),
        message: Some(value.into()),
        email: value.into(),
        ..ProjectInvite::sample()
    };
    let notice = AcceptedNotice {
        app_name: value.into(),
        organization_name: value.into(),
        project_name: Some(value.into()),
        invitee_name: Some(value.into()),
        invitee_email: value.into(),
        inviter_name: Some(value.into()),
    };
    let reminder = Reminder {
        app_name: value.into(),
        organization_name: value.into(),
        project_name: Some(value.into()),
        inviter_name: Some(value.into()),
        role: value.into(),
        email: value.into(),
        ..Reminder::sample()
    };
    [
        templates.render(organization, &[]),
        templates.render(project, &[]),
        templates.render(reminder, &[]),
        templates.render(notice, &[]),
    ]
    .map(Result::unwrap)
}

#[test]
fn no_name_makes_a_link_in_any_part_of_any_mail_in_any_language() {
    let templates = Templates::load(None, "en").unwrap();
    for name in [
        "Eve Bcc: all https://phish.example/login Your account",
        "phish.example",
        "www.phish.example",
        "eve@phish.example",
        "mailto:eve@phish.example",
        "ｈｔｔｐｓ：／／phish．example",
        "phish。example",
        "营业https://phish.example/登录",
        "\u{202e}https://phish.example\u{202c}",
        "https\u{200b}://phish\u{2060}.\u{ad}example",
        "https:\n//phish\r\n.example",
    ] {
        let sample = ProjectInvite {
            organization_name: name.into(),
            project_name: name.into(),
            inviter_name: Some(name.into()),
            message: None,
            ..ProjectInvite::sample()
        };
        let organization = OrganizationInvite {
            organization_name: name.into(),
            inviter_name: Some(name.into()),
            message: None,
            ..OrganizationInvite::sample()
        };
        let reminder = Reminder {
            organization_name: name.into(),
            project_name: Some(name.into()),
            inviter_name: Some(name.into()),
            ..Reminder::sample()
        };
        let notice = AcceptedNotice {
            organization_name: name.into(),
            project_name: Some(name.into()),
            invitee_name: Some(name.into()),
            inviter_name: Some(name.into()),
            ..AcceptedNotice::sample()
        };
        for language in ["de", "en", "es", "fr", "ja"] {
            let wanted = [Some(language)];
            for mail in [
                templates.render(sample.clone(), &wanted),
                templates.render(organization.clone(), &wanted),
                templates.render(reminder.clone(), &wanted),
                templates.render(notice.clone(), &wanted),
            ] {
                let mail = mail.unwrap();
                for part in [&mail.subject, &mail.text, &mail.html] {
                    // As a mail program may read it, whatever is drawn as nothing left out.
                    let read: String = part
                        .chars()
                        .filter(|&c| !usher_base::unicode::is_ignorable(c))
                        .collect();
                    let read = read.replace(['．', '。'], ".").replace('：', ":").replace('／', "/");
                    // The one link that there is, and what stands in the layout's own head.
                    let read = read.replace("https://app.example.com/", "");
                    for link in ["phish.e", "://phish", "@phish", "mailto:eve", "https://", "www.phish"] {
                        assert!(!read.contains(link), "{language} {name:?}: {link} in {part}");
                    }
                }
                let subject = &mail.subject;
                // Who joined is told by the invited address where their name says nothing.
                let names = subject.replace("grace@example.com", "");
                assert!(!names.contains("://") && !names.contains('@'), "{subject}");
                assert!(subject.chars().count() <= 2 * 60 + 40, "{subject}");
            }
        }
    }
}

/// The tags of an HTML text with all that is in them: what a value must not be able to change, except that a message
/// of several lines breaks them.
fn skeleton(html: &str) -> Vec<String> {
    html.split('<')
        .skip(1)
        .map(|tag| tag.split('>').next().unwrap().to_owned())
        .filter(|tag| tag != "br")
        .collect()
}

#[test]
fn every_mail_can_be_sent_in_every_language_with_anything_missing() {
    let templates = Templates::check(None, "en").unwrap();
    assert_eq!(
        templates.languages().collect::<Vec<_>>(),
        ["de", "en", "es", "fr", "ja"]
    );
    let samples = templates.samples().unwrap();
    assert_eq!(samples.len(), 5 * MailKind::ALL.len() * 2);
    for Sample { language, name, mail } in samples {
        assert!(templates.missing(&language).is_empty(), "{language}");
        assert!(!mail.subject.is_empty() && !mail.text.is_empty(), "{language}/{name}");
        assert!(mail.html.starts_with("<!DOCTYPE html>"), "{language}/{name}");
        assert!(
            mail.html.contains(&format!("<html lang=\"{language}\" dir=\"ltr\">")),
            "{language}/{name}"
        );
        for remote in ["http://", "<img", "<link", "@import", "url(", "src="] {
            assert!(
                !mail.html.contains(remote),
                "{language}/{name} loads something: {remote}"
            );
        }
        assert!(
            !mail.text.contains("\n\n\n"),
            "{language}/{name} has no holes:\n{}",
            mail.text
        );
        for line in mail.text.lines().filter(|line| !line.contains("://")) {
            assert!(
                textwrap::core::display_width(line) <= 80,
                "{language}/{name} is too wide: {line}"
            );
        }
    }
}

#[test]
fn styles_are_written_into_the_tags() {
    let mail = Templates::load(None, "en")
        .unwrap()
        .render(Reminder::sample(), &[])
        .unwrap();
    let button = mail
        .html
        .lines()
        .find(|line| line.contains("Accept the invitation"))
        .unwrap();
    for style in [
        "class=\"button\"",
        "background-color: #3b5fd9",
        "padding: 14px 28px",
        "color: #ffffff",
    ] {
        assert!(button.contains(style), "{style} in {button}");
    }
    assert!(
        mail.html.contains("@media (prefers-color-scheme: dark)"),
        "dark mode is left to the style element"
    );
    assert_eq!(mail.html.matches("<style>").count(), 1);
}

#[test]
fn a_mail_is_in_the_language_of_its_reader() {
    let templates = Templates::load(None, "fr").unwrap();
    let cases: [(&[Option<&str>], &str, &str); 5] = [
        (&[Some("de-AT"), Some("ja")], "de", "Ihre Rolle: Editor\n"),
        (&[None, Some("ja")], "ja", "あなたの役割：編集者\n"),
        (&[Some("tlh"), Some("es-419")], "es", "Tu rol: editor\n"),
        (&[Some("tlh"), None], "fr", "Votre rôle\u{a0}: éditeur\n"),
        (&[], "fr", "29 novembre 2026 à 14\u{a0}h\u{a0}30 (UTC)"),
    ];
    for (wanted, language, words) in cases {
        let mail = templates.render(Reminder::sample(), wanted).unwrap();
        assert_eq!(mail.language, language, "{wanted:?}");
        assert!(mail.text.contains(words), "{}", mail.text);
    }
}

#[test]
fn an_invite_says_all_that_the_invitee_must_know() {
    let templates = Templates::load(None, "en").unwrap();
    let invite = ProjectInvite::sample();
    let mail = templates.render(invite.clone(), &[]).unwrap();
    for part in [&mail.text, &mail.html] {
        for fact in [
            "Ada Lovelace",
            "Difference Engine No. 2",
            "Analytical Engines",
            "editor",
            "The drawings are in the first folder.",
            "29 November 2026, 14:30 UTC",
            "grace@example.com",
            invite.link.as_str(),
        ] {
            assert!(part.contains(fact), "{fact} is missing in\n{part}");
        }
    }
    assert!(
        mail.html.matches(invite.link.as_str()).count() >= 2,
        "a button and the bare link"
    );
}

#[test]
fn a_message_is_quoted_line_by_line() {
    let invite = OrganizationInvite {
        message: Some("one\r\n\r\ntwo\u{2028}--\nBest".into()),
        ..OrganizationInvite::sample()
    };
    let mail = Templates::load(None, "en").unwrap().render(invite, &[]).unwrap();
    assert!(
        mail.text.contains("\n> one\n> \n> two\n> --\n> Best\n"),
        "{}",
        mail.text
    );
    assert!(mail.html.contains("one<br><br>two<br>--<br>Best"), "{}", mail.html);
}

#[test]
fn hostile_values_change_neither_markup_nor_lines() {
    let templates = Templates::load(None, "en").unwrap();
    let tame = hostile_mails(&templates, "x");
    // An empty value takes another branch of the template and so makes another, equally fixed, skeleton.
    for value in HOSTILE.iter().filter(|value| !value.is_empty()) {
        let hostile = hostile_mails(&templates, value);
        for (mail, tame) in hostile.iter().zip(&tame) {
            assert_eq!(skeleton(&mail.html), skeleton(&tame.html), "{value:?}");
            assert!(
                !mail.subject.contains(char::is_control),
                "{value:?}: {:?}",
                mail.subject
            );
            for part in [&mail.subject, &mail.text, &mail.html] {
                let harmful = |c: char| {
                    (c.is_control() && c != '\n')
                        || ('\u{2028}'..='\u{202e}').contains(&c)
                        || ('\u{2066}'..='\u{2069}').contains(&c)
                };
                assert!(!part.contains(harmful), "{value:?}");
            }
        }
    }
}

#[test]
fn handlebars_in_a_value_is_only_text() {
    let invite = OrganizationInvite {
        organization_name: "{{app_name}} & {{{link}}}".into(),
        ..OrganizationInvite::sample()
    };
    let mail = Templates::load(None, "en").unwrap().render(invite, &[]).unwrap();
    assert!(mail.subject.contains("{{app_name}} & {{{link}}}"), "{}", mail.subject);
    assert!(mail.html.contains("{{app_name}} &amp; {{{link}}}"), "{}", mail.html);
}

#[test]
fn a_long_message_and_an_empty_one_both_fit() {
    let templates = Templates::load(None, "en").unwrap();
    let with = |message: &str| OrganizationInvite {
        message: Some(message.into()),
        ..OrganizationInvite::sample()
    };
    let long = templates.render(with(&"lorem ".repeat(1_700)), &[]).unwrap();
    assert!(long.text.len() > 10_000);
    let empty = templates.render(with(" \r\n "), &[]).unwrap();
    let none = OrganizationInvite {
        message: None,
        ..OrganizationInvite::sample()
    };
    assert_eq!(empty, templates.render(none, &[]).unwrap());
}

#[test]
fn a_file_in_the_folder_replaces_its_template_only() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("en/project_invite")).unwrap();
    fs::write(
        folder.path().join("en/project_invite/subject.txt.hbs"),
        "Hi {{email}}\r\n",
    )
    .unwrap();
    fs::write(folder.path().join("README.md"), "{{{notes}}}").unwrap();
    let templates = Templates::load(Some(folder.path()), "en").unwrap();
    let mail = templates.render(ProjectInvite::sample(), &[]).unwrap();
    assert_eq!(mail.subject, "Hi grace@example.com");
    let embedded = Templates::load(None, "en")
        .unwrap()
        .render(ProjectInvite::sample(), &[])
        .unwrap();
    assert_eq!((mail.text, mail.html), (embedded.text, embedded.html));
}

#[test]
fn a_bad_template_is_refused_at_the_start_with_file_and_line() {
    let cases = [
        (
            "en/project_invite/body.txt",
            "one\ntwo {{{link}}}\n",
            "en/project_invite/body.txt.hbs, line 2:",
        ),
        (
            "en/project_invite/body.html",
            "{{&link}}",
            "en/project_invite/body.html.hbs, line 1:",
        ),
        ("en/project_invite/body.html", "\n\n{{ ~ &link}}", "line 3:"),
        ("en/project_invite/body.html", "{{~{link}~}}", "line 1:"),
        ("en/project_invite/body.html", "{{{{raw}}}}{{{{/raw}}}}", "line 1:"),
        (
            "layout.html",
            "{{> @partial-block}}\n{{{x}}}",
            "layout.html.hbs, line 2:",
        ),
        (
            "en/project_invite/body.txt",
            "a\n{{#if link}}\n",
            "en/project_invite/body.txt.hbs, line ",
        ),
        (
            "en/project_invite/body.txt",
            "a\nb {{organisation_name}}",
            "en/project_invite/body.txt.hbs, line 2:",
        ),
        (
            "en/project_invite/body.txt",
            "{{#if message}}{{else}}{{oops}}{{/if}}",
            "oops",
        ),
        (
            "en/project_invite/body.txt",
            "{{#if message}}a{{else if inviter_nam}}b{{/if}}",
            "en/project_invite/body.txt.hbs, line 1: the mail has no value \"inviter_nam\"",
        ),
        (
            "en/accepted_notice/subject.txt",
            "a\n{{~#unless message}}b{{/unless}}",
            "en/accepted_notice/subject.txt.hbs, line 2: the mail has no value \"message\"",
        ),
        ("en/project_invite/body.html", "{{> footer}}", "footer"),
        (
            "en/organisation_invite/body.txt",
            "x",
            "en/organisation_invite/body.txt.hbs: no mail uses this file",
        ),
    ];
    for (name, source, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{name}.hbs"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, source).unwrap();
        let error = Templates::load(Some(folder.path()), "en").unwrap_err().to_string();
        assert!(error.contains(expected), "{source:?}: {error}");
    }
}

#[test]
fn a_template_may_ask_for_names_that_it_made() {
    let folder = folder_with(&[(
        "en/project_invite/body.txt.hbs",
        "{{#if message}}{{#each message as |line|}}{{#if line}}{{line}}{{/if}}{{/each}}
         {{#each message}}{{#if this}}{{this}}{{/if}}{{/each}}{{/if}}",
    )]);
    if let Err(errors) = Templates::check(Some(folder.path()), "en") {
        panic!("{errors}");
    }
}

#[test]
fn all_that_is_wrong_is_named_at_once() {
    let folder = folder_with(&[
        (
            "en/reminder/body.txt.hbs",
            "{{#if project_name}}{{else}}\n{{projekt_name}}{{/if}}",
        ),
        ("en/reminder/body.html.hbs", "<p>\n{{oops}}</p>"),
        ("pt/reminder/subject.txt.hbs", "Lembrete"),
        ("pt/locale.json", "{\n\"dir\": \"up\"}"),
        (
            "nl/locale.json",
            r#"{"dir": "ltr", "months": ["","","","","","","","","","","",""], "date": "{day}", "roles": {}}"#,
        ),
        ("link.html.hbs", "<table>\n\n{{#if link}}<tr></tr>{{/if}}</table>"),
        ("layout.htm.hbs", ""),
    ]);
    let errors = Templates::check(Some(folder.path()), "en").unwrap_err().to_string();
    for expected in [
        "layout.htm.hbs: no mail uses this file",
        "pt/reminder/body.txt.hbs is missing",
        "pt/reminder/body.html.hbs is missing",
        "pt/locale.json, line 2: unknown variant `up`",
        "nl/locale.json, line 1: date needs",
    ] {
        assert!(errors.contains(expected), "no “{expected}” in:\n{errors}");
    }
    for file in [
        "pt/reminder/subject.txt.hbs",
        "pt/locale.json",
        "nl/locale.json",
        "layout.htm.hbs",
    ] {
        fs::remove_file(folder.path().join(file)).unwrap();
    }
    let errors = Templates::check(Some(folder.path()), "en").unwrap_err().to_string();
    for expected in [
        "en/reminder/body.txt.hbs, line 2: ",
        "en/reminder/body.html.hbs, line 2: ",
    ] {
        assert!(errors.contains(expected), "no “{expected}” in:\n{errors}");
    }
    fs::remove_dir_all(folder.path().join("en")).unwrap();
    let errors = Templates::check(Some(folder.path()), "en").unwrap_err().to_string();
    assert!(
        errors.contains("link.html.hbs, line 1: the HTML is not well-formed"),
        "{errors}"
    );
}

#[test]
fn a_folder_adds_languages_and_varies_them() {
    let portuguese = r#"{"dir": "ltr", "months": ["1","2","3","4","5","6","7","8","9","10","11","12"],
                         "date": "{day}/{month}/{year} {hour}:{minute}", "roles": {"editor": "redator"}}"#;
    let folder = folder_with(&[
        ("pt/locale.json", portuguese),
        ("pt/reminder/subject.txt.hbs", "Lembrete"),
        ("pt/reminder/body.txt.hbs", "{{role}} {{expires_at}}"),
        ("pt/reminder/body.html.hbs", "<p>{{lang}}</p>"),
        ("de-CH/reminder/subject.txt.hbs", "Grüezi"),
    ]);
    let templates = Templates::load(Some(folder.path()), "en").unwrap();
    let brazilian = templates.render(Reminder::sample(), &[Some("pt-BR")]).unwrap();
    assert_eq!(
        (brazilian.subject.as_str(), brazilian.text.as_str()),
        ("Lembrete", "redator 29/11/2026 14:30\n")
    );
    assert!(
        brazilian.html.starts_with("<p style=") && brazilian.html.contains(">pt</p>"),
        "{}",
        brazilian.html
    );
    let swiss = templates.render(Reminder::sample(), &[Some("de-CH")]).unwrap();
    let german = templates.render(Reminder::sample(), &[Some("de-DE")]).unwrap();
    assert_eq!((swiss.subject.as_str(), &swiss.text), ("Grüezi", &german.text));
    assert_eq!((swiss.language.as_str(), german.language.as_str()), ("de-ch", "de"));

    // What a language can't say is said in another one that the reader knows, or else in the default one.
    assert_eq!(templates.missing("pt").len(), 3);
    let project = |wanted| templates.render(ProjectInvite::sample(), wanted).unwrap().language;
    assert_eq!(project(&[Some("pt-BR"), Some("es")]), "es");
    assert_eq!(project(&[Some("pt-BR")]), "en");
    let error = Templates::load(Some(folder.path()), "pt").unwrap_err().to_string();
    assert!(
        error.contains("no templates for `pt`, or not for all mails; the languages are de, de-ch, en"),
        "{error}"
    );
}

fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let error = Templates::load(Some(Path::new("/nowhere/at/all")), "en").unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

#[test]
fn rendered_mails_keep_the_token_out_of_debug_output() {
    let mail = Templates::load(None, "en")
        .unwrap()
        .render(OrganizationInvite::sample(), &[])
        .unwrap();
    assert!(!format!("{mail:?}").contains("AZNk0tQ9c2"));
}
