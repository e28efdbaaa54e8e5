//! Logs and traces: one line per fact, for people or for machines, and what connects the facts.
//!
//! Everything has a correlation id: the id of an event from Clerk, or the id of an API request, given by the client or
//! by usher. It is stored with the jobs. So one search finds a webhook, its jobs and its mails in the log, and all of
//! them share one trace, whose id is derived from it.

mod filter;
mod otlp;
mod trace_id;

use std::io::stderr;
use std::panic::PanicHookInfo;

use anstream::{AutoStream, ColorChoice};
use tracing::Span;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

pub use filter::LogFilter;
pub use otlp::Exporter;
pub use trace_id::is_trace_id;

tokio::task_local! {
    static CORRELATION_ID: String;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object per line.
    Json,
}

impl LogFormat {
    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Starts logging to standard error, and exporting if `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector.
///
/// # Errors
/// When the collector's address can't be used.
pub fn init(format: LogFormat, filter: Option<&LogFilter>, collector: Option<&str>) -> anyhow::Result<Exporter> {
    let (exporter, spans) = Exporter::start(collector)?;
    let registry = tracing_subscriber::registry()
        .with(filter::without_contents())
        .with(LogFilter::or_default(filter))
        .with(spans);
    // A second start, as in tests, keeps the first logger.
    let _ = match format {
        LogFormat::Text => registry
            .with(fmt::layer().with_ansi(has_colours()).with_writer(stderr))
            .try_init(),
        LogFormat::Json => registry
            .with(fmt::layer().json().with_current_span(false).with_writer(stderr))
            .try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
    Ok(exporter)
}

/// Whether standard error is a terminal that shows colours, and they are wanted: `NO_COLOR` and `TERM=dumb` switch them off.
fn has_colours() -> bool {
    AutoStream::choice(&stderr()) != ColorChoice::Never
}

/// The panic hook: logs a panic as one line, with the spans around it (the job, the request).
pub fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // Only texts from the code itself: a formatted message may contain any data.
    let message = panic.payload().downcast_ref::<&str>().copied().unwrap_or("(formatted)");
    tracing::error!(panic.place = place, "panicked at {place}: {message}");
}

/// The correlation id of the current work, if it has one.
#[must_use]
pub fn correlation_id() -> Option<String> {
    CORRELATION_ID.try_with(Clone::clone).ok()
}

/// Runs some work with a correlation id: its log lines have the id, and its span joins the id's trace.
pub async fn with_correlation_id<T>(id: String, span: Span, work: impl Future<Output = T>) -> T {
    otlp::join_trace(&span, &id);
    CORRELATION_ID
        .scope(id, tracing::Instrument::instrument(work, span))
        .await
}
