//! Shut down softly on the first signal, at once on the second.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled once the process is asked to stop. An extension of the routes.
#[derive(Debug, Clone)]
pub struct Stopping(pub CancellationToken);

/// A token that the first SIGTERM or SIGINT cancels. A second one ends the process at once; its running jobs are run again.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping; send a second signal to stop immediately");
        cancel.cancel();
        next().await;
        tracing::warn!("stopping immediately");
        std::process::exit(130);
    });
    Ok(token)
}
