use serde_json::{Value, json};

use super::*;

const CREATED: i64 = 1_790_000_000_123;
const UPDATED: i64 = 1_790_000_060_456;

fn address(id: &str, email: &str, verification: Value) -> Value {
    json!({
        "id": id, "object": "email_address", "email_address": email, "verification": verification,
        "linked_to": [], "reserved": false,
    })
}

fn verified() -> Value {
    json!({"status": "verified", "strategy": "email_code", "attempts": 1, "expire_at": UPDATED})
}

fn ada() -> Value {
    json!({
        "id": "user_ada", "object": "user",
        "email_addresses": [
            address("idn_1", "old@example.com", Value::Null),
            address("idn_2", "Ada@Example.com", verified()),
        ],
        "primary_email_address_id": "idn_2",
        "phone_numbers": [], "primary_phone_number_id": null, "username": null,
        "first_name": "Ada", "last_name": "Lovelace", "image_url": "https://img.clerk.com/ada",
        "external_id": null, "external_accounts": [],
        "public_metadata": {}, "private_metadata": {}, "unsafe_metadata": {"type": "user.deleted"},
        "banned": false, "locked": false, "locale": "en-GB", "last_sign_in_at": null,
        "created_at": CREATED, "updated_at": UPDATED,
        "something_new": {"from": ["the", "future"]},
    })
}

/// The shape before Clerk put the user into session events.
fn old_session(status: &str) -> Value {
    json!({
        "id": "sess_1", "object": "session", "status": status, "user_id": "user_ada", "client_id": "client_1",
        "created_at": CREATED, "updated_at": UPDATED, "last_active_at": UPDATED,
        "expire_at": CREATED + 604_800_000, "abandon_at": CREATED + 2_592_000_000_i64,
    })
}

fn new_session(status: &str, user: Value) -> Value {
    with(
        old_session(status),
        &[
            ("user", user),
            ("actor", Value::Null),
            (
                "latest_activity",
                json!({"ip_address": "192.0.2.1", "is_mobile": false}),
            ),
            ("last_active_organization_id", Value::Null),
        ],
    )
}

fn with(mut object: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        object[*name] = value.clone();
    }
    object
}

fn without(mut object: Value, field: &str) -> Value {
    object.as_object_mut().unwrap().remove(field);
    object
}

fn envelope(kind: EventKind, data: Value) -> String {
    json!({
        "type": kind.as_str(), "object": "event", "data": data, "timestamp": UPDATED, "instance_id": "ins_1",
        "event_attributes": {"http_request": {"client_ip": "192.0.2.1", "user_agent": "Firefox"}},
    })
    .to_string()
}

fn parse(kind: EventKind, data: Value) -> Result<Event, PayloadError> {
    Event::parse(kind, &envelope(kind, data))
}

fn user(data: Value) -> User {
    match parse(EventKind::UserUpdated, data).unwrap() {
        Event::UserSeen(user) => user,
        other => panic!("{other:?}"),
    }
}

fn millis(value: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(value).unwrap()
}

fn session() -> Session {
    Session {
        clerk_session_id: "sess_1".into(),
        clerk_user_id: "user_ada".into(),
        impersonated: false,
        created_at: millis(CREATED),
        updated_at: millis(UPDATED),
    }
}

#[test]
fn kinds_and_types_name_each_other() {
    for kind in EventKind::ALL {
        assert_eq!(EventKind::from_type(kind.as_str()), Some(kind));
        assert_eq!(kind.to_string(), kind.as_str());
    }
    for unknown in ["session.pending", "email.created", "User.Created", "user.created ", ""] {
        assert_eq!(EventKind::from_type(unknown), None, "{unknown:?}");
    }
}

#[test]
fn the_type_is_read_from_the_envelope_alone() {
    let cases: [(&[u8], Result<&str, PeekError>); 24] = [
        (br#"{"type":"user.created","data":{}}"#, Ok("user.created")),
        (
            b" \r\n\t{ \"data\" : {\"type\":\"inner\"}, \"type\" : \"outer\" } \n",
            Ok("outer"),
        ),
        (br#"{"type":"user\u002ecreated"}"#, Ok("user.created")),
        (br#"{"type":"anything at all"}"#, Ok("anything at all")),
        ("{\"type\":\"ü\"}".as_bytes(), Ok("ü")),
        (br#"{"type":""}"#, Err(PeekError::NoType)),
        (br#"{"type":null}"#, Err(PeekError::NoType)),
        (br#"{"type":7}"#, Err(PeekError::NoType)),
        (br#"{"type":["user.created"]}"#, Err(PeekError::NoType)),
        (br#"{"Type":"user.created"}"#, Err(PeekError::NoType)),
        (br#"{"data":{"type":"user.created"}}"#, Err(PeekError::NoType)),
        (br#"{"type":"a","type":"b"}"#, Err(PeekError::NoType)),
        (b"{}", Err(PeekError::NoType)),
        (br#"["user.created"]"#, Err(PeekError::NoType)),
        (br#""user.created""#, Err(PeekError::NoType)),
        (b"null", Err(PeekError::NoType)),
        (b"", Err(PeekError::NotJson)),
        (b"type=user.created", Err(PeekError::NotJson)),
        (br#"{"type":"user.created""#, Err(PeekError::NotJson)),
        (br#"{"type":"user.created",}"#, Err(PeekError::NotJson)),
        (br#"{"type":"user.created"} x"#, Err(PeekError::NotJson)),
        (br#"{"type":"user.created","data":{]}"#, Err(PeekError::NotJson)),
        (
            b"{\"type\":\"user.created\",\"data\":\"\xff\"}",
            Err(PeekError::NotJson),
        ),
        (b"\xef\xbb\xbf{\"type\":\"user.created\"}", Err(PeekError::NotJson)),
    ];
    for (body, expected) in cases {
        assert_eq!(
            peek_type(body).as_deref(),
            expected.as_ref().copied(),
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn a_plain_type_is_borrowed() {
    assert!(matches!(peek_type(br#"{"type":"user.created"}"#), Ok(Cow::Borrowed(_))));
}

#[test]
fn nesting_neither_exhausts_the_stack_nor_hides_what_is_read() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = |name: &str| format!("{}0{}", format!(r#"{{"{name}":"#).repeat(20_000), "}".repeat(20_000));
    for (data, expected) in [
        (deep.clone(), "data is not an object"),
        (nested("data"), "data.email_addresses is missing"),
        (nested("user"), "data.email_addresses is missing"),
        (
            format!(r#"{{"email_addresses":[{deep}]}}"#),
            "data.email_addresses[0].email_address is missing",
        ),
        (
            format!(r#"{{"email_addresses":[],"id":{deep}}}"#),
            "data.id is not a string",
        ),
    ] {
        let envelope = format!(r#"{{"type":"x","data":{data}}}"#);
        assert_eq!(peek_type(envelope.as_bytes()).unwrap(), "x");
        let error = Event::parse(EventKind::UserCreated, &envelope).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let session = format!(
        r#"{{"id":"sess_1","user_id":"user_1","created_at":1,"updated_at":1,"user":{}}}"#,
        nested("user")
    );
    let error = Event::parse(EventKind::SessionCreated, &format!(r#"{{"data":{session}}}"#)).unwrap_err();
    assert_eq!(error.to_string(), "data.user.email_addresses is missing");
    let user = format!(
        r#"{{"type":"user.updated","data":{{"id":"user_1","email_addresses":[],"banned":true,
            "unsafe_metadata":{deep},"created_at":1,"updated_at":1}}}}"#
    );
    match Event::parse(EventKind::UserUpdated, &user) {
        Ok(Event::UserSeen(user)) => assert!(user.banned),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_created_and_an_updated_user_are_read_alike() {
    let expected = User {
        clerk_user_id: "user_ada".into(),
        addresses: vec![
            Address {
                email: "old@example.com".into(),
                verified: false,
                primary: false,
            },
            Address {
                email: "Ada@Example.com".into(),
                verified: true,
                primary: true,
            },
        ],
        first_name: Some("Ada".into()),
        last_name: Some("Lovelace".into()),
        image_url: Some("https://img.clerk.com/ada".into()),
        locale: Some("en-GB".into()),
        banned: false,
        locked: false,
        created_at: millis(CREATED),
        updated_at: millis(UPDATED),
    };
    for kind in [EventKind::UserCreated, EventKind::UserUpdated] {
        assert_eq!(parse(kind, ada()), Ok(Event::UserSeen(expected.clone())));
    }
    assert_eq!(User::from_json(ada().to_string().as_bytes()), Ok(expected));
}

#[test]
fn only_type_and_data_are_relied_on() {
    let bare = json!({"data": ada()}).to_string();
    assert!(Event::parse(EventKind::UserCreated, &bare).is_ok());
}

#[test]
fn only_a_verified_verification_verifies() {
    for (verification, expected) in [
        (verified(), true),
        (json!({"status": "verified"}), true),
        (Value::Null, false),
        (json!({}), false),
        (json!({"status": null}), false),
        (json!({"status": "unverified"}), false),
        (json!({"status": "transferable"}), false),
        (json!({"status": "failed"}), false),
        (json!({"status": "expired"}), false),
        (json!({"status": "Verified"}), false),
        (json!({"status": "verified "}), false),
        (json!("verified"), false),
        (json!(true), false),
    ] {
        let addresses = json!([address("idn_1", "ada@example.com", verification.clone())]);
        let user = user(with(ada(), &[("email_addresses", addresses)]));
        assert_eq!(user.addresses[0].verified, expected, "{verification}");
    }
    let absent = json!([{"id": "idn_1", "email_address": "ada@example.com"}]);
    assert!(!user(with(ada(), &[("email_addresses", absent)])).addresses[0].verified);
}

#[test]
fn the_primary_address_is_the_named_one() {
    assert_eq!(user(ada()).primary_email(), Some("Ada@Example.com"));
    for id in [Value::Null, json!("idn_gone"), json!("")] {
        let user = user(with(ada(), &[("primary_email_address_id", id)]));
        assert_eq!(user.primary_email(), None);
    }
    let no_ids = json!([{"email_address": "ada@example.com", "verification": null}]);
    let user = user(without(
        with(ada(), &[("email_addresses", no_ids)]),
        "primary_email_address_id",
    ));
    assert_eq!(user.primary_email(), None);
}

#[test]
fn who_signed_up_by_phone_has_no_address() {
    let phone = with(
        ada(),
        &[
            ("email_addresses", json!([])),
            ("primary_email_address_id", Value::Null),
            ("phone_numbers", json!([{"phone_number": "+15555550100"}])),
        ],
    );
    assert_eq!(user(phone).addresses, []);
}

#[test]
fn a_user_may_have_a_thousand_addresses() {
    let addresses = vec![address("idn_1", "a@example.com", Value::Null); 1000];
    let user = user(with(ada(), &[("email_addresses", Value::Array(addresses))]));
    assert_eq!(user.addresses.len(), 1000);
}

#[test]
fn optional_fields_may_be_null_or_missing() {
    let optional = [
        "primary_email_address_id",
        "first_name",
        "last_name",
        "image_url",
        "locale",
        "banned",
        "locked",
    ];
    for field in optional {
        let nulled = user(with(ada(), &[(field, Value::Null)]));
        assert_eq!(user(without(ada(), field)), nulled, "{field}");
    }
    let bare = optional.iter().fold(ada(), |data, field| without(data, field));
    let user = user(bare);
    assert!(!user.banned && !user.locked && user.locale.is_none());
}

#[test]
fn banned_and_locked_are_seen() {
    let user = user(with(ada(), &[("banned", json!(true)), ("locked", json!(true))]));
    assert!(user.banned && user.locked);
}

#[test]
fn the_dashboards_test_event_of_2022_is_as_good_as_any() {
    let data = json!({
        "birthday": "", "created_at": 1_654_012_591_514_i64,
        "email_addresses": [{
            "email_address": "example@example.org", "id": "idn_29w83yL7CwVlJXylYLxcslromF1", "linked_to": [],
            "object": "email_address", "verification": {"status": "verified", "strategy": "ticket"},
        }],
        "external_accounts": [], "external_id": "567772", "first_name": "Example", "gender": "",
        "id": "user_29w83sxmDNGwOuEthce5gg56FcC", "image_url": "https://img.clerk.com/xxxxxx",
        "last_name": "Example", "last_sign_in_at": 1_654_012_591_514_i64, "object": "user",
        "password_enabled": true, "phone_numbers": [],
        "primary_email_address_id": "idn_29w83yL7CwVlJXylYLxcslromF1", "primary_phone_number_id": null,
        "primary_web3_wallet_id": null, "private_metadata": {}, "profile_image_url": "https://www.gravatar.com/avatar",
        "public_metadata": {}, "two_factor_enabled": false, "unsafe_metadata": {},
        "updated_at": 1_654_012_591_835_i64, "username": null, "web3_wallets": [],
    });
    let user = user(data);
    assert_eq!(user.primary_email(), Some("example@example.org"));
    assert_eq!(user.created_at.to_rfc3339(), "2022-05-31T15:56:31.514+00:00");
    assert_eq!(user.updated_at.timestamp_subsec_millis(), 835);
}

#[test]
fn a_deleted_user_may_come_without_an_id() {
    for (data, expected) in [
        (
            json!({"object": "user", "id": "user_ada", "deleted": true, "external_id": "7"}),
            Some("user_ada"),
        ),
        (json!({"object": "user", "deleted": true}), None),
        (json!({"object": "user", "id": null, "deleted": true}), None),
    ] {
        assert_eq!(
            parse(EventKind::UserDeleted, data),
            Ok(Event::UserDeleted {
                clerk_user_id: expected.map(Into::into)
            })
        );
    }
}

#[test]
fn a_sign_in_is_read_in_the_old_and_in_the_new_shape() {
    for (data, expected) in [
        (old_session("active"), None),
        (new_session("active", Value::Null), None),
        (new_session("active", ada()), Some(user(ada()))),
    ] {
        assert_eq!(
            parse(EventKind::SessionCreated, data),
            Ok(Event::SessionStarted {
                session: session(),
                user: expected
            })
        );
    }
}

#[test]
fn only_an_active_session_is_a_sign_in() {
    for status in ["pending", "ended", "abandoned", "Active", "brand_new_status"] {
        assert_eq!(
            parse(EventKind::SessionCreated, new_session(status, ada())),
            Ok(Event::SessionPending {
                session: session(),
                user: Some(user(ada()))
            })
        );
    }
}

#[test]
fn a_sign_in_ends_in_three_ways() {
    for (kind, status) in [
        (EventKind::SessionEnded, "ended"),
        (EventKind::SessionRemoved, "removed"),
        (EventKind::SessionRevoked, "revoked"),
    ] {
        for data in [old_session(status), new_session(status, ada())] {
            assert_eq!(parse(kind, data), Ok(Event::SessionEnded { session: session() }));
        }
    }
}

#[test]
fn an_impersonated_session_is_told_apart() {
    let data = with(
        new_session("active", ada()),
        &[("actor", json!({"sub": "user_support"}))],
    );
    let Ok(Event::SessionStarted { session, .. }) = parse(EventKind::SessionCreated, data) else {
        panic!("not a sign-in");
    };
    assert!(session.impersonated);
}

#[test]
fn errors_name_the_place() {
    use EventKind::{SessionCreated, SessionEnded, UserCreated, UserDeleted};

    let in_first = |field: &str, value: Value| {
        let mut data = ada();
        data["email_addresses"][1][field] = value;
        data
    };
    let cases = [
        (UserCreated, without(ada(), "id"), "data.id is missing"),
        (UserCreated, with(ada(), &[("id", Value::Null)]), "data.id is missing"),
        (UserCreated, with(ada(), &[("id", json!(""))]), "data.id is empty"),
        (UserCreated, with(ada(), &[("id", json!(7))]), "data.id is not a string"),
        (
            UserCreated,
            without(ada(), "email_addresses"),
            "data.email_addresses is missing",
        ),
        (
            UserCreated,
            with(ada(), &[("email_addresses", Value::Null)]),
            "data.email_addresses is missing",
        ),
        (
            UserCreated,
            with(ada(), &[("email_addresses", json!({}))]),
            "data.email_addresses is not a list",
        ),
        (
            UserCreated,
            in_first("email_address", Value::Null),
            "data.email_addresses[1].email_address is missing",
        ),
        (
            UserCreated,
            in_first("email_address", json!("")),
            "data.email_addresses[1].email_address is empty",
        ),
        (
            UserCreated,
            in_first("verification", json!({"status": 1})),
            "data.email_addresses[1].verification.status is not a string",
        ),
        (
            UserCreated,
            with(ada(), &[("first_name", json!(["x"]))]),
            "data.first_name is not a string",
        ),
        (
            UserCreated,
            with(ada(), &[("banned", json!("true"))]),
            "data.banned is not a boolean",
        ),
        (UserCreated, without(ada(), "created_at"), "data.created_at is missing"),
        (
            UserCreated,
            with(ada(), &[("updated_at", json!("2026-01-01T00:00:00Z"))]),
            "data.updated_at is not a time in milliseconds",
        ),
        (
            UserCreated,
            with(ada(), &[("updated_at", json!(i64::MAX))]),
            "data.updated_at is not a time in milliseconds",
        ),
        (UserDeleted, json!({"id": "", "deleted": true}), "data.id is empty"),
        (UserCreated, json!([]), "data is not an object"),
        (UserCreated, Value::Null, "data is missing"),
        (
            SessionCreated,
            without(old_session("active"), "user_id"),
            "data.user_id is missing",
        ),
        (
            SessionCreated,
            without(old_session("active"), "status"),
            "data.status is missing",
        ),
        (
            SessionCreated,
            new_session("active", without(ada(), "id")),
            "data.user.id is missing",
        ),
        (
            SessionCreated,
            new_session("active", with(ada(), &[("id", json!("user_eve"))])),
            "data.user.id is not the user of the session",
        ),
        (SessionEnded, without(old_session("ended"), "id"), "data.id is missing"),
    ];
    for (kind, data, expected) in cases {
        assert_eq!(parse(kind, data).unwrap_err().to_string(), expected);
    }
    assert_eq!(
        Event::parse(UserCreated, "{\"data\":\n nope}").unwrap_err().to_string(),
        "not JSON at line 2, column 3"
    );
    assert_eq!(
        Event::parse(UserCreated, "[]").unwrap_err().to_string(),
        "data is missing"
    );
    assert_eq!(
        User::from_json(b"{}").unwrap_err().to_string(),
        "user.email_addresses is missing"
    );
}

#[test]
fn what_no_database_takes_is_refused_with_its_place() {
    use EventKind::{SessionCreated, SessionEnded, UserCreated, UserDeleted};

    let year_10000 = 253_402_300_800_000_i64;
    for time in [
        json!(year_10000),
        json!(-1),
        json!(i64::MIN),
        json!(1e300),
        json!(u64::MAX),
    ] {
        for field in ["created_at", "updated_at"] {
            let error = parse(UserCreated, with(ada(), &[(field, time.clone())])).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("data.{field} is not a time in milliseconds"),
                "{time}"
            );
        }
    }
    let long = json!("x".repeat(256));
    for (kind, data, expected) in [
        (
            UserCreated,
            with(ada(), &[("id", long.clone())]),
            "data.id is longer than 255 bytes",
        ),
        (UserDeleted, json!({ "id": long }), "data.id is longer than 255 bytes"),
        (
            SessionEnded,
            with(old_session("ended"), &[("id", long.clone())]),
            "data.id is longer than 255 bytes",
        ),
        (
            SessionCreated,
            with(old_session("active"), &[("user_id", json!("user\u{0}_1"))]),
            "data.user_id is not an id: it has characters that ids don't have",
        ),
        (
            UserCreated,
            with(
                ada(),
                &[(
                    "email_addresses",
                    Value::Array(vec![address("idn_1", "a@example.com", Value::Null); 1001]),
                )],
            ),
            "data.email_addresses is a list of more than 1000",
        ),
    ] {
        assert_eq!(parse(kind, data).unwrap_err().to_string(), expected);
    }
}

#[test]
fn half_a_character_spoils_a_name_and_nothing_else() {
    let with_half = |field: &str| {
        let data = with(ada(), &[(field, json!("HALF"))]);
        Event::parse(
            EventKind::UserUpdated,
            &envelope(EventKind::UserUpdated, data).replace("HALF", "A\\ud83d"),
        )
    };
    for field in ["first_name", "last_name", "username", "unsafe_metadata"] {
        let Ok(Event::UserSeen(user)) = with_half(field) else {
            panic!("{field}");
        };
        assert_eq!(user.primary_email(), Some("Ada@Example.com"));
    }
    assert!(with_half("id").is_err());
    // As the name of a field, too.
    let text = envelope(EventKind::UserUpdated, ada()).replace("something_new", "\\ud800");
    assert!(Event::parse(EventKind::UserUpdated, &text).is_ok());
}

#[test]
fn debug_output_holds_no_address() {
    let event = parse(EventKind::SessionCreated, new_session("active", ada())).unwrap();
    let debug = format!("{event:?}").to_lowercase();
    assert!(debug.contains("user_ada") && !debug.contains("example.com"), "{debug}");
    assert!(
        debug.contains("address { verified: true, primary: true, .. }"),
        "{debug}"
    );
}
