//! The contract: the OpenAPI document, generated from the code, and the page that shows it.

mod problems;
mod targets;
mod webhooks;

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use serde_json::{Value, json};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi as _;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::path::{Operation, Parameter};
use utoipa::openapi::schema::{Schema, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi, PathItem, RefOr};

use crate::{api, webhooks as clerk};

/// The page runs its own script with its own style, asks this host for the document, and nothing else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const OVERVIEW: &str = "\
Invites people into organizations and projects, and follows up.

An app calls with its API key; a page of the app calls `/v1/me` with the person's Clerk session. Names are snake_case,
times RFC 3339 in UTC. Optional fields may be left out or null; fields that are not listed are refused.

Errors are `application/problem+json` (RFC 9457) with a stable `code`: all codes stand at the schema `Code`. More codes
may come; go by the status where you don't know one. Answers may get more fields.

Calls are limited per API key, per person and, for links and wrong credentials, per address: `RateLimit-Policy` and
`RateLimit` tell where a caller stands; one call too many is a 429 with `Retry-After`.";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "usher", description = OVERVIEW, contact(name = "usher's maintainers"), license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0")),
    servers((url = "/", description = "This usher")),
    tags(
        (name = "Organizations and projects", description = "What people are invited into, for apps that don't share the database"),
        (name = "Invites", description = "Create, list, resend and revoke invites"),
        (name = "Members", description = "Who is a member of what, with which role"),
        (name = "Events", description = "What happened, for the app"),
        (name = "The signed-in person", description = "The banner and its answers; their memberships"),
        (name = "Invite links", description = "What a landing page shows"),
        (name = "Webhooks", description = "What Clerk tells"),
    )
)]
struct Overview;

/// The OpenAPI document of everything that the public address serves.
#[must_use]
pub fn document() -> OpenApi {
    let mut document = Overview::openapi()
        .merge_from(api::openapi())
        .merge_from(clerk::openapi());
    let components = document.components.get_or_insert_default();
    for (name, scheme) in security_schemes() {
        components.security_schemes.insert(name.to_owned(), scheme.into());
    }
    problems::register(components);
    targets::take_exactly_one(components);
    document.webhooks = Some(webhooks::describe());
    let groups = Extensions::from_iter([("x-tagGroups", by_caller())]);
    document.extensions.get_or_insert_default().merge(groups);
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        leave_out_rather_than_null(operation);
        problems::describe(operation);
    }
    let webhooks = document.webhooks.iter_mut();
    let webhooks = webhooks.flat_map(|webhooks| webhooks.paths.values_mut());
    for operation in document.paths.paths.values_mut().chain(webhooks).flat_map(operations) {
        // Without it, a reader can't tell "none" from "forgotten".
        operation.security.get_or_insert_default();
    }
    document
}

/// The tags by who calls; the name of the extension is the one that Redoc and Scalar read.
fn by_caller() -> Value {
    json!([
        {"name": "Your server calls", "tags": ["Organizations and projects", "Invites", "Members", "Events"]},
        {"name": "Your pages call", "tags": ["The signed-in person", "Invite links"]},
        {"name": "Clerk calls", "tags": ["Webhooks"]},
    ])
}

/// The document as text, as `docs/openapi.json` holds it.
///
/// # Errors
/// None that a document could bring about; the type is serde's.
pub fn text() -> serde_json::Result<String> {
    Ok(document().to_pretty_json()? + "\n")
}

/// Serves the document and the page that shows it. Neither is a part of the contract. `is_development`: calls can be sent
/// from the page.
pub fn router(is_development: bool) -> Router {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    const STYLE: &str = "text/css; charset=utf-8";
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| text().unwrap_or_default());
    let policy = SetResponseHeaderLayer::overriding(
        HeaderName::from_static("content-security-policy"),
        HeaderValue::from_static(PAGE_POLICY),
    );
    let mut routes = Router::new();
    let mut try_it = "";
    if is_development {
        try_it = "\n<script src=\"/docs/try.js\" defer></script>";
        routes = routes.route("/docs/try.js", get(async || file(SCRIPT, include_str!("try.js"))));
    }
    let page = include_str!("docs.html").replace("{try}", try_it);
    routes
        .route("/openapi.json", get(async || file("application/json", &DOCUMENT)))
        .route("/docs", get(async || Html(page)))
        .route("/docs/docs.js", get(async || file(SCRIPT, include_str!("docs.js"))))
        .route("/docs/docs.css", get(async || file(STYLE, include_str!("docs.css"))))
        .layer(policy)
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

fn security_schemes() -> [(&'static str, SecurityScheme); 4] {
    let bearer = |description: &str| {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(description.to_owned());
        scheme
    };
    let mut session = bearer("Clerk's session token of the signed-in person.");
    session.bearer_format = Some("JWT".to_owned());
    [
        (
            "api_key",
            SecurityScheme::Http(bearer(
                "One of USHER_API_KEYS. A key that is limited to organizations sees and changes nothing outside of them.",
            )),
        ),
        ("session", SecurityScheme::Http(session)),
        (
            "session_cookie",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::with_description(
                "__session",
                "Clerk's session cookie. A POST must come with an `Origin` of CLERK_AUTHORIZED_PARTIES.",
            ))),
        ),
        (
            "svix_signature",
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
                "svix-signature",
                "Svix's signatures over `{svix-id}.{svix-timestamp}.{body}`, separated by spaces.",
            ))),
        ),
    ]
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// An optional parameter is left out; `null` would be a text like any other.
fn leave_out_rather_than_null(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(Parameter {
            schema: Some(schema), ..
        }) = parameter
        {
            without_null(schema);
        }
    }
}

fn without_null(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            if let SchemaType::Array(types) = &mut object.schema_type {
                types.retain(|kind| *kind != Type::Null);
                if let [only] = types.as_slice() {
                    object.schema_type = SchemaType::Type(only.clone());
                }
            }
        }
        RefOr::T(Schema::OneOf(choice)) => {
            let is_null = |item: &RefOr<Schema>| matches!(item, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null));
            choice.items.retain(|item| !is_null(item));
            if choice.items.len() == 1 {
                *schema = choice.items.remove(0);
            }
        }
        _ => {}
    }
}
