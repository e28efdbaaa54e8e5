//! The payload of an event without what would open a door: codes, tokens, passwords, and the text of mails.

use serde_json::Value;

const CUT: &str = "(cut out)";
/// Parts of the names of fields.
const SECRETS: &[&str] = &[
    "password",
    "secret",
    "token",
    "otp",
    "jwt",
    "ticket",
    "signature",
    "digest",
    "cookie",
    "backup_code",
    "magic_link",
];
/// Whole names, since `country_code` is none.
const CODES: &[&str] = &["code", "verification_code"];
/// Of mails and text messages that Clerk sends: their text and their data.
const MESSAGES: &[&str] = &["email.", "sms."];
const TEXTS: &[&str] = &["body", "body_plain", "subject", "message", "data"];

/// The payload as indented JSON; `None` if it is no JSON.
pub(super) fn redacted(event_type: &str, payload: &str) -> Option<String> {
    let mut payload: Value = serde_json::from_str(payload).ok()?;
    cut_secrets(&mut payload);
    if MESSAGES.iter().any(|prefix| event_type.starts_with(prefix)) {
        payload.get_mut("data").into_iter().for_each(cut_texts);
    }
    serde_json::to_string_pretty(&payload).ok()
}

fn cut_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.to_lowercase();
                let is_secret = SECRETS.iter().any(|part| name.contains(part)) || CODES.contains(&name.as_str());
                if is_secret && !matches!(value, Value::Bool(_) | Value::Null) {
                    *value = CUT.into();
                } else {
                    cut_secrets(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(cut_secrets),
        _ => {}
    }
}

fn cut_texts(data: &mut Value) {
    let Some(fields) = data.as_object_mut() else { return };
    for (_, value) in fields.iter_mut().filter(|(name, _)| TEXTS.contains(&name.as_str())) {
        *value = CUT.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_and_codes_are_cut_out_and_all_else_stays() {
        let payload = json!({ "type": "user.created", "data": {
            "id": "user_1", "password_enabled": true, "password_digest": "$2b$…",
            "country_code": "CH", "code": "424242",
            "emails": [{ "email_address": "ada@x.example", "verification": { "token": "t", "status": "new" } }],
        }});
        let shown: Value = serde_json::from_str(&redacted("user.created", &payload.to_string()).unwrap()).unwrap();
        let expected = json!({ "type": "user.created", "data": {
            "id": "user_1", "password_enabled": true, "password_digest": CUT, "country_code": "CH", "code": CUT,
            "emails": [{ "email_address": "ada@x.example", "verification": { "token": CUT, "status": "new" } }],
        }});
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_text_of_a_mail_may_have_a_code() {
        let payload =
            json!({ "data": { "to": "ada@example.com", "subject": "424242 is your code", "body": "…", "data": {} } });
        let shown: Value = serde_json::from_str(&redacted("email.created", &payload.to_string()).unwrap()).unwrap();
        assert_eq!(
            shown,
            json!({ "data": { "to": "ada@example.com", "subject": CUT, "body": CUT, "data": CUT } })
        );
        assert_eq!(redacted("email.created", "no JSON"), None);
        assert!(redacted("email.created", "[]").is_some());
    }
}
