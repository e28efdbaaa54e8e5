//! Everything that can be set, as it was given. What is empty is absent: see `sources`.

use std::path::PathBuf;

use crate::secret::Secret;

/// Everything that can be set, by environment variable, `.env`, or a flag of the same name.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Settings {
    /// `development` generates missing secrets and writes mails to files; `production` insists on everything. Default:
    /// development while no database address is given.
    #[arg(long, env = "USHER_ENV", global = true, value_name = "development|production")]
    pub usher_env: Option<String>,
    /// Where the data lives: `postgres://…` or `sqlite://path`. Default: `sqlite://var/usher.db`.
    #[arg(
        long,
        env = "USHER_DATABASE_URL",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub usher_database_url: Option<Secret>,
    /// Taken where `USHER_DATABASE_URL` is absent.
    #[arg(
        long,
        env = "DATABASE_URL",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Option<Secret>,
    /// The public address that webhooks and the app come to. Default: `127.0.0.1:8080`.
    #[arg(long, env = "USHER_LISTEN", global = true, value_name = "ADDRESS:PORT")]
    pub usher_listen: Option<String>,
    /// The private address for health and metrics. Default: `127.0.0.1:9090`.
    #[arg(long, env = "USHER_ADMIN_LISTEN", global = true, value_name = "ADDRESS:PORT")]
    pub usher_admin_listen: Option<String>,
    /// How long a process that is asked to end goes on taking requests while `/readyz` already says that it stops, such
    /// as `10s` (at most `5m`), or `off`: longer than your load balancer needs to notice. Default: `5s`; in development
    /// `off`.
    #[arg(long, env = "USHER_DRAIN_TIME", global = true, value_name = "DURATION")]
    pub usher_drain_time: Option<String>,
    /// How many connections the public address has at most; one more closes one that keeps it waiting. The private
    /// address has its own. Default: `16384`, or as many as the limit of open files leaves room for.
    #[arg(long, env = "USHER_MAX_CONNECTIONS", global = true, value_name = "NUMBER")]
    pub usher_max_connections: Option<String>,
    /// The webhook's signing secrets (`whsec_…`), comma-separated: two while one is being rotated.
    #[arg(
        long,
        env = "CLERK_WEBHOOK_SIGNING_SECRET",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub clerk_webhook_signing_secret: Option<Secret>,
    /// The old name of `CLERK_WEBHOOK_SIGNING_SECRET`, taken with a warning.
    #[arg(
        long,
        env = "CLERK_WEBHOOK_SECRET",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub clerk_webhook_secret: Option<Secret>,
    /// The PEM public key that Clerk's session tokens are verified with: as it is, on one line with `\n` between its
    /// lines, or all of it in base64.
    #[arg(long, env = "CLERK_JWT_KEY", global = true, value_name = "PEM")]
    pub clerk_jwt_key: Option<String>,
    /// Clerk's Frontend API address: the tokens' issuer, and where the keys are fetched without `CLERK_JWT_KEY`.
    #[arg(long, env = "CLERK_ISSUER", global = true, value_name = "URL")]
    pub clerk_issuer: Option<String>,
    /// Origins of the app that session tokens may be issued for, comma-separated. Default: any. Pages of these, and no
    /// others, may call `/v1/me` from the browser.
    #[arg(long, env = "CLERK_AUTHORIZED_PARTIES", global = true, value_name = "ORIGINS")]
    pub clerk_authorized_parties: Option<String>,
    /// The key for Clerk's Backend API, used to look up people whose webhook has not arrived yet.
    #[arg(
        long,
        env = "CLERK_SECRET_KEY",
        global = true,
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub clerk_secret_key: Option<Secret>,
    /// Clerk's Backend API. Default: `https://api.clerk.com`.
    #[arg(long, env = "CLERK_API_URL", global = true, value_name = "URL")]
    pub clerk_api_url: Option<String>,
    /// The keys that the app calls the API with, comma-separated: a key of at least 32 characters, `name:key`, or
    /// `name:sha256:hash` (`usher api-key` makes both). `@` and the ids of organizations, joined by `+`, limit it to them.
    #[arg(
        long,
        env = "USHER_API_KEYS",
        global = true,
        hide_env_values = true,
        value_name = "KEYS"
    )]
    pub usher_api_keys: Option<Secret>,
    /// How often each API key may call, such as `600/m` (`s`, `m` or `h`; a batch is one call), or `off`. Each process
    /// counts for itself. Default: `6000/m`.
    #[arg(long, env = "USHER_RATE_LIMIT", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit: Option<String>,
    /// How often each signed-in person may call. Default: `120/m`.
    #[arg(long, env = "USHER_RATE_LIMIT_PERSON", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit_person: Option<String>,
    /// How often each client address may open `/v1/invite-links` or send invalid credentials. Default: `120/m`.
    #[arg(long, env = "USHER_RATE_LIMIT_ADDRESS", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit_address: Option<String>,
    /// How many proxies of yours a request passes: the client's address is taken from `X-Forwarded-For` by so many steps
    /// from its right. Default: `0`, the header is not believed.
    #[arg(long, env = "USHER_TRUSTED_PROXIES", global = true, value_name = "NUMBER")]
    pub usher_trusted_proxies: Option<String>,
    /// The secrets that invite links are derived from, comma-separated, each of at least 32 characters: the first makes
    /// links, links of all are taken.
    #[arg(
        long,
        env = "USHER_TOKEN_KEY",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub usher_token_key: Option<Secret>,
    /// The mail server: `smtp://user:password@host:587?tls=required` or `smtps://…`. Development without it writes
    /// mails to `var/outbox/`.
    #[arg(long, env = "SMTP_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<Secret>,
    /// How many mails a second each process sends at most, or `off`. Default: `off`.
    #[arg(long, env = "SMTP_RATE", global = true, value_name = "MAILS")]
    pub smtp_rate: Option<String>,
    /// What usher calls itself in EHLO: a full host name such as `mail.example.com`, or an address such as `[192.0.2.1]`.
    /// Default: the domain of `MAIL_FROM`.
    #[arg(long, env = "SMTP_HELO_NAME", global = true, value_name = "NAME")]
    pub smtp_helo_name: Option<String>,
    /// The sender of all mails: `Name <address>`.
    #[arg(long, env = "MAIL_FROM", global = true, value_name = "MAILBOX")]
    pub mail_from: Option<String>,
    /// Where answers to mails go. Default: to the sender.
    #[arg(long, env = "MAIL_REPLY_TO", global = true, value_name = "MAILBOX")]
    pub mail_reply_to: Option<String>,
    /// Where people can have further invites to them stopped: a `mailto:` or `https://` address, or both with a comma
    /// between; `{email}` stands for the reader's address. It becomes the `List-Unsubscribe` of invites and reminders.
    #[arg(long, env = "MAIL_UNSUBSCRIBE", global = true, value_name = "ADDRESSES")]
    pub mail_unsubscribe: Option<String>,
    /// The language of mails to people whose own is not known, or has no templates. Default: `en`.
    #[arg(long, env = "MAIL_DEFAULT_LOCALE", global = true, value_name = "LANGUAGE")]
    pub mail_default_locale: Option<String>,
    /// What the app is called in mails. Default: `usher`.
    #[arg(long, env = "APP_NAME", global = true, value_name = "NAME")]
    pub app_name: Option<String>,
    /// The app's page that invite links lead to; `{token}` stands for the token.
    #[arg(long, env = "INVITE_URL", global = true, value_name = "URL")]
    pub invite_url: Option<String>,
    /// Who is let in without being asked: `new-users` (created after the invite), `always` or `never`. Default:
    /// `new-users`.
    #[arg(long, env = "AUTO_ACCEPT", global = true, value_name = "POLICY")]
    pub auto_accept: Option<String>,
    /// How long an invite is valid, such as `7d`, `36h` or `90m`; at most `30d`. Default: `7d`.
    #[arg(long, env = "INVITE_TTL", global = true, value_name = "DURATION")]
    pub invite_ttl: Option<String>,
    /// After which parts of an invite's life its address is reminded, such as `1/2`, or `off`. Default: `1/3,2/3`.
    #[arg(long, env = "INVITE_REMINDERS", global = true, value_name = "FRACTIONS")]
    pub invite_reminders: Option<String>,
    /// How many invite mails an inviter may ask for on a day (UTC), or `off`. Default: `2000`.
    #[arg(long, env = "MAIL_CAP_INVITER", global = true, value_name = "MAILS")]
    pub mail_cap_inviter: Option<String>,
    /// How many invite mails may be asked for on a day into one organization and its projects, or `off`. Default:
    /// `10000`.
    #[arg(long, env = "MAIL_CAP_ORGANIZATION", global = true, value_name = "MAILS")]
    pub mail_cap_organization: Option<String>,
    /// How many invite mails and reminders go to one address on a day, from all organizations together, or `off`. Beyond it
    /// people are invited without a mail. Default: `20`.
    #[arg(long, env = "MAIL_CAP_ADDRESS", global = true, value_name = "MAILS")]
    pub mail_cap_address: Option<String>,
    /// The organization roles, low to high. Default: `member,admin,owner`.
    #[arg(long, env = "ORGANIZATION_ROLES", global = true, value_name = "ROLES")]
    pub organization_roles: Option<String>,
    /// The project roles, low to high. Default: `support,client,editor,admin`.
    #[arg(long, env = "PROJECT_ROLES", global = true, value_name = "ROLES")]
    pub project_roles: Option<String>,
    /// The lowest organization role that may invite into the organization. Default: `admin`, or the highest role where there
    /// is none of that name.
    #[arg(long, env = "ORGANIZATION_INVITE_ROLE", global = true, value_name = "ROLE")]
    pub organization_invite_role: Option<String>,
    /// The lowest project role that may invite into the project; admins and owners of its organization may, too. Default:
    /// `editor`, or the highest role where there is none of that name.
    #[arg(long, env = "PROJECT_INVITE_ROLE", global = true, value_name = "ROLE")]
    pub project_invite_role: Option<String>,
    /// Where an app on the same Postgres keeps Clerk's user ids: `admins.external_id`, or a table of its own,
    /// `admin_identities`. Default: `admins.external_id`.
    #[arg(long, env = "USHER_IDENTITIES", global = true, value_name = "PLACE")]
    pub usher_identities: Option<String>,
    /// What `admin_identities.provider` says of Clerk users. Default: `clerk`.
    #[arg(long, env = "USHER_IDENTITY_PROVIDER", global = true, value_name = "NAME")]
    pub usher_identity_provider: Option<String>,
    /// What `admin_identities.issuer` says of Clerk users. Default: `CLERK_ISSUER`.
    #[arg(long, env = "USHER_IDENTITY_ISSUER", global = true, value_name = "ISSUER")]
    pub usher_identity_issuer: Option<String>,
    /// A folder whose files take the place of the built-in mail templates of the same name, or add languages to them.
    #[arg(long, env = "TEMPLATES_DIR", global = true, value_name = "FOLDER")]
    pub templates_dir: Option<PathBuf>,
    /// For how long the bodies of processed events are kept, such as `7d`. Default: `7d`.
    #[arg(long, env = "USHER_KEEP_PAYLOADS", global = true, value_name = "AGE")]
    pub usher_keep_payloads: Option<String>,
    /// For how long processed events are remembered without their bodies; Clerk's repetitions are known by them. Default:
    /// `90d`.
    #[arg(long, env = "USHER_KEEP_EVENTS", global = true, value_name = "AGE")]
    pub usher_keep_events: Option<String>,
    /// For how long finished jobs are kept. Default: `7d`.
    #[arg(long, env = "USHER_KEEP_JOBS", global = true, value_name = "AGE")]
    pub usher_keep_jobs: Option<String>,
    /// How long dead jobs are kept, so that they can be retried. Default: `90d`.
    #[arg(long, env = "USHER_KEEP_DEAD_JOBS", global = true, value_name = "AGE")]
    pub usher_keep_dead_jobs: Option<String>,
    /// For how long the record of a mail is kept with its invite. Default: `365d`.
    #[arg(long, env = "USHER_KEEP_DELIVERIES", global = true, value_name = "AGE")]
    pub usher_keep_deliveries: Option<String>,
    /// For how long answers are kept under their `Idempotency-Key`; they are given again for a day, so at least `1d`.
    /// Default: `2d`.
    #[arg(long, env = "USHER_KEEP_IDEMPOTENCY_KEYS", global = true, value_name = "AGE")]
    pub usher_keep_idempotency_keys: Option<String>,
    /// The OpenTelemetry collector that traces are sent to, over OTLP/HTTP: `http://host:4318`. Default: none.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otel_exporter_otlp_endpoint: Option<String>,
    /// `text` or `json`. Default: `text`.
    #[arg(long, env = "LOG_FORMAT", global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What is logged, in the syntax of `tracing`. Default: `info`.
    #[arg(long, env = "RUST_LOG", global = true, value_name = "FILTER")]
    pub rust_log: Option<String>,
}
