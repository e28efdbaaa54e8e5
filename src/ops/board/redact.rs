//! The payload of an event without what would open a door: codes, tokens and passwords.

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

/// The payload as indented JSON; `None` if it is no JSON.
pub(super) fn redacted(payload: &str) -> Option<String> {
    let mut payload: Value = serde_json::from_str(payload).ok()?;
    cut_secrets(&mut payload);
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
        let shown: Value = serde_json::from_str(&redacted(&payload.to_string()).unwrap()).unwrap();
        let expected = json!({ "type": "user.created", "data": {
            "id": "user_1", "password_enabled": true, "password_digest": CUT, "country_code": "CH", "code": CUT,
            "emails": [{ "email_address": "ada@x.example", "verification": { "token": CUT, "status": "new" } }],
        }});
        assert_eq!(shown, expected);
        assert_eq!(redacted("no JSON"), None);
    }
}
