//! All settings, as they were given. An empty one counts as absent: see `sources`.

use std::path::PathBuf;

use crate::secret::Secret;

/// All settings: by environment variable, `.env`, or a flag of the same name.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Settings {
    /// `development` generates missing secrets and writes mails to files; `production` requires them. Default: `development`
    /// if no database URL is set, else `production`.
    #[arg(long, env = "USHER_ENV", global = true, value_name = "development|production")]
    pub usher_env: Option<String>,
    /// The database: `postgres://…` or `sqlite://path`. Default: `sqlite://var/usher.db`.
    #[arg(
        long,
        env = "USHER_DATABASE_URL",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub usher_database_url: Option<Secret>,
    /// Used if `USHER_DATABASE_URL` is not set.
    #[arg(
        long,
        env = "DATABASE_URL",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Option<Secret>,
    /// The maximum number of connections to Postgres that a process opens, from `8`. Default: `20`.
    #[arg(long, env = "USHER_DATABASE_CONNECTIONS", global = true, value_name = "NUMBER")]
    pub usher_database_connections: Option<String>,
    /// The public address, for the app and for webhooks. Default: `127.0.0.1:8080`.
    #[arg(long, env = "USHER_LISTEN", global = true, value_name = "ADDRESS:PORT")]
    pub usher_listen: Option<String>,
    /// The address under which browsers reach usher, for its accept page: `https://invites.example.com`. Session tokens may be
    /// issued for its origin. Default: none; in development `http://` and `USHER_LISTEN`.
    #[arg(long, env = "USHER_PUBLIC_URL", global = true, value_name = "URL")]
    pub usher_public_url: Option<String>,
    /// The private address, for health checks and metrics. Default: `127.0.0.1:9090`.
    #[arg(long, env = "USHER_ADMIN_LISTEN", global = true, value_name = "ADDRESS:PORT")]
    pub usher_admin_listen: Option<String>,
    /// How long a stopping process still serves requests while `/readyz` answers 503, such as `10s` (at most `5m`), or `off`.
    /// Set it longer than your load balancer needs to notice. Default: `5s`; in development `off`.
    #[arg(long, env = "USHER_DRAIN_TIME", global = true, value_name = "DURATION")]
    pub usher_drain_time: Option<String>,
    /// The maximum number of connections to the public address. Beyond it, the connections that have sent no request are
    /// closed first. The private address has its own. Default: `16384`, or fewer if the limit of open files is lower.
    #[arg(long, env = "USHER_MAX_CONNECTIONS", global = true, value_name = "NUMBER")]
    pub usher_max_connections: Option<String>,
    /// The webhook's signing secrets (`whsec_…`), comma-separated: two during a rotation.
    #[arg(
        long,
        env = "CLERK_WEBHOOK_SIGNING_SECRET",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub clerk_webhook_signing_secret: Option<Secret>,
    /// The old name of `CLERK_WEBHOOK_SIGNING_SECRET`. It works, with a warning.
    #[arg(
        long,
        env = "CLERK_WEBHOOK_SECRET",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub clerk_webhook_secret: Option<Secret>,
    /// The PEM public key that verifies Clerk's session tokens: as it is, on one line with `\n` between its lines, or all of
    /// it in base64.
    #[arg(long, env = "CLERK_JWT_KEY", global = true, value_name = "PEM")]
    pub clerk_jwt_key: Option<String>,
    /// Clerk's Frontend API URL: the issuer of session tokens. Without `CLERK_JWT_KEY`, the keys are fetched from it.
    #[arg(long, env = "CLERK_ISSUER", global = true, value_name = "URL")]
    pub clerk_issuer: Option<String>,
    /// The app's origins, comma-separated. Session tokens must be issued for one of them, and only their pages may call `/v1/me`
    /// from the browser. Default: tokens for any origin, and no page may call but usher's own and, in development, those of
    /// `INVITE_URL`'s origin.
    #[arg(long, env = "CLERK_AUTHORIZED_PARTIES", global = true, value_name = "ORIGINS")]
    pub clerk_authorized_parties: Option<String>,
    /// Clerk's publishable key (`pk_…`), with which usher's accept page signs people up and in.
    #[arg(long, env = "CLERK_PUBLISHABLE_KEY", global = true, value_name = "KEY")]
    pub clerk_publishable_key: Option<String>,
    /// The key for Clerk's Backend API, used to look up people whose webhook has not arrived yet.
    #[arg(
        long,
        env = "CLERK_SECRET_KEY",
        global = true,
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub clerk_secret_key: Option<Secret>,
    /// The URL of Clerk's Backend API. Default: `https://api.clerk.com`.
    #[arg(long, env = "CLERK_API_URL", global = true, value_name = "URL")]
    pub clerk_api_url: Option<String>,
    /// The app's API keys, comma-separated: a key of at least 32 characters, `name:key`, or `name:sha256:hash` (`usher api-key`
    /// creates both). `@` and organization ids, joined by `+`, limit a key to these organizations.
    #[arg(
        long,
        env = "USHER_API_KEYS",
        global = true,
        hide_env_values = true,
        value_name = "KEYS"
    )]
    pub usher_api_keys: Option<Secret>,
    /// The keys for the board, comma-separated: `name:sha256:hash:view` or `…:operate` (`usher ops-key` creates them). Without
    /// any, the board shows itself on a loopback address only, and changes nothing.
    #[arg(
        long,
        env = "USHER_OPS_KEYS",
        global = true,
        hide_env_values = true,
        value_name = "KEYS"
    )]
    pub usher_ops_keys: Option<Secret>,
    /// The host names under which browsers reach the private address, comma-separated, besides `localhost` and the address
    /// itself. Default: none.
    #[arg(long, env = "USHER_OPS_HOSTS", global = true, value_name = "NAMES")]
    pub usher_ops_hosts: Option<String>,
    /// The header in which a proxy that signs operators in names them to the board: `X-Forwarded-User`, then they may look, or
    /// `X-Forwarded-User:operate`. Needs `USHER_OPS_USER_PROXIES`. Default: none.
    #[arg(long, env = "USHER_OPS_USER_HEADER", global = true, value_name = "HEADER")]
    pub usher_ops_user_header: Option<String>,
    /// The addresses from which that proxy calls, comma-separated: `10.0.0.5`, or networks such as `10.1.0.0/24`. From elsewhere
    /// the header is refused. Default: none.
    #[arg(long, env = "USHER_OPS_USER_PROXIES", global = true, value_name = "ADDRESSES")]
    pub usher_ops_user_proxies: Option<String>,
    /// How often each API key may call, such as `600/m` (`s`, `m` or `h`; a batch counts as one call per item), or `off`. Each
    /// process counts for itself. Default: `6000/m`.
    #[arg(long, env = "USHER_RATE_LIMIT", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit: Option<String>,
    /// How often each signed-in person may call. Default: `120/m`.
    #[arg(long, env = "USHER_RATE_LIMIT_PERSON", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit_person: Option<String>,
    /// How often each client address may open `/v1/invite-links` or send invalid credentials. Default: `120/m`.
    #[arg(long, env = "USHER_RATE_LIMIT_ADDRESS", global = true, value_name = "CALLS/PERIOD")]
    pub usher_rate_limit_address: Option<String>,
    /// The number of your proxies in front of usher. The client's address is that entry of `X-Forwarded-For`, counted from the
    /// right. Default: `0`, which ignores the header.
    #[arg(long, env = "USHER_TRUSTED_PROXIES", global = true, value_name = "NUMBER")]
    pub usher_trusted_proxies: Option<String>,
    /// The secrets that invite links are derived from, comma-separated, each of at least 32 characters. The first one creates
    /// new links; links of all are accepted.
    #[arg(
        long,
        env = "USHER_TOKEN_KEY",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub usher_token_key: Option<Secret>,
    /// The mail server: `smtp://user:password@host:587?tls=required` or `smtps://…`. Without it, development writes mails to
    /// `var/outbox/`.
    #[arg(long, env = "SMTP_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub smtp_url: Option<Secret>,
    /// The maximum number of mails per second that each process sends, or `off`. Default: `off`.
    #[arg(long, env = "SMTP_RATE", global = true, value_name = "MAILS")]
    pub smtp_rate: Option<String>,
    /// The name that usher sends in EHLO: a full host name such as `mail.example.com`, or an address such as `[192.0.2.1]`.
    /// Default: the domain of `MAIL_FROM`.
    #[arg(long, env = "SMTP_HELO_NAME", global = true, value_name = "NAME")]
    pub smtp_helo_name: Option<String>,
    /// The sender of all mails: `Name <address>`.
    #[arg(long, env = "MAIL_FROM", global = true, value_name = "MAILBOX")]
    pub mail_from: Option<String>,
    /// The address for replies. Default: the sender.
    #[arg(long, env = "MAIL_REPLY_TO", global = true, value_name = "MAILBOX")]
    pub mail_reply_to: Option<String>,
    /// The `List-Unsubscribe` of invites and reminders: a `mailto:` or `https://` address, or both with a comma between;
    /// `{email}` is replaced by the recipient's address.
    #[arg(long, env = "MAIL_UNSUBSCRIBE", global = true, value_name = "ADDRESSES")]
    pub mail_unsubscribe: Option<String>,
    /// The language of mails if the recipient's is unknown or has no templates. Default: `en`.
    #[arg(long, env = "MAIL_DEFAULT_LOCALE", global = true, value_name = "LANGUAGE")]
    pub mail_default_locale: Option<String>,
    /// The app's name in mails. Default: `usher`.
    #[arg(long, env = "APP_NAME", global = true, value_name = "NAME")]
    pub app_name: Option<String>,
    /// The app's address, where usher's accept page leads after accepting. Default: none.
    #[arg(long, env = "APP_URL", global = true, value_name = "URL")]
    pub app_url: Option<String>,
    /// The origins that an invite's `redirect_url` may lead to, comma-separated: `https://app.example.com`. Default: the origin of
    /// `APP_URL`.
    #[arg(long, env = "REDIRECT_URLS", global = true, value_name = "ORIGINS")]
    pub redirect_urls: Option<String>,
    /// The page that invite links lead to; `{token}` is replaced by the token. Default: usher's own accept page,
    /// `{USHER_PUBLIC_URL}/i#{token}`.
    #[arg(long, env = "INVITE_URL", global = true, value_name = "URL")]
    pub invite_url: Option<String>,
    /// When an invite is accepted automatically: for `new-users` (created in Clerk after the invite), `always` or `never`.
    /// Default: `new-users`.
    #[arg(long, env = "AUTO_ACCEPT", global = true, value_name = "POLICY")]
    pub auto_accept: Option<String>,
    /// How long an invite is valid, such as `7d`, `36h` or `90m`; at most `30d`. Default: `7d`.
    #[arg(long, env = "INVITE_TTL", global = true, value_name = "DURATION")]
    pub invite_ttl: Option<String>,
    /// When reminders are sent, as fractions of an invite's lifetime, such as `1/2`, or `off`. Default: `1/3,2/3`.
    #[arg(long, env = "INVITE_REMINDERS", global = true, value_name = "FRACTIONS")]
    pub invite_reminders: Option<String>,
    /// The maximum number of invite mails of one inviter per day (UTC), or `off`. Default: `2000`.
    #[arg(long, env = "MAIL_CAP_INVITER", global = true, value_name = "MAILS")]
    pub mail_cap_inviter: Option<String>,
    /// The maximum number of invite mails for one organization and its projects per day, or `off`. Default: `10000`.
    #[arg(long, env = "MAIL_CAP_ORGANIZATION", global = true, value_name = "MAILS")]
    pub mail_cap_organization: Option<String>,
    /// The maximum number of invite mails and reminders to one address per day, from all organizations together, or `off`.
    /// Beyond it, people are invited without a mail. Default: `20`.
    #[arg(long, env = "MAIL_CAP_ADDRESS", global = true, value_name = "MAILS")]
    pub mail_cap_address: Option<String>,
    /// The organization roles, lowest first. Default: `member,admin,owner`.
    #[arg(long, env = "ORGANIZATION_ROLES", global = true, value_name = "ROLES")]
    pub organization_roles: Option<String>,
    /// The project roles, lowest first. Default: `support,client,editor,admin`.
    #[arg(long, env = "PROJECT_ROLES", global = true, value_name = "ROLES")]
    pub project_roles: Option<String>,
    /// The lowest organization role that may invite into the organization. Default: `admin`, or the highest role if there is no
    /// `admin`.
    #[arg(long, env = "ORGANIZATION_INVITE_ROLE", global = true, value_name = "ROLE")]
    pub organization_invite_role: Option<String>,
    /// The lowest project role that may invite into the project; admins and owners of its organization may, too. Default:
    /// `editor`, or the highest role if there is no `editor`.
    #[arg(long, env = "PROJECT_INVITE_ROLE", global = true, value_name = "ROLE")]
    pub project_invite_role: Option<String>,
    /// Whose tables organizations, projects and members are in: `own` are usher's, on Postgres in the schema `usher`; `shared` are
    /// those of an app on the same Postgres. It is chosen once, at the first migration. Default: `own`.
    #[arg(long, env = "USHER_TABLES", global = true, value_name = "KIND")]
    pub usher_tables: Option<String>,
    /// The schema of the app's tables, with `USHER_TABLES=shared`; chosen once, too. Default: `public`.
    #[arg(long, env = "USHER_APP_SCHEMA", global = true, value_name = "SCHEMA")]
    pub usher_app_schema: Option<String>,
    /// Whether the names, the picture and the address that Clerk tells are written over those in the app's `admins`, with
    /// `USHER_TABLES=shared`: `on` or `off`. Default: `off`.
    #[arg(long, env = "USHER_SYNC_PROFILES", global = true, value_name = "ON_OR_OFF")]
    pub usher_sync_profiles: Option<String>,
    /// Where an app on the same Postgres stores Clerk's user ids: in `admins.external_id`, or in the table `admin_identities`.
    /// Default: `admins.external_id`.
    #[arg(long, env = "USHER_IDENTITIES", global = true, value_name = "PLACE")]
    pub usher_identities: Option<String>,
    /// The value of `admin_identities.provider` for Clerk users. Default: `clerk`.
    #[arg(long, env = "USHER_IDENTITY_PROVIDER", global = true, value_name = "NAME")]
    pub usher_identity_provider: Option<String>,
    /// The values of `admin_identities.issuer` for Clerk users, comma-separated; the first is written into new rows. Default:
    /// `CLERK_ISSUER`.
    #[arg(long, env = "USHER_IDENTITY_ISSUERS", global = true, value_name = "ISSUERS")]
    pub usher_identity_issuers: Option<String>,
    /// Where the app is told what happened: `name=https://…`, comma-separated, at most eight. `name:type+type=https://…` sends
    /// these types of events only, such as `invite.accepted` or `membership.*`. Default: none.
    #[arg(
        long,
        env = "USHER_EVENTS",
        global = true,
        hide_env_values = true,
        value_name = "ENDPOINTS"
    )]
    pub usher_events: Option<Secret>,
    /// The secrets that events are signed with (`whsec_…`), comma-separated: two during a rotation.
    #[arg(
        long,
        env = "USHER_EVENTS_SECRET",
        global = true,
        hide_env_values = true,
        value_name = "SECRETS"
    )]
    pub usher_events_secret: Option<Secret>,
    /// A folder with mail templates. They replace built-in ones of the same name, or add languages.
    #[arg(long, env = "TEMPLATES_DIR", global = true, value_name = "FOLDER")]
    pub templates_dir: Option<PathBuf>,
    /// How long the bodies of processed events are kept, such as `7d`. Default: `7d`.
    #[arg(long, env = "USHER_KEEP_PAYLOADS", global = true, value_name = "AGE")]
    pub usher_keep_payloads: Option<String>,
    /// How long processed events are kept without their bodies, to recognize repeated ones. Default: `90d`.
    #[arg(long, env = "USHER_KEEP_EVENTS", global = true, value_name = "AGE")]
    pub usher_keep_events: Option<String>,
    /// How long finished jobs are kept. Default: `7d`.
    #[arg(long, env = "USHER_KEEP_JOBS", global = true, value_name = "AGE")]
    pub usher_keep_jobs: Option<String>,
    /// How long dead jobs are kept, so that they can be retried. Default: `90d`.
    #[arg(long, env = "USHER_KEEP_DEAD_JOBS", global = true, value_name = "AGE")]
    pub usher_keep_dead_jobs: Option<String>,
    /// How long the records of mails are kept, and the history of invites that are not open. Default: `365d`.
    #[arg(long, env = "USHER_KEEP_DELIVERIES", global = true, value_name = "AGE")]
    pub usher_keep_deliveries: Option<String>,
    /// How long events for the app are kept, for `GET /v1/events` and to be sent again. Default: `30d`.
    #[arg(long, env = "USHER_KEEP_OUTGOING", global = true, value_name = "AGE")]
    pub usher_keep_outgoing: Option<String>,
    /// How long answers are kept for their `Idempotency-Key`; at least `1d`, because they are repeated for a day. Default: `2d`.
    #[arg(long, env = "USHER_KEEP_IDEMPOTENCY_KEYS", global = true, value_name = "AGE")]
    pub usher_keep_idempotency_keys: Option<String>,
    /// How long the audit is kept: what was changed by hand, and what was refused. Default: `365d`.
    #[arg(long, env = "USHER_KEEP_AUDIT", global = true, value_name = "AGE")]
    pub usher_keep_audit: Option<String>,
    /// The OpenTelemetry collector for traces, over OTLP/HTTP: `http://host:4318`. Default: none.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        global = true,
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otel_exporter_otlp_endpoint: Option<String>,
    /// The format of logs: `text` or `json`. Default: `text`.
    #[arg(long, env = "LOG_FORMAT", global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// The log filter, in the syntax of `tracing`. Default: `info`.
    #[arg(long, env = "RUST_LOG", global = true, value_name = "FILTER")]
    pub rust_log: Option<String>,
}
