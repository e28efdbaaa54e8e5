//! Reads a Postgres address. What usher can't do with it gets a sentence; what is meant for other programs is left out.

use std::fs;

use sqlx::postgres::PgConnectOptions;
use url::Url;

/// A character that must be percent-encoded moves the rest of a password elsewhere, so nothing of the address is repeated.
const UNREADABLE: &str = "can't be understood; it looks like postgres://user:password@host:5432/database, where @ : / ? # % in a \
     user or a password are written as %40 %3A %2F %3F %23 %25";
const SEVERAL_HOSTS: &str = "names several hosts, and usher connects to one; name the primary, or a host name that always leads \
     to it";
const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// What the client understands, besides those about TLS.
const UNDERSTOOD: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
];

/// What other clients read from the same address, and what is of no use to usher: it has timeouts and pools of its own, finds
/// its tables by `USHER_TABLES`, and checks itself that the server can be written to.
const LEFT_OUT: &[&str] = &[
    // libpq
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "sslcompression",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    // Prisma
    "connection_limit",
    "pgbouncer",
    "pool_timeout",
    "schema",
    "socket_timeout",
    "sslaccept",
    "statement_cache_size",
    // Rails, pgx, Supabase, Vercel
    "default_query_exec_mode",
    "encoding",
    "pool",
    "pool_max_conns",
    "pool_min_conns",
    "prepared_statements",
    "supa",
    "workaround",
];

/// # Errors
/// What is wrong, as the rest of a sentence that begins with the variable's name. It has no password in it.
pub(crate) fn read(url: &str) -> Result<PgConnectOptions, String> {
    let mut parsed = Url::parse(url).map_err(|_| if_unreadable(url))?;
    if parsed.fragment().is_some() || parsed.path().contains('@') {
        return Err(UNREADABLE.to_owned());
    }
    if parsed.host_str().is_some_and(|host| host.contains(',')) {
        return Err(SEVERAL_HOSTS.to_owned());
    }
    let mut tls = Tls::default();
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in parsed.query_pairs() {
        match &*name {
            "sslmode" | "ssl-mode" if SSL_MODES.contains(&&*value) => tls.mode = Some(value.into_owned()),
            "sslmode" | "ssl-mode" => {
                return Err(format!("has an unknown sslmode; it is one of {}", SSL_MODES.join(", ")));
            }
            "ssl" => return Err("has the parameter ssl, which usher does not know; write sslmode=require".to_owned()),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => tls.authority = Some(value.into_owned()),
            "sslcert" | "ssl-cert" => tls.certificate = Some(value.into_owned()),
            "sslkey" | "ssl-key" => tls.key = Some(value.into_owned()),
            "host" | "hostaddr" | "port" if value.contains(',') => return Err(SEVERAL_HOSTS.to_owned()),
            name if LEFT_OUT.contains(&name) => {}
            name if UNDERSTOOD.contains(&name) || name.starts_with("options[") => {
                kept.push((name.to_owned(), value.into_owned()));
            }
            // It may be half of a password.
            name if value.contains('@') || !name.bytes().all(|b| b.is_ascii_lowercase() || b"_-".contains(&b)) => {
                return Err(UNREADABLE.to_owned());
            }
            name => {
                return Err(format!(
                    "has the parameter {name}, which usher does not know; leave it out"
                ));
            }
        }
    }
    kept.extend(tls.parameters()?);
    parsed.set_query(None);
    if !kept.is_empty() {
        parsed.query_pairs_mut().extend_pairs(kept);
    }
    parsed.as_str().parse().map_err(|_| UNREADABLE.to_owned())
}

/// Whether the address asks for a protection that usher does not have, and names no other one against who is in between.
pub(crate) fn asks_for_channel_binding(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let has = |name: &str, values: &[&str]| {
        url.query_pairs()
            .any(|(key, value)| key == name && values.contains(&&*value))
    };
    has("channel_binding", &["require"])
        && !has("sslmode", &["verify-ca", "verify-full"])
        && !has("sslrootcert", &["system"])
}

fn if_unreadable(url: &str) -> String {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    if hosts.contains(',') { SEVERAL_HOSTS } else { UNREADABLE }.to_owned()
}

#[derive(Default)]
struct Tls {
    mode: Option<String>,
    authority: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Tls {
    /// As libpq reads them: the authorities that `system` trusts are those that the client trusts anyway, and with it the
    /// host's name is compared; who names an authority and requires TLS wants the certificate verified.
    fn parameters(mut self) -> Result<Vec<(String, String)>, String> {
        if self.authority.as_deref() == Some("system") {
            self.authority = None;
            self.mode = Some("verify-full".to_owned());
        } else if self.authority.is_some() && self.mode.as_deref() == Some("require") {
            self.mode = Some("verify-ca".to_owned());
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err("has one of sslcert and sslkey; give both, or none".to_owned());
        }
        let all = [
            ("sslmode", self.mode),
            ("sslrootcert", self.authority),
            ("sslcert", self.certificate),
            ("sslkey", self.key),
        ];
        let mut parameters = Vec::new();
        for (name, value) in all {
            let Some(value) = value else { continue };
            if name != "sslmode" {
                check_pem(name, &value)?;
            }
            parameters.push((name.to_owned(), value));
        }
        Ok(parameters)
    }
}

/// A file is read only when a connection is opened, and what fails there is taken for a server that is away.
fn check_pem(name: &str, path: &str) -> Result<(), String> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    if path.trim().as_bytes().starts_with(BEGIN) {
        return Ok(());
    }
    let text =
        fs::read(path).map_err(|error| format!("names the file {path} in {name}, which can't be read: {error}"))?;
    if text.windows(BEGIN.len()).any(|part| part == BEGIN) {
        Ok(())
    } else {
        Err(format!("names the file {path} in {name}, which is no PEM file"))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions as _;

    use super::*;

    #[track_caller]
    fn refused(url: &str) -> String {
        let said = read(url).expect_err(url);
        assert!(!said.contains("hunter") && !said.contains("2@"), "{url}: {said}");
        said
    }

    #[test]
    fn a_password_that_is_not_encoded_is_told_as_that_and_not_repeated() {
        for url in [
            "postgres://usher:hunter@2/w#rd@db.example.com/app",
            "postgres://usher:hunter@ss/hunter@db.example.com/app",
            "postgres://usher:hunter/2@db.example.com/app",
            "postgres://usher:hunter?2@db.example.com/app",
            "postgres://usher:12/hunter@db.example.com/app",
            "postgres://usher:12?hunter@db.example.com/app",
            "postgres://usher:12?hunter=x@db.example.com/app",
            "postgres://usher:hunter#2@db.example.com/app",
            "postgres://usher:12#hunter@db.example.com/app",
            "postgres://db.example.com:port/app",
            "postgres://db.example.com:99999/app",
        ] {
            let said = refused(url);
            assert!(
                said.contains("can't be understood") && said.contains("%40"),
                "{url}: {said}"
            );
        }
        let options = read("postgres://us%40er:p%40ss%2Fw%23rd@db.example.com/app").unwrap();
        assert_eq!(
            (options.get_username(), options.get_host()),
            ("us@er", "db.example.com")
        );
        // The last one ends the password, as other programs read it.
        assert_eq!(
            read("postgres://usher:p@ss@db.example.com/app").unwrap().get_host(),
            "db.example.com"
        );
    }

    #[test]
    fn one_host_is_connected_to() {
        for url in [
            "postgres://usher:hunter2@one,two/app",
            "postgres://usher:hunter2@one:5432,two:5432/app",
            "postgres://one,two:5433/app?target_session_attrs=read-write",
            "postgres:///app?host=one,two",
            "postgres:///app?host=one&port=5432,5433",
        ] {
            assert!(refused(url).contains("several hosts"), "{url}");
        }
        let options = read("postgres:///app?host=/run/postgresql&user=us@er").unwrap();
        assert_eq!(options.get_username(), "us@er");
        assert_eq!(
            read("postgres:///app?host=db.example.com&port=5433")
                .unwrap()
                .get_port(),
            5433
        );
    }

    #[test]
    fn what_other_programs_read_is_left_out_and_what_is_unknown_is_named() {
        for parameters in [
            "schema=public",
            "pgbouncer=true&connection_limit=1",
            "channel_binding=require&sslmode=require",
            "connect_timeout=10&target_session_attrs=read-write&keepalives=1",
            "prepared_statements=false&pool=5",
            "sslmode=verify-full&options=-c%20geqo=off&application_name=app",
        ] {
            let options = read(&format!("postgres://usher:x@db.example.com/app?{parameters}"));
            assert_eq!(options.expect(parameters).get_database(), Some("app"));
        }
        for (parameters, words) in [
            ("sslmod=require", "the parameter sslmod,"),
            ("sslmode=no-verify", "an unknown sslmode"),
            ("sslmode=hunter2", "an unknown sslmode"),
            ("ssl=true", "write sslmode=require"),
            ("require_auth=scram-sha-256", "the parameter require_auth,"),
        ] {
            let said = refused(&format!("postgres://usher:x@db.example.com/app?{parameters}"));
            assert!(said.contains(words), "{parameters}: {said}");
        }
    }

    #[test]
    fn certificates_are_looked_at_before_a_server_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(at("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        fs::write(at("text"), "no certificate").unwrap();
        let (pem, text, none) = (at("ca.pem"), at("text"), at("none.pem"));
        let read = |parameters: String| read(&format!("postgres://db.example.com/app?{parameters}"));
        for parameters in [
            format!("sslmode=verify-full&sslrootcert={pem}"),
            format!("sslcert={pem}&sslkey={pem}"),
            "sslrootcert=system".to_owned(),
        ] {
            read(parameters.clone()).expect(&parameters);
        }
        for (parameters, words) in [
            (
                format!("sslrootcert={none}"),
                "none.pem in sslrootcert, which can't be read: No such file",
            ),
            (
                format!("sslrootcert={text}"),
                "text in sslrootcert, which is no PEM file",
            ),
            (
                format!("sslrootcert={}", folder.path().display()),
                "which can't be read",
            ),
            (
                format!("sslcert={none}&sslkey={pem}"),
                "none.pem in sslcert, which can't be read",
            ),
            (
                format!("sslcert={pem}&sslkey={none}"),
                "none.pem in sslkey, which can't be read",
            ),
            (format!("sslcert={pem}"), "give both"),
        ] {
            let said = read(parameters).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
        let mode = |parameters: String| read(parameters).unwrap().to_url_lossy().query().unwrap().to_owned();
        assert!(mode("sslrootcert=system&sslmode=require".to_owned()).contains("sslmode=verify-full"));
        assert!(mode(format!("sslrootcert={pem}&sslmode=require")).contains("sslmode=verify-ca"));
        assert!(mode("sslmode=require".to_owned()).contains("sslmode=require"));
    }

    #[test]
    fn channel_binding_is_missed_where_nothing_else_verifies_the_server() {
        for (parameters, is_missed) in [
            ("channel_binding=require&sslmode=require", true),
            ("channel_binding=prefer&sslmode=require", false),
            ("channel_binding=require&sslmode=verify-full", false),
            ("channel_binding=require&sslrootcert=system", false),
            ("sslmode=require", false),
        ] {
            let url = format!("postgres://db.example.com/app?{parameters}");
            assert_eq!(asks_for_channel_binding(&url), is_missed, "{parameters}");
        }
    }
}
