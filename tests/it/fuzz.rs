//! Readers of what strangers write, fed with what nobody would write. A few hundred cases each in a test run; `make fuzz`
//! runs them for minutes. None may panic, none may take what must be refused, and what is printed reads as it was.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use usher::invites::email::EmailAddress;
use usher::invites::token::{LinkClaim, TokenKey};
use usher_base::mask::{mask, mask_addresses};
use usher_clerk::{Event, EventKind, SessionKeys, SessionVerifier, User, peek_type};
use usher_mail::Templates;
use usher_testkit::fake_clerk::{self, FakeUser};
use uuid::Uuid;

use crate::support::app::SIGNER;

/// How many cases says `PROPTEST_CASES`. A dear target does fewer.
fn cases(dear: u32) -> Config {
    let config = Config::default();
    Config {
        cases: (config.cases / dear).max(8),
        failure_persistence: None,
        ..config
    }
}

/// Pieces that readers stumble over.
const PIECES: &[&str] = &[
    "",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "null",
    "true",
    "-",
    "0",
    "1e400",
    "-1",
    "9223372036854775807",
    "253402300800000",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "é",
    "\u{10ffff}",
    " ",
    "\n",
    "@",
    ".",
    "\"data\":{",
    "\"user\":{",
    "\"id\":",
    "\"type\":\"user.created\",",
    "\"email_addresses\":[",
    "\"created_at\":1,",
    "{{",
    "}}",
    "{{#if ",
    "{{/if}}",
    "{{> layout.html}}",
    "{{> x}}",
    "(",
    ")",
    "{{#each this}}",
    "{{{",
    "{{!--",
    "<div>",
    "</div>",
    "<table>",
    "<!--",
    "&amp;",
    "%00",
    "==",
    "xn--",
    "_",
    "-",
];

/// One change of a text: a piece put in some times over, or a part taken out.
#[derive(Debug, Clone)]
enum Edit {
    Insert(usize, &'static str, usize),
    Cut(usize, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let repeats = prop_oneof![8 => 1_usize..4, 1 => Just(300_usize), 1 => Just(20_000_usize)];
    let insert = (any::<usize>(), proptest::sample::select(PIECES), repeats)
        .prop_map(|(at, piece, times)| Edit::Insert(at, piece, times));
    let cut = (any::<usize>(), 1_usize..40).prop_map(|(at, len)| Edit::Cut(at, len));
    proptest::collection::vec(prop_oneof![3 => insert, 1 => cut], 0..6)
}

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut text = text.to_owned();
    for edit in edits {
        let (Edit::Insert(at, ..) | Edit::Cut(at, _)) = *edit;
        let mut from = at % (text.len() + 1);
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        match *edit {
            Edit::Insert(_, piece, times) => text.insert_str(from, &piece.repeat(times)),
            Edit::Cut(_, len) => {
                let mut to = (from + len).min(text.len());
                while !text.is_char_boundary(to) {
                    to += 1;
                }
                text.replace_range(from..to, "");
            }
        }
    }
    text
}

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap()
}

fn an_event() -> impl Strategy<Value = String> {
    proptest::sample::select(EventKind::ALL.as_slice()).prop_map(|kind| {
        let now = at(1_790_000_000_000);
        let user = FakeUser::new("user_ada", "ada@example.com", now);
        let data = match kind {
            EventKind::UserCreated | EventKind::UserUpdated => user.to_json(),
            EventKind::UserDeleted => fake_clerk::deleted_user(&user.id),
            _ => fake_clerk::session("sess_1", &user.id, "active", Some(&user), now),
        };
        fake_clerk::event(kind.as_str(), data, now).to_string()
    })
}

/// What a database takes.
fn assert_bounded(event: &Event) {
    let id = |id: &str| assert!((1..=255).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    let time = |time: DateTime<Utc>| assert!((0..=253_402_300_799_999).contains(&time.timestamp_millis()));
    let user = |user: &User| {
        id(&user.clerk_user_id);
        time(user.created_at);
        time(user.updated_at);
        assert!(user.addresses.len() <= 1_000);
        assert!(user.addresses.iter().all(|address| !address.email.contains('\0')));
        for text in [&user.first_name, &user.last_name, &user.image_url, &user.locale]
            .into_iter()
            .flatten()
        {
            assert!(!text.contains('\0') && text.chars().count() <= 2_048);
        }
    };
    match event {
        Event::UserSeen(seen) => user(seen),
        Event::UserDeleted { clerk_user_id } => clerk_user_id.iter().for_each(|deleted| id(deleted)),
        Event::SessionStarted { session, user: told } | Event::SessionPending { session, user: told } => {
            id(&session.clerk_session_id);
            id(&session.clerk_user_id);
            time(session.created_at);
            told.iter().for_each(user);
        }
        Event::SessionEnded { session } => {
            id(&session.clerk_session_id);
            time(session.updated_at);
        }
    }
}

/// A verifier that takes Clerk's tokens in the stories.
static VERIFIER: LazyLock<SessionVerifier> = LazyLock::new(|| {
    let pem = SessionKeys::Pem(SIGNER.public_pem().unwrap());
    SessionVerifier::new(pem, None, Vec::new()).unwrap()
});
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
const NOW: i64 = 1_790_000_000;

fn verified(token: &str) -> Option<String> {
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    let claims = RUNTIME.block_on(VERIFIER.verify(token, now));
    claims.ok().map(|claims| claims.clerk_user_id)
}

fn signed(claims: &Value) -> String {
    SIGNER.sign_session(claims).unwrap()
}

static TOKEN: LazyLock<String> =
    LazyLock::new(|| signed(&json!({ "sub": "user_ada", "iss": "https://clerk.example.com", "exp": NOW + 60 })));

proptest! {
    #![proptest_config(cases(1))]

    #[test]
    fn events_are_read_or_refused(event in an_event(), edits in edits()) {
        let text = edited(&event, &edits);
        let started = Instant::now();
        let event_type = peek_type(text.as_bytes());
        for kind in EventKind::ALL {
            if let Ok(event) = Event::parse(kind, &text) {
                assert_bounded(&event);
                prop_assert!(event_type.is_ok() || serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
            }
        }
        let _ = User::from_json(text.as_bytes());
        // It takes a millisecond or two; the machine may be busy, but the square of it would be far longer.
        prop_assert!(started.elapsed() < Duration::from_secs(4), "{:?} for {} bytes", started.elapsed(), text.len());
    }

    #[test]
    fn a_users_names_and_times_are_read_as_they_were_written(
        first in "\\PC{0,40}", last in "\\PC{0,40}", created in 0_i64..253_402_300_799_999, verified: bool, banned: bool,
    ) {
        let now = at(created);
        let user = FakeUser {
            first_name: Some(first.clone()), last_name: Some(last.clone()), banned,
            emails: vec![("ada@example.com".to_owned(), verified)],
            ..FakeUser::new("user_ada", "ada@example.com", now)
        };
        let body = fake_clerk::event("user.created", user.to_json(), now).to_string();
        let Ok(Event::UserSeen(read)) = Event::parse(EventKind::UserCreated, &body) else { panic!("{body}") };
        let kept = |name: String| Some(name).filter(|name| !name.trim().is_empty());
        prop_assert_eq!(read.first_name, kept(first));
        prop_assert_eq!(read.last_name, kept(last));
        prop_assert_eq!((read.created_at, read.banned), (now, banned));
        prop_assert_eq!(read.addresses[0].verified, verified);
    }

    #[test]
    fn a_session_token_that_was_touched_says_nothing_else(edits in edits()) {
        let token = edited(&TOKEN, &edits);
        if let Some(user) = verified(&token) {
            prop_assert_eq!(user, "user_ada");
        }
    }

    #[test]
    fn an_address_is_compared_by_something_that_is_an_address(
        text in prop_oneof![
            "\\PC{0,80}",
            "[a-zA-Z0-9.+_'éÜ\u{212a}\u{202e}\0 -]{0,70}@[a-zA-Z0-9.éßÜ\u{ad}-]{0,30}(\\.[a-z]{2,5})?",
            edits().prop_map(|edits| edited("ada@example.com", &edits)),
        ],
    ) {
        let _ = mask(&text);
        prop_assert!(!mask_addresses("<ada@example.com>").contains("ada@"));
        if let Ok(address) = EmailAddress::parse(&text) {
            let (written, key) = (address.as_str(), address.key().as_str());
            prop_assert!(written.len() <= 254 && key.len() <= 254);
            prop_assert!(!written.chars().any(|c| c.is_control() || c.is_whitespace()), "{written:?}");
            let (_, domain) = key.rsplit_once('@').unwrap();
            prop_assert!(domain.is_ascii() && domain.contains('.') && !key.contains('\0'));
            let again = EmailAddress::parse(key).map(|again| again.key().as_str().to_owned());
            prop_assert_eq!(again.as_deref(), Ok(key), "a key is its own key");
            let again = EmailAddress::parse(written).map(|again| again.key().as_str().to_owned());
            prop_assert_eq!(again.as_deref(), Ok(key));
        }
    }

    #[test]
    fn a_links_token_is_read_as_it_was_made_and_no_other_is(
        id: u128, version in 1_i32.., edits in edits(), other in "\\PC{0,120}",
    ) {
        let key = TokenKey::new(b"a key of the fuzzer's own, long enough");
        let claim = LinkClaim { invite_id: Uuid::from_u128(id), version };
        let token = key.token(claim);
        prop_assert_eq!(key.verify(&token), Some(claim));
        let touched = edited(&token, &edits);
        prop_assert!(touched == token || key.verify(&touched).is_none(), "{touched}");
        prop_assert_eq!(key.verify(&other), None);
        prop_assert_eq!(TokenKey::new(b"another key of the fuzzer's, also long").verify(&token), None);
    }
}

proptest! {
    // Signing takes its time.
    #![proptest_config(cases(8))]

    #[test]
    fn a_session_token_names_only_users_that_could_be_one(
        sub in prop_oneof!["[!-~]{1,300}", "\\PC{0,40}", Just("user_\0".to_owned()), Just("x".repeat(255))],
        exp in prop_oneof![any::<f64>().prop_map(|exp| json!(exp)), any::<i64>().prop_map(|exp| json!(exp)), Just(json!(NOW + 60))],
    ) {
        let could_be = (1..=255).contains(&sub.len()) && sub.bytes().all(|byte| byte.is_ascii_graphic());
        let is_valid = exp.as_f64().is_some_and(|exp| exp + 5.0 > NOW as f64);
        let token = signed(&json!({ "sub": sub, "iss": "https://clerk.example.com", "exp": exp }));
        prop_assert_eq!(verified(&token), Some(sub).filter(|_| could_be && is_valid));
    }
}

/// The files that ship with usher, to be put beside each other in pieces.
const TEMPLATES: &[(&str, &str)] = &[
    ("layout.html.hbs", include_str!("../../templates/layout.html.hbs")),
    ("layout.txt.hbs", include_str!("../../templates/layout.txt.hbs")),
    ("button.html.hbs", include_str!("../../templates/button.html.hbs")),
    ("style.css", include_str!("../../templates/style.css")),
    ("en/locale.json", include_str!("../../templates/en/locale.json")),
    (
        "en/reminder/body.html.hbs",
        include_str!("../../templates/en/reminder/body.html.hbs"),
    ),
    (
        "en/reminder/body.txt.hbs",
        include_str!("../../templates/en/reminder/body.txt.hbs"),
    ),
    (
        "en/reminder/subject.txt.hbs",
        include_str!("../../templates/en/reminder/subject.txt.hbs"),
    ),
];

proptest! {
    // Each case tries every mail in every language.
    #![proptest_config(cases(64))]

    #[test]
    fn templates_are_loaded_or_refused(file in proptest::sample::select(TEMPLATES), edits in edits()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file.0);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, edited(file.1, &edits)).unwrap();
        let started = Instant::now();
        if let Ok(templates) = Templates::load(Some(folder.path()), "en") {
            prop_assert!(templates.samples().is_ok(), "what was tried out can be sent");
        }
        prop_assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}

/// Not a matter of chance: what a template may hold that would exhaust the stack, or not be a template.
#[test]
fn templates_that_go_too_deep_are_refused() {
    let nested = |open: &str, close: &str, times: usize| format!("{}x{}", open.repeat(times), close.repeat(times));
    for (name, text) in [
        ("en/reminder/body.txt.hbs", nested("{{#if app_name}}", "{{/if}}", 5_000)),
        (
            "en/reminder/body.txt.hbs",
            format!("{{{{lookup {} }}}}", nested("(lookup ", " 1)", 5_000)),
        ),
        ("en/reminder/body.html.hbs", nested("<div>", "</div>", 20_000)),
        ("layout.html.hbs", "{{> layout.html}}".to_owned()),
        ("layout.txt.hbs", "{{> layout.txt}}".to_owned()),
        ("en/locale.json", nested("[", "]", 20_000)),
        // It would be in a style attribute, after everything was tried without one.
        ("style.css", "p { margin: {{> layout.html}} }".to_owned()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
        let refused = Templates::load(Some(folder.path()), "en").err();
        assert!(
            refused.is_some_and(|errors| errors.to_string().contains(name)),
            "{name}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    // A style sheet is read without recursion; what it means is another matter.
    std::fs::write(folder.path().join("style.css"), nested("a{", "}", 20_000)).unwrap();
    let _ = Templates::load(Some(folder.path()), "en");
    // Two that hold each other.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("quote.html.hbs"), "{{> button.html}}").unwrap();
    std::fs::write(folder.path().join("button.html.hbs"), "{{> quote.html}}").unwrap();
    assert!(Templates::load(Some(folder.path()), "en").is_err());
}

#[test]
fn reading_takes_no_more_than_its_share_of_time() {
    let many = |piece: &str, times: usize| vec![piece; times].join(",");
    let field = |n: usize| format!(r#""{n}":0"#);
    for data in [
        format!("{{{}}}", (0..25_000).map(field).collect::<Vec<_>>().join(",")),
        format!("{{{}}}", many(r#""id":"user_1""#, 15_000)),
        format!(r#"{{"email_addresses":[{}]}}"#, many("{}", 80_000)),
        format!(
            r#"{{"email_addresses":[{}]}}"#,
            many(r#"{"email_address":"a@b.co"}"#, 999)
        ),
        format!(r#"{{"first_name":"{}"}}"#, r"\u0041".repeat(40_000)),
        format!(r#"{{"id":{}}}"#, "9".repeat(250_000)),
    ] {
        let text = format!(r#"{{"type":"user.created","data":{data}}}"#);
        let started = Instant::now();
        let _ = peek_type(text.as_bytes());
        let _ = Event::parse(EventKind::UserCreated, &text);
        let taken = TimeDelta::from_std(started.elapsed()).unwrap();
        assert!(taken < TimeDelta::seconds(2), "{taken} for {}", &text[..60]);
    }
}
