//! What a person is invited into, or becomes a member of, is one organization or one project: never both, never none.

use serde_json::{Value, json};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{Components, RefOr};

/// The schemas with both fields.
const WITH_TARGET: [&str; 2] = ["CreateInvite", "BatchMember"];

/// Says so in the schemas. utoipa has no place for a `oneOf` beside properties but the extensions.
pub(super) fn take_exactly_one(components: &mut Components) {
    for name in WITH_TARGET {
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(name) {
            let choice = [
                one("organization_id", "project_id"),
                one("project_id", "organization_id"),
            ];
            let choice = Extensions::from_iter([("oneOf", Value::from(choice.to_vec()))]);
            object.extensions.get_or_insert_default().merge(choice);
        }
    }
}

/// One is given, the other left out or null.
fn one(given: &str, other: &str) -> Value {
    json!({
        "title": given,
        "required": [given],
        "properties": { given: { "$ref": "#/components/schemas/AppId" }, other: { "type": "null" } },
    })
}
