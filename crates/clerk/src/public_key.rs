//! The public key that signs session tokens, as people paste it: one PEM, and the many forms that environment files,
//! panels and shells make of it.

use aws_lc_rs::rsa::PublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::DecodingKey;

use super::SessionVerifierError;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// RS256 asks for so many bits at least.
const MIN_BITS: usize = 2048;

/// Reads the key. Line ends may be missing, written as `\n`, or have a backslash before them; quotes may stand around it;
/// and all of it may be in base64.
pub(crate) fn read(text: &str) -> Result<DecodingKey, SessionVerifierError> {
    let pem = armored(text).ok_or(SessionVerifierError::NotAPublicKey)?;
    if pem.label.contains("PRIVATE KEY") {
        return Err(SessionVerifierError::PrivateKey);
    }
    let not_a_key = SessionVerifierError::NotAPublicKey;
    let Ok(key) = DecodingKey::from_rsa_pem(pem.text().as_bytes()) else {
        return Err(not_a_key);
    };
    // `from_rsa_pem` looks at the wrapping only, and a bad key would refuse every token later.
    let Some(parsed) = key
        .try_get_as_bytes()
        .ok()
        .and_then(|der| PublicKey::from_der(der).ok())
    else {
        return Err(not_a_key);
    };
    let bits = parsed.modulus_len() * 8;
    if bits < MIN_BITS {
        return Err(SessionVerifierError::KeyTooShort { bits });
    }
    Ok(key)
}

struct Pem {
    label: String,
    /// Base64 without white space.
    body: String,
}

impl Pem {
    fn text(&self) -> String {
        let Self { label, body } = self;
        format!("{BEGIN}{label}{DASHES}\n{body}\n{END}{label}{DASHES}\n")
    }
}

/// The PEM in a text, or in what the text is the base64 of.
fn armored(text: &str) -> Option<Pem> {
    if let Some(pem) = pem_in(text) {
        return Some(pem);
    }
    let body = bare(text);
    let bytes = STANDARD.decode(&body).ok()?;
    match std::str::from_utf8(&bytes) {
        Ok(inner) => pem_in(inner),
        // The body alone, its first and last line cut off.
        Err(_) => Some(Pem {
            label: "PUBLIC KEY".to_owned(),
            body,
        }),
    }
}

fn pem_in(text: &str) -> Option<Pem> {
    let (_, rest) = text.split_once(BEGIN)?;
    let (label, rest) = rest.split_once(DASHES)?;
    let (body, _) = rest.split_once(END)?;
    Some(Pem {
        label: label.to_owned(),
        body: bare(body),
    })
}

/// Base64 without what line ends and quotes leave in it.
fn bare(text: &str) -> String {
    let text = text.replace("\\r", "").replace("\\n", "");
    text.chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '\\' | '"' | '\''))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::DevSigner;
    use super::*;

    #[test]
    fn a_key_is_read_however_it_was_pasted() {
        let pem = DevSigner::generate().unwrap().public_pem().unwrap();
        let key = read(&pem).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        for text in [
            pem.replace('\n', "\\n"),
            pem.replace('\n', "\\r\\n"),
            pem.replace('\n', "\r\n"),
            pem.replace('\n', "\\\n"),
            pem.replace('\n', "\\\\n"),
            pem.replace('\n', " "),
            pem.replace('\n', ""),
            format!("\"{pem}\""),
            format!("'{}'", pem.replace('\n', "\\n")),
            format!("  {pem}\n\n"),
            STANDARD.encode(&pem),
            STANDARD.encode(pem.replace('\n', "\r\n")),
            format!("\"{}\"\n", STANDARD.encode(&pem)),
            body,
        ] {
            let again = read(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(
                again.try_get_as_bytes().unwrap(),
                key.try_get_as_bytes().unwrap(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_that_is_too_short_is_told_with_its_length() {
        let short = "-----BEGIN PUBLIC KEY-----\n\
            MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDH3kvIZdYAGcMg9Jq8wuNlwdtS\n\
            oC4hMDU1kuU7/Cl4SHKe8GDUsnXeKK1gN8ZfC5UFSUtNFTnUeJYH8uEaeeWUw3QU\n\
            J63mrNJk3e53KVsHfuFkglL6gK4apzncekj2cnPpKyu+jv3ZsKRPPhmfOawgc6Az\n\
            mUQVst3mxw0HBluZHQIDAQAB\n\
            -----END PUBLIC KEY-----\n";
        let error = read(short).unwrap_err();
        assert!(
            matches!(error, SessionVerifierError::KeyTooShort { bits: 1024 }),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_public_key_is_told_without_being_repeated() {
        let signer = DevSigner::generate().unwrap();
        let private = signer.to_pkcs8_pem().unwrap();
        for (text, expected) in [
            (String::new(), "not an RSA public key"),
            ("sk_test_secret".to_owned(), "not an RSA public key"),
            (STANDARD.encode("hunter2"), "not an RSA public key"),
            (private.clone(), "a private key"),
            (STANDARD.encode(&private), "a private key"),
            (private.replace('\n', "\\n"), "a private key"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error} for {text:?}");
        }
    }
}
