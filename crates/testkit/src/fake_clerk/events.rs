//! Events in the shapes in which Clerk sends them.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

/// A user to tell of.
#[derive(Debug, Clone)]
pub struct FakeUser {
    /// `user_…`
    pub id: String,
    /// Addresses, the first one primary, each with whether it is verified.
    pub emails: Vec<(String, bool)>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// Banned.
    pub banned: bool,
    /// When Clerk created them.
    pub created_at: DateTime<Utc>,
    /// The version of this description.
    pub updated_at: DateTime<Utc>,
}

impl FakeUser {
    /// Somebody with one verified address.
    #[must_use]
    pub fn new(id: impl Into<String>, email: impl Into<String>, now: DateTime<Utc>) -> Self {
        Self {
            id: id.into(),
            emails: vec![(email.into(), true)],
            first_name: None,
            last_name: None,
            banned: false,
            created_at: now,
            updated_at: now,
        }
    }

    /// The user object, as in webhooks and from the Backend API.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let addresses: Vec<Value> = self
            .emails
            .iter()
            .enumerate()
            .map(|(i, (email, verified))| {
                let status = if *verified { "verified" } else { "unverified" };
                json!({
                    "id": format!("idn_{}_{i}", self.id),
                    "object": "email_address",
                    "email_address": email,
                    "reserved": false,
                    "linked_to": [],
                    "verification": { "status": status, "strategy": "email_code", "attempts": 1, "expire_at": null }
                })
            })
            .collect();
        let primary = (!self.emails.is_empty()).then(|| format!("idn_{}_0", self.id));
        json!({
            "id": self.id,
            "object": "user",
            "username": null,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "image_url": format!("https://img.clerk.com/{}", self.id),
            "has_image": false,
            "primary_email_address_id": primary,
            "primary_phone_number_id": null,
            "primary_web3_wallet_id": null,
            "password_enabled": true,
            "two_factor_enabled": false,
            "totp_enabled": false,
            "backup_code_enabled": false,
            "email_addresses": addresses,
            "phone_numbers": [],
            "web3_wallets": [],
            "external_accounts": [],
            "saml_accounts": [],
            "external_id": null,
            "public_metadata": {},
            "private_metadata": {},
            "unsafe_metadata": {},
            "banned": self.banned,
            "locked": false,
            "lockout_expires_in_seconds": null,
            "verification_attempts_remaining": 100,
            "delete_self_enabled": true,
            "create_organization_enabled": true,
            "locale": null,
            "last_sign_in_at": null,
            "last_active_at": self.updated_at.timestamp_millis(),
            "profile_image_url": format!("https://img.clerk.com/{}", self.id),
            "created_at": self.created_at.timestamp_millis(),
            "updated_at": self.updated_at.timestamp_millis()
        })
    }
}

/// The envelope of an event.
#[must_use]
pub fn event(event_type: &str, data: Value, now: DateTime<Utc>) -> Value {
    json!({
        "type": event_type,
        "object": "event",
        "data": data,
        "timestamp": now.timestamp_millis(),
        "instance_id": "ins_simulated",
        "event_attributes": { "http_request": { "client_ip": "203.0.113.7", "user_agent": "simulated" } }
    })
}

/// The data of `user.deleted`.
#[must_use]
pub fn deleted_user(id: &str) -> Value {
    json!({ "object": "user", "id": id, "deleted": true, "external_id": null })
}

/// The data of a session event; newer deliveries carry the user.
#[must_use]
pub fn session(id: &str, user_id: &str, status: &str, user: Option<&FakeUser>, now: DateTime<Utc>) -> Value {
    let at = now.timestamp_millis();
    json!({
        "id": id,
        "object": "session",
        "status": status,
        "user_id": user_id,
        "client_id": "client_simulated",
        "created_at": at,
        "updated_at": at,
        "last_active_at": at,
        "expire_at": at + 604_800_000,
        "abandon_at": at + 2_592_000_000_i64,
        "last_active_organization_id": null,
        "actor": null,
        "user": user.map(FakeUser::to_json)
    })
}
