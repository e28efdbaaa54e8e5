//! The events that the app is sent, as the document's `webhooks`.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    HttpMethod, ObjectBuilder, PathItem, Paths, PathsBuilder, Ref, RefOr, Required, ResponseBuilder, Schema, Type,
};

use crate::api;
use crate::store::EventType;

const HEADERS: [(&str, &str); 3] = [
    ("webhook-id", "The event's id, the same over all tries"),
    ("webhook-timestamp", "When it was tried, in seconds since 1970"),
    (
        "webhook-signature",
        "One signature `v1,…` for each secret, separated by spaces, over `{webhook-id}.{webhook-timestamp}.{body}`",
    ),
];

/// One webhook for each type of events.
pub(super) fn describe() -> Paths {
    let webhooks = EventType::ALL.iter().fold(PathsBuilder::new(), |paths, &event_type| {
        paths.path(
            event_type.as_str(),
            PathItem::new(HttpMethod::Post, operation(event_type)),
        )
    });
    webhooks.build()
}

fn operation(event_type: EventType) -> OperationBuilder {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Event")))
        .example(Some(api::event_example(event_type)))
        .build();
    let body = RequestBodyBuilder::new()
        .content("application/json", content)
        .required(Some(Required::True))
        .build();
    let answer = |description: &str| ResponseBuilder::new().description(description).build();
    let operation = OperationBuilder::new()
        .tag("Events")
        .operation_id(Some(operation_id(event_type)))
        .summary(Some(event_type.as_str()))
        .description(Some(
            "Sent to the endpoints of `USHER_EVENTS`, signed by the Standard Webhooks scheme, at least once.",
        ))
        .request_body(Some(body))
        .response(
            "2XX",
            answer("Taken. Anything else within 15 s, or nothing, is tried again for three days"),
        )
        .response("410", answer("No more events are wanted: the endpoint is disabled"));
    HEADERS.into_iter().fold(operation, |operation, (name, description)| {
        let text: RefOr<Schema> = ObjectBuilder::new().schema_type(Type::String).into();
        operation.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Header)
                .required(Required::True)
                .description(Some(description))
                .schema(Some(text)),
        )
    })
}

/// `onInviteAccepted` for `invite.accepted`.
fn operation_id(event_type: EventType) -> String {
    let words = event_type.as_str().split('.').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    format!("on{}", words.collect::<String>())
}
