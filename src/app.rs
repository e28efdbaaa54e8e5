//! What every part of usher shares.

use std::sync::Arc;

use url::Url;

use crate::clock::Clock;
use crate::config::{Config, SessionKeySource};
use crate::invites::token::TokenKey;
use crate::store::{Store, StoreError};
use usher_clerk::{BackendClient, BackendSetupError, SessionKeys, SessionVerifier, SessionVerifierError};
use usher_mail::{MailSetupError, Mailer};

/// Configuration, store, mailer, clock and Clerk. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub store: Store,
    pub mailer: Arc<Mailer>,
    pub clock: Clock,
    /// Derives and verifies invite links.
    pub token_key: TokenKey,
    /// If keys for session tokens are configured.
    pub sessions: Option<Arc<SessionVerifier>>,
    /// If the key for Clerk's Backend API is configured.
    pub clerk: Option<Arc<BackendClient>>,
}

/// Why usher can't start. The message names the variable to change.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("USHER_DATABASE_URL can't be used: {0}")]
    Database(#[from] StoreError),
    #[error(transparent)]
    Mail(#[from] MailSetupError),
    #[error("CLERK_JWT_KEY or CLERK_ISSUER can't be used: {0}")]
    Session(#[from] SessionVerifierError),
    #[error("CLERK_SECRET_KEY or CLERK_API_URL can't be used: {0}")]
    Clerk(#[from] BackendSetupError),
}

impl App {
    /// Opens a SQLite file, but does not connect to anything yet.
    pub async fn new(config: Config, clock: Clock) -> Result<Self, SetupError> {
        let url = config.database_url.expose();
        let store = Store::open_sized(url, &config.layout, config.connections, clock.clone()).await?;
        Self::on(store, config, clock)
    }

    /// [`App::new`] with a store that is already open.
    pub fn on(store: Store, config: Config, clock: Clock) -> Result<Self, SetupError> {
        let Clients {
            mailer,
            sessions,
            clerk,
        } = Clients::new(&config)?;
        let mut secrets = config.token_keys.iter().map(|secret| secret.expose().as_bytes());
        let newest = TokenKey::new(secrets.next().unwrap_or_default());
        Ok(Self {
            token_key: secrets.fold(newest, TokenKey::or),
            config: Arc::new(config),
            store,
            mailer: Arc::new(mailer),
            clock,
            sessions: sessions.map(Arc::new),
            clerk: clerk.map(Arc::new),
        })
    }
}

/// The clients of other services except the database. Nothing is connected yet.
pub struct Clients {
    pub mailer: Mailer,
    pub sessions: Option<SessionVerifier>,
    pub clerk: Option<BackendClient>,
}

impl Clients {
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let mailer = Mailer::new(config.mail())?;
        let mailer = match config.smtp_rate {
            Some(rate) => mailer.at_most(rate),
            None => mailer,
        };
        let mailer = match &config.smtp_helo_name {
            Some(name) => mailer.hello_as(name)?,
            None => mailer,
        };
        let sessions = match &config.session_keys {
            Some(source) => {
                let keys = match source {
                    SessionKeySource::Pem(pem) => SessionKeys::Pem(pem.clone()),
                    SessionKeySource::Jwks(issuer) => SessionKeys::Jwks { issuer: issuer.clone() },
                };
                let parties = config.authorized_parties.clone();
                Some(SessionVerifier::new(keys, config.clerk_issuer.clone(), parties)?)
            }
            None => None,
        };
        let clerk = match &config.clerk_secret_key {
            Some(key) => {
                let url = Url::parse(&config.clerk_api_url).map_err(|_| BackendSetupError::ApiUrl)?;
                Some(BackendClient::new(&url, key.expose())?)
            }
            None => None,
        };
        Ok(Self {
            mailer,
            sessions,
            clerk,
        })
    }
}
