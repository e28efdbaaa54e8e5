//! What development generates in the place of secrets that nobody gave.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::{ConfigError, wrong};
use crate::api_key::hex;
use usher_base::private;
use usher_clerk::DevSigner;

/// Secrets that development generates once and keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct DevSecrets {
    /// A webhook signing secret.
    pub signing_secret: String,
    /// An API key.
    pub api_key: String,
    /// The key for links.
    pub token_key: String,
    /// The private key that development's session tokens are signed with, in Clerk's place.
    pub session_key: String,
}

impl DevSecrets {
    /// The issuer of development's session tokens.
    pub const ISSUER: &str = "https://clerk.usher.localhost";

    /// Reads the secrets from `folder`, or generates them there for its owner's eyes only.
    ///
    /// # Errors
    /// [`ConfigError`] when the file can't be read or written.
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
            api_key: format!("dev_{}", hex(&random_bytes())),
            token_key: hex(&random_bytes()),
            session_key: signer.to_pkcs8_pem()?,
        })
    }

    fn write(&self, folder: &Path, path: &Path) -> std::io::Result<()> {
        use std::io::Write as _;
        private::create_folder(folder)?;
        let mut file = private::create_new(path)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)
    }
}

/// 32 bytes from the system's generator.
fn random_bytes() -> [u8; 32] {
    rand::random()
}
