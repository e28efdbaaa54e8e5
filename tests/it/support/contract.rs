//! The contract, held against every answer that any story gets: what is not documented is not answered.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use axum::http::{Method, StatusCode, header};
use jsonschema::Validator;
use serde_json::{Value, json};

use super::app::Answer;

/// The OpenAPI document.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&usher::openapi::text().expect("a document")).expect("JSON"));

/// One operation of the document.
#[derive(Clone, Copy)]
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    pub description: &'static Value,
}

impl Operation {
    pub fn id(&self) -> &'static str {
        self.description["operationId"].as_str().expect("an id")
    }

    /// The description of the answer with a status.
    pub fn answer(&self, status: &str) -> Option<&'static Value> {
        self.description["responses"].get(status)
    }

    /// Every code that the operation may answer with.
    pub fn codes(&self) -> Vec<&'static str> {
        let answers = self.description["responses"].as_object().expect("answers").values();
        answers
            .filter_map(|answer| answer["content"]["application/problem+json"]["examples"].as_object())
            .flat_map(|examples| examples.keys().map(String::as_str))
            .collect()
    }

    /// Whether it is called with this security scheme.
    pub fn is_called_with(&self, scheme: &str) -> bool {
        let schemes = self.description["security"].as_array();
        schemes.is_some_and(|schemes| schemes.iter().any(|one| one.get(scheme).is_some()))
    }
}

/// Every operation.
pub fn operations() -> Vec<Operation> {
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            let item = item.as_object().expect("operations");
            item.iter().map(move |(method, description)| Operation {
                method,
                path,
                description,
            })
        })
        .collect()
}

/// What is wrong with a value by a schema of the document.
pub fn errors(schema: &Value, value: &Value) -> Vec<String> {
    static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let validator = VALIDATORS
        .lock()
        .expect("no panic before")
        .entry(schema.to_string())
        .or_insert_with(|| {
            let mut root = schema.clone();
            root["components"] = json!({ "schemas": DOCUMENT["components"]["schemas"] });
            let options = jsonschema::draft202012::options().should_validate_formats(true);
            Arc::new(options.build(&root).expect("a schema"))
        })
        .clone();
    validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// Fails unless the document tells of this answer: its status, its headers, its body, and its code.
#[track_caller]
pub fn assert_kept(method: &Method, path: &str, answer: &Answer) {
    let status = answer.status;
    let is_preflight = *method == Method::OPTIONS && status == StatusCode::OK;
    if is_preflight {
        return;
    }
    let what = format!(
        "{method} {path} answered {status} {}",
        String::from_utf8_lossy(&answer.body)
    );
    let asked = if *method == Method::HEAD {
        "get"
    } else {
        &method.as_str().to_ascii_lowercase()
    };
    let here: Vec<Operation> = operations().into_iter().filter(|one| is_at(one.path, path)).collect();
    let literal = here.iter().filter(|one| !one.path.contains('{')).any(|_| true);
    let here = here.into_iter().filter(|one| !literal || !one.path.contains('{'));
    let (mut asked, others): (Vec<_>, Vec<_>) = here.partition(|one| one.method == asked);
    let Some(operation) = asked.pop() else {
        let expected = if others.is_empty() {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::METHOD_NOT_ALLOWED
        };
        assert_eq!(status, expected, "{what}, and that operation is not documented");
        assert_is_problem(method, answer, None, &what);
        return;
    };
    let documented = operation.answer(status.as_str());
    let documented = documented.unwrap_or_else(|| panic!("{what}, which is not documented"));
    for (name, _) in documented["headers"].as_object().into_iter().flatten() {
        // Of the conflicts, only this one passes by itself.
        let passes = status != StatusCode::CONFLICT || answer.json()["code"] == "not_synced";
        let is_always_there = !name.starts_with("RateLimit") && (name != "Retry-After" || passes);
        assert!(
            !is_always_there || answer.headers.contains_key(name.as_str()),
            "{what} without {name}"
        );
    }
    if status.is_client_error() || status.is_server_error() {
        return assert_is_problem(method, answer, Some(documented), &what);
    }
    if *method == Method::HEAD {
        return;
    }
    if status == StatusCode::NO_CONTENT {
        assert!(answer.body.is_empty() && documented.get("content").is_none(), "{what}");
        return;
    }
    let media = answer.headers[header::CONTENT_TYPE].to_str().expect("a media type");
    let media = media.split(';').next().unwrap_or_default();
    let content = &documented["content"][media];
    assert!(content.is_object(), "{what} as {media}, which is not documented");
    if media == "application/json" {
        assert_eq!(errors(&content["schema"], &answer.json()), [""; 0], "{what}");
    }
}

#[track_caller]
fn assert_is_problem(method: &Method, answer: &Answer, documented: Option<&Value>, what: &str) {
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "application/problem+json",
        "{what}"
    );
    if *method == Method::HEAD {
        return;
    }
    let problem = answer.json();
    let schema = json!({ "$ref": "#/components/schemas/Problem" });
    assert_eq!(errors(&schema, &problem), [""; 0], "{what}");
    assert_eq!(problem["status"], answer.status.as_u16(), "{what}");
    if let Some(documented) = documented {
        let examples = &documented["content"]["application/problem+json"]["examples"];
        let code = problem["code"].as_str().expect("a code");
        assert!(examples.get(code).is_some(), "{what}, a code that is not documented");
    }
}

fn is_at(template: &str, path: &str) -> bool {
    let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template
            .iter()
            .zip(path)
            .all(|(expected, given)| *expected == given || (expected.starts_with('{') && !given.is_empty()))
}
