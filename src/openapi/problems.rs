//! Which problems an operation can answer: those that its description names, and those that come with how it is called.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Components, ContentBuilder, Ref, RefOr};

use crate::problem::{Code, Problem};

/// Where an operation's description names its own problems; taken out again here.
const NAMED: &str = "x-problems";

/// Adds the schema of a problem and the headers that many answers share.
pub(super) fn register(components: &mut Components) {
    use utoipa::{PartialSchema as _, ToSchema as _};
    let mut schemas = vec![("Problem".to_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (name, kind, text) in [
        ("RetryAfter", Type::Integer, "Seconds after which to retry."),
        ("WwwAuthenticate", Type::String, "`Bearer`."),
        (
            "RateLimitPolicy",
            Type::String,
            "Whose calls are counted, how many (`q`) are allowed in how many seconds (`w`). Absent where the limit is off.",
        ),
        (
            "RateLimit",
            Type::String,
            "How many calls are left (`r`), and in how many seconds (`t`) all are back. Absent where the limit is off.",
        ),
    ] {
        let schema = ObjectBuilder::new().schema_type(kind);
        let header = HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(text))
            .build();
        components.headers.insert(name.to_owned(), header.into());
    }
}

/// Writes the problems and the shared headers into an operation's answers.
pub(super) fn describe(operation: &mut Operation) {
    let mut by_status: BTreeMap<StatusCode, Vec<Code>> = BTreeMap::new();
    for code in problems_of(operation) {
        by_status.entry(code.status()).or_default().push(code);
    }
    for (status, codes) in by_status {
        let response = answer(&codes);
        operation
            .responses
            .responses
            .insert(status.as_str().to_owned(), response);
    }
    if !is_limited(operation) {
        return;
    }
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            for (header, component) in [("RateLimit-Policy", "RateLimitPolicy"), ("RateLimit", "RateLimit")] {
                response.headers.insert(header.to_owned(), header_reference(component));
            }
        }
    }
}

fn problems_of(operation: &mut Operation) -> BTreeSet<Code> {
    let named = operation
        .extensions
        .as_mut()
        .and_then(|extensions| extensions.remove(NAMED));
    let named: Vec<Value> = named.and_then(|named| named.as_array().cloned()).unwrap_or_default();
    let is_named = |code: &&Code| named.iter().any(|name| name == code.as_str());
    let mut codes: BTreeSet<Code> = Code::ALL.iter().filter(is_named).copied().collect();
    codes.extend([Code::Internal, Code::StoreUnavailable, Code::StoreBusy]);
    if calls_with(operation, "api_key") {
        codes.extend([Code::Unauthorized, Code::RateLimited]);
    }
    if calls_with(operation, "session") {
        codes.extend([Code::Unauthorized, Code::RateLimited, Code::KeysUnavailable]);
        // Of the person's calls, those that answer an invite are the ones that name problems of their own.
        if !named.is_empty() {
            codes.extend([Code::ForeignOrigin, Code::Impersonated]);
        }
    }
    if operation.request_body.is_some() && !calls_with(operation, "svix_signature") {
        codes.extend([
            Code::NotJson,
            Code::UnreadableBody,
            Code::RequestTimeout,
            Code::UnsupportedMediaType,
            Code::TooLarge,
            Code::InvalidRequest,
        ]);
    }
    let ids = ["id", "clerk_user_id"];
    let parameters = operation.parameters.iter().flatten();
    if parameters
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter.name.as_str()),
            RefOr::Ref(_) => None,
        })
        .any(|name| ids.contains(&name))
    {
        codes.insert(Code::InvalidId);
    }
    codes
}

fn calls_with(operation: &Operation, scheme: &str) -> bool {
    let requirements = operation.security.iter().flatten();
    requirements
        .filter_map(|requirement| serde_json::to_value(requirement).ok())
        .any(|requirement| requirement.get(scheme).is_some())
}

fn is_limited(operation: &Operation) -> bool {
    operation
        .responses
        .responses
        .contains_key(StatusCode::TOO_MANY_REQUESTS.as_str())
}

fn answer(codes: &[Code]) -> RefOr<utoipa::openapi::Response> {
    let examples = codes.iter().map(|&code| {
        let example = ExampleBuilder::new()
            .summary(code.when())
            .value(Some(example(code)))
            .build();
        (code.as_str(), example)
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter(examples)
        .build();
    let names: Vec<String> = codes.iter().map(|code| format!("`{}`", code.as_str())).collect();
    let mut response = ResponseBuilder::new()
        .description(names.join(" · "))
        .content("application/problem+json", content)
        .build();
    if codes.iter().any(|code| code.has_retry_after()) {
        response
            .headers
            .insert("Retry-After".to_owned(), header_reference("RetryAfter"));
    }
    if codes.contains(&Code::Unauthorized) || codes.contains(&Code::BadSignature) {
        let header = header_reference("WwwAuthenticate");
        response.headers.insert("WWW-Authenticate".to_owned(), header);
    }
    response.into()
}

fn header_reference(component: &str) -> RefOr<utoipa::openapi::header::Header> {
    RefOr::Ref(Ref::new(format!("#/components/headers/{component}")))
}

fn example(code: Code) -> Value {
    let mut example = json!({ "status": code.status().as_u16(), "code": code, "title": code.title() });
    if code == Code::InvalidRequest {
        example["errors"] = json!([{ "pointer": "/role", "detail": "is missing" }]);
    }
    example
}
