//! The configuration: what stops the start, what development generates, what is never shown.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use clap::CommandFactory as _;
use usher::cli::Cli;
use usher::config::{Config, ConfigErrors, Settings};
use usher::secret::Secret;

use crate::support::app::settings;
use crate::support::process::environment;

fn complete() -> Settings {
    settings(
        "postgres://usher:hunter2@localhost/app",
        "smtp://mailer:hunter3@localhost:2525",
    )
}

fn resolve(settings: Settings) -> Result<Config, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    settings.resolve_in(folder.path())
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::from(text.to_owned()))
}

#[test]
fn a_wrong_or_missing_setting_stops_the_start_with_its_name() {
    type Change = fn(&mut Settings);
    #[rustfmt::skip]
    let cases: &[(&str, Change)] = &[
        ("USHER_ENV", |s| s.usher_env = Some("staging".into())),
        ("USHER_DATABASE_URL", |s| s.usher_database_url = secret("mysql://localhost/app")),
        ("USHER_LISTEN", |s| s.usher_listen = Some("8080".into())),
        ("USHER_ADMIN_LISTEN", |s| s.usher_admin_listen = Some("everywhere".into())),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| s.clerk_webhook_signing_secret = None),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| s.clerk_webhook_signing_secret = secret("")),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| s.clerk_webhook_signing_secret = secret("whsec_")),
        ("CLERK_WEBHOOK_SIGNING_SECRET", |s| s.clerk_webhook_signing_secret = secret("whsec_not base64")),
        ("CLERK_ISSUER", |s| {
            s.clerk_jwt_key = None;
            s.clerk_issuer = Some("clerk".into());
        }),
        ("CLERK_SECRET_KEY", |s| s.clerk_secret_key = secret(" ")),
        ("CLERK_SECRET_KEY", |s| s.clerk_secret_key = secret("pk_test_Y2xlcms")),
        ("CLERK_JWT_KEY", |s| s.clerk_jwt_key = Some("no key".into())),
        ("CLERK_ISSUER", |s| s.clerk_issuer = Some("https://api.clerk.com/v1/jwks".into())),
        ("CLERK_AUTHORIZED_PARTIES", |s| s.clerk_authorized_parties = Some("https://app.example.com,*".into())),
        ("USHER_DATABASE_URL", |s| s.usher_database_url = secret("sqlite://")),
        ("USHER_DATABASE_URL", |s| s.usher_database_url = secret("sqlite::memory:")),
        ("USHER_DATABASE_URL", |s| s.usher_database_url = secret("sqlite://x.db?mode=memory")),
        ("USHER_DATABASE_URL", |s| s.usher_database_url = secret("sqlite:///")),
        ("DATABASE_URL", |s| {
            s.usher_database_url = None;
            s.database_url = secret("sqlite://");
        }),
        ("MAIL_FROM", |s| s.mail_from = Some("Acme".into())),
        ("MAIL_REPLY_TO", |s| s.mail_reply_to = Some("nobody".into())),
        ("MAIL_UNSUBSCRIBE", |s| s.mail_unsubscribe = Some("http://example.com".into())),
        ("SMTP_URL", |s| s.smtp_url = secret("smtp://u:p@localhost?tls=maybe")),
        ("RUST_LOG", |s| s.rust_log = Some("usher=loud".into())),
        ("LOG_FORMAT", |s| s.log_format = Some("xml".into())),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", |s| s.otel_exporter_otlp_endpoint = Some("collector:4318".into())),
        ("USHER_TOKEN_KEY", |s| s.usher_token_key = secret("a-key-of-at-least-32-characters-in-all,short")),
        ("INVITE_URL", |s| {
            s.invite_url = Some("https://{token}.example.com/invite".into())
        }),
        ("CLERK_API_URL", |s| s.clerk_api_url = Some("api.clerk.com".into())),
        ("USHER_API_KEYS", |s| s.usher_api_keys = None),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret(" , ")),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret("short")),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret("app:sha256:0f")),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret("a-key-of-at-least-32-characters-in-all@a/b")),
        ("USHER_API_KEYS", |s| s.usher_api_keys = secret("app:a-key-of-at-least-32-characters,app:another-key-of-32-characters-and-more")),
        ("USHER_RATE_LIMIT", |s| s.usher_rate_limit = Some("600".into())),
        ("USHER_RATE_LIMIT_PERSON", |s| s.usher_rate_limit_person = Some("0/m".into())),
        ("USHER_RATE_LIMIT_ADDRESS", |s| s.usher_rate_limit_address = Some("10/d".into())),
        ("USHER_TRUSTED_PROXIES", |s| s.usher_trusted_proxies = Some("10.0.0.0/8".into())),
        ("USHER_SYNC_PROFILES", |s| s.usher_sync_profiles = Some("yes".into())),
        ("USHER_IDENTITIES", |s| s.usher_identities = Some("admins.clerk_id".into())),
        ("USHER_IDENTITY_ISSUERS", |s| {
            s.usher_identities = Some("admin_identities".into());
            s.clerk_issuer = None;
        }),
        ("USHER_TOKEN_KEY", |s| s.usher_token_key = None),
        ("USHER_TOKEN_KEY", |s| s.usher_token_key = secret("short")),
        ("SMTP_URL", |s| s.smtp_url = None),
        ("SMTP_URL", |s| s.smtp_url = secret("mail.example.com")),
        ("MAIL_FROM", |s| s.mail_from = None),
        ("INVITE_URL", |s| s.invite_url = None),
        ("USHER_PUBLIC_URL", |s| s.usher_public_url = Some("invites.example.com".into())),
        ("USHER_PUBLIC_URL", |s| s.usher_public_url = Some("https://invites.example.com/#x".into())),
        ("APP_URL", |s| s.app_url = Some("app.example.com".into())),
        ("CLERK_PUBLISHABLE_KEY", |s| s.clerk_publishable_key = Some("sk_test_of_another".into())),
        ("INVITE_URL", |s| s.invite_url = Some("https://app.example.com/invite".into())),
        ("INVITE_URL", |s| {
            s.invite_url = Some("javascript:alert('{token}')".into())
        }),
        ("AUTO_ACCEPT", |s| s.auto_accept = Some("sometimes".into())),
        ("INVITE_TTL", |s| s.invite_ttl = Some("a week".into())),
        ("INVITE_TTL", |s| s.invite_ttl = Some("31d".into())),
        ("INVITE_TTL", |s| s.invite_ttl = Some("+5d".into())),
        ("ORGANIZATION_ROLES", |s| s.organization_roles = Some("a,a".into())),
        ("PROJECT_ROLES", |s| s.project_roles = Some("A B".into())),
        ("ORGANIZATION_INVITE_ROLE", |s| s.organization_invite_role = Some("editor".into())),
        ("PROJECT_INVITE_ROLE", |s| s.project_invite_role = Some("owner".into())),
        ("PROJECT_INVITE_ROLE", |s| {
            s.project_roles = Some("reader,writer".into());
            s.project_invite_role = Some("editor".into());
        }),
        ("MAIL_CAP_ADDRESS", |s| s.mail_cap_address = Some("0".into())),
    ];
    for (variable, change) in cases {
        let mut settings = complete();
        change(&mut settings);
        let errors = resolve(settings).expect_err(variable);
        assert_eq!(errors.0.len(), 1, "{errors}");
        assert_eq!(errors.0[0].variable, *variable, "{errors}");
        assert!(errors.to_string().starts_with(variable));
    }
    resolve(complete()).unwrap();
}

#[test]
fn what_is_written_differently_and_means_the_same_is_brought_into_one_form() {
    let mut settings = complete();
    settings.clerk_issuer = Some("clerk.example.com/.well-known/jwks.json".into());
    settings.clerk_authorized_parties = Some("https://App.example.com:443/dashboard/".into());
    settings.clerk_api_url = Some("https://api.clerk.com/v1/".into());
    let config = resolve(settings).unwrap();
    assert_eq!(config.clerk_issuer.as_deref(), Some("https://clerk.example.com"));
    assert_eq!(config.authorized_parties, ["https://app.example.com"]);
    assert_eq!(config.clerk_api_url, "https://api.clerk.com/");
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
    let mut settings = complete();
    settings.usher_database_url = secret("postgres://usher:hunter2@localhost/app?schema=hunter4&password=hunter5");
    settings.clerk_issuer = Some("https://proxy:hunter6@clerk.example.com".into());
    settings.clerk_api_url = Some("https://proxy:hunter7@api.example.com".into());
    settings.mail_unsubscribe = Some("mailto:stop@example.com,https://u:hunter8@example.com/stop?key=hunter9".into());
    settings.otel_exporter_otlp_endpoint = Some("https://u:hunter10@collector.example.com?key=hunter11".into());
    let config = resolve(settings).unwrap();
    let shown: Vec<String> = config
        .shown()
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert!(!shown.join("\n").contains("hunter"), "{shown:#?}");
    for text in [shown.join("\n"), format!("{config:?}"), format!("{:?}", complete())] {
        for secret in ["hunter3", "C2FVsBQIhrscChlQIMV", "test-api-key", "test-token-key"] {
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

const EXAMPLE: &str = include_str!("../../.env.example");

#[test]
fn the_example_of_env_has_every_setting_with_the_words_of_the_help() {
    let (mut words, mut told) = (Vec::new(), BTreeMap::new());
    for line in EXAMPLE.lines() {
        match line.strip_prefix("# ") {
            Some(comment) => words.push(comment),
            None => {
                if let Some((name, _)) = line.trim_start_matches('#').split_once('=') {
                    let before = told.insert(name.to_owned(), words.join(" "));
                    assert_eq!(before, None, "{name} stands there twice");
                }
                words.clear();
            }
        }
    }
    let mut settings = BTreeMap::new();
    for argument in Cli::command().get_arguments() {
        if let (Some(variable), Some(help)) = (argument.get_env(), argument.get_help()) {
            let help = argument.get_long_help().unwrap_or(help).to_string().replace('\n', " ");
            settings.insert(variable.to_string_lossy().into_owned(), help);
        }
    }
    assert_eq!(told, settings);
}

#[test]
fn the_example_of_env_can_be_copied_and_its_defaults_are_those_in_force() {
    let without_comments = EXAMPLE.replace("\n#", "\n").replace("\n ", "\n# ");
    let nothing = config_with_dot_env("");
    assert_eq!(config_with_dot_env(EXAMPLE), nothing);
    assert_eq!(config_with_dot_env(&without_comments), nothing);
}

/// What `usher config` prints in production with this `.env`.
fn config_with_dot_env(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), text).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_usher"))
        .arg("config")
        .env_clear()
        .envs(environment("sqlite:///var/lib/usher.db", "smtp://localhost:2525"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    // Not shown unless it is set.
    let others = shown.lines().filter(|line| !line.starts_with("RUST_LOG="));
    others.collect::<Vec<_>>().join("\n")
}

/// `usher serve` in an otherwise complete production environment with this change: its exit code and what it said.
fn serve_with(changes: &[(&str, Option<&str>)]) -> (Option<i32>, String) {
    run_with("serve", changes)
}

fn run_with(command: &str, changes: &[(&str, Option<&str>)]) -> (Option<i32>, String) {
    let argument = command;
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("usher.db").display());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_usher"));
    command
        .arg(argument)
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
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
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
        ("USHER_OPS_KEYS", Some("hunter2"), ":view or :operate"),
        ("USHER_OPS_KEYS", Some("ada:hunter2:view"), "32 characters"),
        ("USHER_OPS_HOSTS", Some("https://hunter2.example"), "host names"),
        ("USHER_KEEP_AUDIT", Some("for ever"), "7d"),
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
        ("RUST_LOG", Some("info,usher=loud"), "usher=loud"),
        ("RUST_LOG", Some("verbose"), "verbose"),
        ("CLERK_AUTHORIZED_PARTIES", Some("https://*.example.com"), "wildcards"),
        ("CLERK_ISSUER", Some("https://dashboard.clerk.com"), "Frontend API"),
        ("USHER_DATABASE_URL", Some("sqlite://"), "names no file"),
        ("USHER_DATABASE_URL", Some("sqlite::memory:"), "in memory"),
        ("USHER_DATABASE_URL", Some("sqlite://x.db?mode=memory"), "in memory"),
        ("USHER_DATABASE_URL", Some("sqlite://x.db?mode=ro"), "reading only"),
        ("USHER_DATABASE_URL", Some("sqlite:///tmp"), "folder"),
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
        said.contains("USHER_TOKEN_KYE is not a setting of usher; did you mean USHER_TOKEN_KEY?"),
        "{said}"
    );
}

#[test]
fn everything_that_is_missing_or_wrong_is_named_at_once_by_the_start_and_by_the_check() {
    let wrong: &[(&str, Option<&str>)] = &[
        ("USHER_LISTEN", Some("8080")),
        ("CLERK_WEBHOOK_SIGNING_SECRET", None),
        ("CLERK_JWT_KEY", Some("no key")),
        ("CLERK_ISSUER", Some("https://api.clerk.com")),
        ("CLERK_AUTHORIZED_PARTIES", Some("app.example.com,*")),
        ("USHER_API_KEYS", None),
        ("USHER_TOKEN_KEY", Some("hunter2")),
        ("SMTP_URL", None),
        ("MAIL_FROM", None),
        ("MAIL_REPLY_TO", Some("nobody")),
        ("INVITE_URL", None),
        ("INVITE_TTL", Some("a week")),
        ("USHER_KEEP_JOBS", Some("a while")),
        ("PROJECT_ROLES", Some("A B")),
        ("TEMPLATES_DIR", Some("/there/is/nothing")),
        ("RUST_LOG", Some("usher=loud")),
        ("LOG_FORMAT", Some("xml")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", Some("collector")),
    ];
    for command in ["serve", "check", "migrate", "config"] {
        let (code, said) = run_with(command, wrong);
        assert_eq!(code, Some(1), "{said}");
        for (variable, _) in wrong {
            assert!(
                said.contains(&format!("\n  {variable} ")),
                "{command}: no {variable} in: {said}"
            );
        }
        assert!(said.contains("entry 1") && said.contains("entry 2"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    // Without a log to set up, the check has a line for each.
    let (code, said) = run_with("check", &wrong[..12]);
    assert_eq!(code, Some(1), "{said}");
    let lines = said
        .lines()
        .filter(|line| line.starts_with("FAIL  configuration"))
        .count();
    assert_eq!(lines, 13, "{said}");
}

#[test]
fn an_empty_variable_is_as_if_it_were_not_there() {
    let command = Cli::command();
    let names: Vec<&str> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .collect();
    let needed = environment("sqlite://usher.db", "smtp://localhost:2525");
    let others: Vec<&str> = names
        .into_iter()
        .filter(|name| !needed.iter().any(|(known, _)| known == name))
        .collect();
    assert!(others.len() > 25, "{others:?}");
    let empty: Vec<(&str, Option<&str>)> = others.iter().map(|name| (*name, Some(""))).collect();
    let (code, with_empty) = run_with("config", &empty);
    assert_eq!(code, Some(0), "{with_empty}");
    let without_folder = |said: &str| -> Vec<String> {
        let lines = said.lines().filter(|line| !line.starts_with("USHER_DATABASE_URL="));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(without_folder(&with_empty), without_folder(&run_with("config", &[]).1));
    // What production needs is missing when it is empty, and said to be.
    let (code, said) = serve_with(&[("SMTP_URL", Some("")), ("USHER_TOKEN_KEY", Some(" "))]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("SMTP_URL is missing") && said.contains("USHER_TOKEN_KEY is missing"),
        "{said}"
    );
}

#[test]
fn a_misspelt_variable_is_told_whatever_it_begins_with_and_other_programs_are_not() {
    let (_, said) = serve_with(&[
        ("CLERK_ISUER", Some("x")),
        ("MAIL_FORM", Some("x")),
        ("INVITE_TLL", Some("x")),
        ("CLERK_SIGN_IN_URL", Some("x")),
        ("APP_ENV", Some("x")),
        ("MAIL_HOST", Some("x")),
        ("USHER_LISTEN", Some("8080")),
    ]);
    for (name, meant) in [
        ("CLERK_ISUER", "CLERK_ISSUER"),
        ("MAIL_FORM", "MAIL_FROM"),
        ("INVITE_TLL", "INVITE_TTL"),
    ] {
        let told = format!("{name} is not a setting of usher; did you mean {meant}?");
        assert!(said.contains(&told), "{said}");
    }
    for name in ["CLERK_SIGN_IN_URL", "APP_ENV", "MAIL_HOST"] {
        assert!(!said.contains(name), "{said}");
    }
}

#[test]
fn help_names_every_variable_and_shows_no_value() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["help", "settings"])
        .env_clear()
        .env("CLERK_ISSUER", "https://u:hunter2@clerk.example.com")
        .env("MAIL_UNSUBSCRIBE", "https://example.com?key=hunter2")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("[env: CLERK_ISSUER]") && said.contains("[env: SMTP_URL]"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}
