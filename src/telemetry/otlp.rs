//! Sends traces to an OpenTelemetry collector over OTLP/HTTP, if one is configured.

use anyhow::Context as _;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::trace_id::trace_id_of;

/// Sends spans in batches, from a thread of its own, as long as the process lives.
pub struct Exporter(Option<SdkTracerProvider>);

impl Exporter {
    /// Creates the exporter and the layer that passes it the spans.
    pub(super) fn start<S>(collector: Option<&str>) -> anyhow::Result<(Self, Option<impl Layer<S> + use<S>>)>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let Some(collector) = collector else {
            return Ok((Self(None), None));
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", collector.trim_end_matches('/')))
            .build()
            .context("OTEL_EXPORTER_OTLP_ENDPOINT can't be used")?;
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_service_name("usher").build())
            .with_batch_exporter(exporter)
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("usher"));
        Ok((Self(Some(provider)), Some(layer)))
    }

    /// Sends the remaining spans.
    pub fn stop(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown()
        {
            eprintln!("the last traces could not be sent: {error}");
        }
    }
}

/// Adds a span to the trace of its correlation id. Without an exporter it does nothing.
pub(super) fn join_trace(span: &Span, correlation_id: &str) {
    let id = trace_id_of(correlation_id);
    let mut parent = [0; 8];
    parent.copy_from_slice(&id[8..]);
    let parent = SpanContext::new(
        TraceId::from_bytes(id),
        // The id of no span: the root of the trace is the correlation id itself.
        SpanId::from_bytes(parent),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    // An error means that there is no exporter.
    let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
}
