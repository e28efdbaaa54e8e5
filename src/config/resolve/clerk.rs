//! The settings about Clerk: its events, sessions and people.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::clerk_values::{self, Issuer};
use crate::config::error::{ConfigError, Problems, wrong};
use crate::config::values::{list, non_empty};
use crate::config::{DevSecrets, SessionKeySource, Settings};
use crate::secret::Secret;
use crate::store::{Identities, Layout, Tables};
use usher_clerk::{DevSigner, check_public_key};

impl Settings {
    pub(super) fn signing_secrets(&self, dev: Option<&DevSecrets>) -> Result<Vec<Secret>, ConfigError> {
        const VARIABLE: &str = "CLERK_WEBHOOK_SIGNING_SECRET";
        let given = match (&self.clerk_webhook_signing_secret, &self.clerk_webhook_secret) {
            (Some(given), _) => Some(given),
            (None, Some(old)) => {
                tracing::warn!("CLERK_WEBHOOK_SECRET is the old name; call it {VARIABLE}");
                Some(old)
            }
            (None, None) => None,
        };
        let secrets = match (given, dev) {
            (Some(given), _) => list(Some(given.expose())),
            (None, Some(dev)) => vec![dev.signing_secret.clone()],
            (None, None) => Vec::new(),
        };
        if secrets.is_empty() {
            return Err(wrong(
                VARIABLE,
                "is missing; Clerk's dashboard shows it with the webhook's endpoint",
            ));
        }
        for secret in &secrets {
            let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret));
            if !key.is_ok_and(|key| key.len() >= 16) {
                return Err(wrong(
                    VARIABLE,
                    "must be whsec_ and base64, as Clerk's dashboard shows it",
                ));
            }
        }
        Ok(secrets.into_iter().map(Secret::from).collect())
    }

    pub(super) fn session_keys(
        &self,
        issuer: Option<&Issuer>,
        dev: Option<&DevSecrets>,
    ) -> Result<Option<SessionKeySource>, ConfigError> {
        if let Some(pem) = &self.clerk_jwt_key {
            check_public_key(pem).map_err(|error| wrong("CLERK_JWT_KEY", format!("is {error}")))?;
            return Ok(Some(SessionKeySource::Pem(pem.clone())));
        }
        if self.clerk_issuer.is_some() {
            return Ok(issuer.map(|issuer| SessionKeySource::Jwks(issuer.url.clone())));
        }
        let Some(dev) = dev else { return Ok(None) };
        let pem = DevSigner::from_pkcs8_pem(&dev.session_key)
            .and_then(|signer| signer.public_pem())
            .map_err(|error| {
                wrong(
                    "USHER_ENV",
                    format!("is development, but its session key is broken: {error}"),
                )
            })?;
        Ok(Some(SessionKeySource::Pem(pem)))
    }

    pub(super) fn issuer(&self) -> Result<Option<Issuer>, ConfigError> {
        let keys_are_fetched = self.clerk_jwt_key.is_none();
        let read = |text: &String| clerk_values::issuer(text, keys_are_fetched);
        self.clerk_issuer.as_ref().map(read).transpose()
    }

    pub(super) fn development_issuer(&self, dev: Option<&DevSecrets>) -> Option<String> {
        dev.filter(|_| self.clerk_jwt_key.is_none())
            .map(|_| DevSecrets::ISSUER.to_owned())
    }

    pub(super) fn fake_clerk_key(&self, dev: Option<&DevSecrets>) -> Option<Secret> {
        let is_clerk_there = self.clerk_jwt_key.is_some() || self.clerk_issuer.is_some();
        dev.filter(|_| !is_clerk_there)
            .map(|dev| Secret::from(dev.session_key.clone()))
    }

    pub(super) fn authorized_parties(&self, all: &mut Problems) -> Vec<String> {
        let given = self.clerk_authorized_parties.as_deref().unwrap_or_default();
        clerk_values::origins(given).unwrap_or_else(|problems| {
            problems.into_iter().for_each(|problem| all.add(problem));
            Vec::new()
        })
    }

    pub(super) fn clerk_secret_key(&self) -> Result<Option<Secret>, ConfigError> {
        const VARIABLE: &str = "CLERK_SECRET_KEY";
        let key = non_empty(VARIABLE, self.clerk_secret_key.clone())?;
        let text = key.as_ref().map(|key| key.expose().trim()).unwrap_or_default();
        if text.starts_with("pk_") || text.starts_with("whsec_") {
            return Err(wrong(
                VARIABLE,
                "is another key of Clerk's; the secret key begins with sk_",
            ));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(VARIABLE, "holds characters that no key has"));
        }
        Ok(key)
    }

    pub(in crate::config) fn layout(&self) -> Result<Layout, ConfigError> {
        const APP_SCHEMA: &str = "USHER_APP_SCHEMA";
        let given = self.usher_tables.as_deref().map(str::parse);
        let tables = given
            .unwrap_or(Ok(Tables::Own))
            .map_err(|_| wrong("USHER_TABLES", "must be own or shared"))?;
        if tables == Tables::Own {
            return Ok(Layout::default());
        }
        let app_schema = self.usher_app_schema.as_deref().unwrap_or("public");
        let is_reserved =
            ["usher", "apalis", "information_schema"].contains(&app_schema) || app_schema.starts_with("pg_");
        if app_schema.is_empty() || app_schema.len() > 63 || app_schema.contains('\0') || is_reserved {
            return Err(wrong(
                APP_SCHEMA,
                "must be the schema of the app's tables, such as public",
            ));
        }
        Ok(Layout::shared(app_schema))
    }

    pub(super) fn identities(&self) -> Result<Identities, ConfigError> {
        match self.usher_identities.as_deref() {
            None | Some(Identities::EXTERNAL_ID) => Ok(Identities::ExternalId),
            Some(Identities::TABLE) => Ok(Identities::Table {
                provider: self
                    .usher_identity_provider
                    .clone()
                    .unwrap_or_else(|| "clerk".to_owned()),
                issuers: self.identity_issuers()?,
            }),
            Some(_) => Err(wrong(
                "USHER_IDENTITIES",
                "must be admins.external_id or admin_identities",
            )),
        }
    }

    pub(super) fn sync_profiles(&self) -> Result<bool, ConfigError> {
        match self.usher_sync_profiles.as_deref() {
            None | Some("off") => Ok(false),
            Some("on") => Ok(true),
            Some(_) => Err(wrong("USHER_SYNC_PROFILES", "must be on or off")),
        }
    }

    fn identity_issuers(&self) -> Result<Vec<String>, ConfigError> {
        let issuers = list(self.usher_identity_issuers.as_deref());
        if !issuers.is_empty() {
            return Ok(issuers);
        }
        // An invalid issuer has its own error.
        let issuer = self.issuer().ok().flatten().ok_or_else(|| {
            wrong(
                "USHER_IDENTITY_ISSUERS",
                "is missing; it lists what admin_identities.issuer says of Clerk users",
            )
        })?;
        Ok(vec![issuer.name])
    }
}
