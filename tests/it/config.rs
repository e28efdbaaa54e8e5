//! The configuration: what stops the start, what development generates, what is never shown.

use std::os::unix::fs::PermissionsExt as _;

use clap::CommandFactory as _;
use usher::cli::Cli;
use usher::config::{Config, ConfigError, Settings};
use usher::secret::Secret;

use crate::support::app::settings;
use crate::support::process::environment;

fn complete() -> Settings {
    settings(
        "postgres://usher:hunter2@localhost/app",
        "smtp://mailer:hunter3@localhost:2525",
    )
}

fn resolve(settings: Settings) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    settings.resolve_in(folder.path())
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::from(text.to_owned()))
}

#[test]
fn a_wrong_or_missing_setting_stops_the_start_with_its_name() {
    type Change = fn(&mut Settings);
    let cases: &[(&str, Change)] = &[
        ("USHER_ENV", |s| s.usher_env = Some("staging".into())),
        ("USHER_DATABASE_URL", |s| {
            s.usher_database_url = secret("mysql://localhost/app")
        }),
        ("USHER_LISTEN", |s| s.usher_listen = Some("8080".into())),
        ("USHER_ADMIN_LISTEN", |s| {
            s.usher_admin_listen = Some("everywhere".into())
        }),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| {
            s.clerk_webhook_signing_secret = None
        }),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| {
            s.clerk_webhook_signing_secret = secret("")
        }),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| {
            s.clerk_webhook_signing_secret = secret("whsec_")
        }),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| {
            s.clerk_webhook_signing_secret = secret("whsec_not base64")
        }),
        ("CLERK_ISSUER", |s| {
            s.clerk_jwt_key = None;
            s.clerk_issuer = Some("clerk".into());
        }),
        ("CLERK_SECRET_KEY", |s| s.clerk_secret_key = secret(" ")),
        ("CLERK_API_URL", |s| s.clerk_api_url = Some("api.clerk.com".into())),
        ("USHER_API_KEYS", |s| s.usher_api_keys = None),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret(" , ")),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret("short")),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret("app:sha256:0f")),
        ("USHER_API_KEYS", |s| {
            s.usher_api_keys = secret("a-key-of-at-least-32-characters-in-all@acme")
        }),
        ("USHER_API_KEYS", |s| {
            s.usher_api_keys = secret("app:a-key-of-at-least-32-characters,app:another-key-of-32-characters-and-more")
        }),
        ("USHER_RATE_LIMIT", |s| s.usher_rate_limit = Some("600".into())),
        ("USHER_RATE_LIMIT_PERSON", |s| {
            s.usher_rate_limit_person = Some("0/m".into())
        }),
        ("USHER_RATE_LIMIT_ADDRESS", |s| {
            s.usher_rate_limit_address = Some("10/d".into())
        }),
        ("USHER_TRUSTED_PROXIES", |s| {
            s.usher_trusted_proxies = Some("10.0.0.0/8".into())
        }),
        ("USHER_IDENTITIES", |s| {
            s.usher_identities = Some("admins.clerk_id".into())
        }),
        ("USHER_IDENTITY_ISSUER", |s| {
            s.usher_identities = Some("admin_identities".into());
            s.clerk_issuer = None;
        }),
        ("USHER_TOKEN_KEY", |s| s.usher_token_key = None),
        ("USHER_TOKEN_KEY", |s| s.usher_token_key = secret("short")),
        ("SMTP_URL", |s| s.smtp_url = None),
        ("SMTP_URL", |s| s.smtp_url = secret("mail.example.com")),
        ("MAIL_FROM", |s| s.mail_from = None),
        ("INVITE_URL", |s| s.invite_url = None),
        ("INVITE_URL", |s| {
            s.invite_url = Some("https://app.example.com/invite".into())
        }),
        ("INVITE_URL", |s| {
            s.invite_url = Some("javascript:alert('{token}')".into())
        }),
        ("AUTO_ACCEPT", |s| s.auto_accept = Some("sometimes".into())),
        ("INVITE_TTL", |s| s.invite_ttl = Some("a week".into())),
        ("INVITE_TTL", |s| s.invite_ttl = Some("31d".into())),
        ("INVITE_TTL", |s| s.invite_ttl = Some("+5d".into())),
        ("ORGANIZATION_ROLES", |s| s.organization_roles = Some("a,a".into())),
        ("PROJECT_ROLES", |s| s.project_roles = Some("A B".into())),
    ];
    for (variable, change) in cases {
        let mut settings = complete();
        change(&mut settings);
        let error = resolve(settings).expect_err(variable);
        assert_eq!(&error.variable, variable, "{error}");
        assert!(error.to_string().starts_with(variable));
    }
    resolve(complete()).unwrap();
}

#[test]
fn the_old_name_of_the_webhook_secret_and_database_url_are_taken() {
    let mut settings = complete();
    settings.clerk_webhook_secret = settings.clerk_webhook_signing_secret.take();
    settings.database_url = settings.usher_database_url.take();
    let config = resolve(settings).unwrap();
    assert_eq!(config.signing_secrets.len(), 1);
    assert_eq!(config.database_url.expose(), "postgres://usher:hunter2@localhost/app");
}

#[test]
fn development_is_the_default_without_a_database_and_keeps_what_it_generates_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let first = Settings::default().resolve_in(folder.path()).unwrap();
    let again = Settings::default().resolve_in(folder.path()).unwrap();
    assert_eq!(first.api_keys, again.api_keys);
    assert!(first.database_url.expose().starts_with("sqlite://"));
    let file = std::fs::metadata(folder.path().join("dev-secrets.json")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let with_database = Settings {
        usher_database_url: secret("sqlite://usher.db"),
        ..Settings::default()
    };
    assert!(
        with_database.resolve_in(folder.path()).is_err(),
        "production generates nothing"
    );
}

#[test]
fn nothing_that_is_shown_or_logged_holds_a_secret() {
    let config = resolve(complete()).unwrap();
    let shown: Vec<String> = config
        .shown()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    for text in [shown.join("\n"), format!("{config:?}"), format!("{:?}", complete())] {
        for secret in [
            "hunter2",
            "hunter3",
            "C2FVsBQIhrscChlQIMV",
            "test-api-key",
            "test-token-key",
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn the_readme_documents_every_setting_as_the_help_does() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let mut table = String::from("| variable | what it sets |\n|---|---|\n");
    for argument in Cli::command().get_arguments() {
        let (Some(variable), Some(help)) = (argument.get_env(), argument.get_help()) else {
            continue;
        };
        let help = argument
            .get_long_help()
            .unwrap_or(help)
            .to_string()
            .replace('\n', " ")
            .replace('|', "\\|");
        table.push_str(&format!("| `{}` | {help} |\n", variable.to_string_lossy()));
    }
    assert!(readme.contains(&table), "README.md's table must be:\n{table}");
    let shown = resolve(complete()).unwrap().shown();
    for (name, _) in shown {
        assert!(
            table.contains(&format!("`{name}`")),
            "{name} is shown, but can't be set"
        );
    }
}

/// `usher serve` in an otherwise complete production environment with this change: its exit code and what it said.
fn serve_with(changes: &[(&str, Option<&str>)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("usher.db").display());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command
        .arg("serve")
        .env_clear()
        .envs(environment(&database, "smtp://localhost:2525"))
        .current_dir(folder.path());
    for (variable, value) in changes {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_mistake_stops_the_process_with_a_sentence_that_names_the_variable() {
    let cases: &[(&str, Option<&str>, &str)] = &[
        ("CLERK_WEBHOOK_SIGNING_SECRET", Some(""), "is missing"),
        ("CLERK_WEBHOOK_SIGNING_SECRET", None, "is missing"),
        ("CLERK_WEBHOOK_SIGNING_SECRET", Some("whsec_!!!"), "base64"),
        ("CLERK_JWT_KEY", Some("no key"), "CLERK_JWT_KEY"),
        ("USHER_TOKEN_KEY", Some("hunter2"), "at least 32 characters"),
        ("USHER_API_KEYS", Some("hunter2"), "32 characters"),
        ("INVITE_URL", Some("https://app.example.com/invite"), "{token}"),
        ("INVITE_URL", Some("app.example.com/{token}"), "http"),
        (
            "USHER_DATABASE_URL",
            Some("mysql://hunter2@localhost/app"),
            "postgres:// or sqlite://",
        ),
        ("SMTP_URL", Some("mail.example.com"), "smtp://"),
        ("SMTP_URL", Some("smtp://"), "host"),
        ("SMTP_URL", Some("smtp://mail.example.com?tls=maybe"), "tls"),
        ("MAIL_FROM", Some("Acme"), "address"),
        ("MAIL_REPLY_TO", Some("nobody"), "address"),
        ("AUTO_ACCEPT", Some("sometimes"), "new-users"),
        ("USHER_ENV", Some("staging"), "development or production"),
        ("LOG_FORMAT", Some("xml"), "text or json"),
        ("USHER_LISTEN", Some("8080"), "address and a port"),
        ("USHER_DRAIN_TIME", Some("soon"), "10s"),
        ("USHER_DRAIN_TIME", Some("301s"), "5m"),
        ("USHER_MAX_CONNECTIONS", Some("0"), "from 1 to"),
        ("USHER_MAX_CONNECTIONS", Some("many"), "from 1 to"),
        ("USHER_KEEP_JOBS", Some("a while"), "7d"),
        ("USHER_KEEP_PAYLOADS", Some("100d"), "USHER_KEEP_EVENTS"),
        ("USHER_KEEP_IDEMPOTENCY_KEYS", Some("1h"), "1d"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", Some("collector:4318"), "http://"),
        ("TEMPLATES_DIR", Some("/there/is/nothing"), "TEMPLATES_DIR"),
    ];
    for (variable, value, words) in cases {
        let (code, said) = serve_with(&[(variable, *value)]);
        assert_eq!(code, Some(1), "{variable}={value:?}: {said}");
        assert!(
            said.contains(variable) && said.contains(words),
            "{variable}={value:?}: {said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn an_unknown_variable_of_usher_s_is_told_with_the_nearest_name() {
    // The second change lets it end.
    let (code, said) = serve_with(&[("USHER_TOKEN_KYE", Some("x")), ("USHER_LISTEN", Some("8080"))]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("USHER_TOKEN_KYE is no setting of usher's; did you mean USHER_TOKEN_KEY?"),
        "{said}"
    );
}
