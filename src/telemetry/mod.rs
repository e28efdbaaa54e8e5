//! Logs and traces: one line per fact, for people or for machines, and what connects the facts.
//!
//! Everything that happens has a cause: an event from Clerk, known by its id, or a request to the API, known by the id
//! that it brings or is given. The cause travels with the jobs, so one word finds a webhook, its jobs and its mails in
//! the log, and all of them share one trace, whose id is derived from it.

mod filter;
mod otlp;
mod trace_id;

use std::io::stderr;
use std::panic::PanicHookInfo;

use tracing::Span;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

pub use filter::LogFilter;
pub use otlp::Exporter;
pub use trace_id::is_trace_id;

tokio::task_local! {
    static CAUSE: String;
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, one object a line.
    Json,
}

impl LogFormat {
    /// As the configuration names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Starts logging to standard error, and exporting where `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector.
///
/// # Errors
/// When the collector's address can't be used.
pub fn init(format: LogFormat, filter: Option<&LogFilter>, collector: Option<&str>) -> anyhow::Result<Exporter> {
    let (exporter, spans) = Exporter::start(collector)?;
    let registry = tracing_subscriber::registry()
        .with(filter::without_contents())
        .with(LogFilter::or_default(filter))
        .with(spans);
    // A second start, as in tests, keeps the first.
    let _ = match format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(stderr)).try_init(),
        LogFormat::Json => registry
            .with(fmt::layer().json().with_current_span(false).with_writer(stderr))
            .try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
    Ok(exporter)
}

/// The hook for panics: each is a line like any other, with the spans that it happened in: the job, the request.
pub fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // Only texts from the code itself: a formatted message could hold anything.
    let message = panic.payload().downcast_ref::<&str>().copied().unwrap_or("(formatted)");
    tracing::error!(panic.place = place, "panicked at {place}: {message}");
}

/// What caused the work that is going on here, if it is known.
#[must_use]
pub fn cause() -> Option<String> {
    CAUSE.try_with(Clone::clone).ok()
}

/// Does some work as caused by something: what it writes says so, and its span belongs to the cause's trace.
pub async fn caused_by<T>(cause: String, span: Span, work: impl Future<Output = T>) -> T {
    otlp::join_trace(&span, &cause);
    CAUSE.scope(cause, tracing::Instrument::instrument(work, span)).await
}
