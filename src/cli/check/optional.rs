//! Settings that `usher serve` does without: each that is absent is a warning that says what follows.

use crate::config::Settings;

/// An absent setting, and what follows.
pub(super) struct Absent {
    pub name: &'static str,
    pub consequence: &'static str,
}

/// All of them. It reads the settings as they were given, so that it works where others are wrong.
pub(super) fn absent(settings: &Settings) -> Vec<Absent> {
    let with_own_page = settings.invite_url.is_none();
    [
        (
            "CLERK_PUBLISHABLE_KEY",
            settings.clerk_publishable_key.is_none() && with_own_page,
            "the accept page shows an invite, but can't sign anybody up or in",
        ),
        (
            "APP_URL",
            settings.app_url.is_none() && with_own_page,
            "after accepting, the accept page leads nowhere",
        ),
        (
            "CLERK_AUTHORIZED_PARTIES",
            settings.clerk_authorized_parties.is_none(),
            "session tokens of any origin are accepted, and the app's pages can't call /v1/me from the browser",
        ),
        (
            "USHER_EVENTS",
            settings.usher_events.is_none(),
            "the app is not told what happens; it has to ask GET /v1/events",
        ),
        (
            "USHER_OPS_KEYS",
            settings.usher_ops_keys.is_none() && settings.usher_ops_user_header.is_none(),
            "the board opens on a loopback address only, and changes nothing",
        ),
        (
            "MAIL_UNSUBSCRIBE",
            settings.mail_unsubscribe.is_none(),
            "invites have no List-Unsubscribe header, which large mail providers expect",
        ),
    ]
    .into_iter()
    .filter(|(_, is_absent, _)| *is_absent)
    .map(|(name, _, consequence)| Absent { name, consequence })
    .collect()
}
