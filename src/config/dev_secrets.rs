//! The secrets that development generates if they are not set.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::{ConfigError, wrong};
use crate::secret::Secret;
use usher_base::private;
use usher_clerk::DevSigner;

/// Generated once and stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct DevSecrets {
    pub signing_secret: String,
    pub api_key: String,
    pub token_key: String,
    /// The private key that signs development's session tokens instead of Clerk.
    pub session_key: String,
    /// What events are signed with. Missing in the files of earlier versions.
    #[serde(default)]
    pub events_secret: Option<String>,
}

impl DevSecrets {
    pub const ISSUER: &str = "https://clerk.usher.localhost";

    /// Reads the secrets from `folder`, or generates them there, readable only by the owner.
    pub fn load_or_generate(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join("dev-secrets.json");
        let problem = |what: &str, error: &dyn std::fmt::Display| {
            wrong(
                "USHER_ENV",
                format!("is development, but {} could not be {what}: {error}", path.display()),
            )
        };
        match std::fs::read(&path) {
            Ok(bytes) => {
                private::warn_if_open_to_all(&path);
                serde_json::from_slice(&bytes).map_err(|error| problem("read", &error))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let secrets = Self::generate().map_err(|error| problem("generated", &error))?;
                secrets
                    .write(folder, &path)
                    .map_err(|error| problem("written", &error))?;
                Ok(secrets)
            }
            Err(error) => Err(problem("read", &error)),
        }
    }

    /// Fresh ones.
    ///
    /// # Errors
    /// When the key pair can't be generated.
    pub fn generate() -> Result<Self, usher_clerk::SigningError> {
        let signer = DevSigner::generate()?;
        Ok(Self {
            signing_secret: format!("whsec_{}", STANDARD.encode(random_bytes())),
            api_key: format!("dev_{}", hex::encode(random_bytes())),
            token_key: hex::encode(random_bytes()),
            session_key: signer.to_pkcs8_pem()?,
            events_secret: Some(format!("whsec_{}", STANDARD.encode(random_bytes()))),
        })
    }

    fn write(&self, folder: &Path, path: &Path) -> std::io::Result<()> {
        use std::io::Write as _;
        private::create_folder(folder)?;
        let mut file = private::create_new(path)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)
    }
}

/// A key for the board that holds as long as this process.
pub(super) fn ops_key() -> Secret {
    Secret::from(hex::encode(random_bytes()))
}

fn random_bytes() -> [u8; 32] {
    rand::random()
}
