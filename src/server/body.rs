//! Request bodies: read within limits of size and time.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures::future::poll_fn;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::connections::Connection;

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is, or its `Content-Length` says that it will be.
    #[error("the body is too large")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TimedOut,
    #[error("the body ended early")]
    BrokenOff,
}

/// The error at the end of a body that did not arrive in time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the client took too long")]
pub struct BodyTimedOut;

/// Reads a whole body of at most so many bytes. One that announces more is not begun with.
pub async fn read_body(headers: &HeaderMap, mut body: Body, most: usize) -> Result<Vec<u8>, BodyError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        .unwrap_or_default()
        .max(body.size_hint().lower());
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if announced > most {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|error| why(&error))?.into_data() else {
            continue;
        };
        if data.len() > most - bytes.len() {
            return Err(BodyError::TooLarge);
        }
        if bytes.is_empty() {
            // What was only announced takes no memory.
            bytes.reserve_exact(data.len().max(announced.min(ANNOUNCED)));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Bytes that are made room for on the word of a `Content-Length`.
const ANNOUNCED: usize = 16 * 1024;

fn why(error: &(dyn Error + 'static)) -> BodyError {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    if causes.into_iter().any(|cause| cause.is::<BodyTimedOut>()) {
        BodyError::TimedOut
    } else {
        BodyError::BrokenOff
    }
}

/// A body with a time limit for its client.
pub(super) struct TimedBody {
    body: Incoming,
    connection: Arc<Connection>,
}

impl TimedBody {
    pub(super) fn new(body: Incoming, connection: Arc<Connection>) -> Self {
        Self { body, connection }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let connection = Arc::clone(&self.connection);
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                connection.wake_reader_when_late(cx.waker());
                let is_late = connection.note(|progress| {
                    progress.body_waits(Instant::now());
                    progress.body_is_late()
                });
                if is_late {
                    return Poll::Ready(Some(Err(BodyTimedOut.into())));
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let is_over = self.body.is_end_stream();
                connection.note(|progress| progress.body_came(bytes, is_over, Instant::now()));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                connection.note(|progress| progress.body_came(0, true, Instant::now()));
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a request's handler has waited for its client. An extension of requests from a listener.
#[derive(Clone)]
pub struct ClientTime(Arc<Connection>);

impl ClientTime {
    pub(super) fn of(connection: Arc<Connection>) -> Self {
        Self(connection)
    }

    fn waited(&self) -> Duration {
        self.0.note(|progress| progress.waited(Instant::now()))
    }
}

/// Runs `work` with a time limit. Waiting for the client does not count: that has its own limit. `None` if it took longer.
pub async fn within<T>(limit: Duration, client: Option<ClientTime>, work: impl Future<Output = T>) -> Option<T> {
    let started = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut left = limit;
    loop {
        if let Ok(done) = tokio::time::timeout(left, &mut work).await {
            return Some(done);
        }
        let waited = client.as_ref().map(ClientTime::waited).unwrap_or_default();
        left = limit.saturating_sub(started.elapsed().saturating_sub(waited));
        if left.is_zero() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connections::Connections;
    use super::super::limits::Limits;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_client_takes_for_its_body_is_not_ours() {
        const LIMIT: Duration = Duration::from_secs(12);
        let all = Connections::new("public", Limits::public(1));
        let connection = Arc::clone(&all.accept().await.connection);
        let client = Some(ClientTime::of(Arc::clone(&connection)));
        let work = |waits: u64, works: u64| {
            let connection = Arc::clone(&connection);
            async move {
                connection.note(|progress| progress.request(true, Instant::now()));
                connection.note(|progress| progress.body_waits(Instant::now()));
                tokio::time::sleep(Duration::from_secs(waits)).await;
                connection.note(|progress| progress.body_came(1, true, Instant::now()));
                tokio::time::sleep(Duration::from_secs(works)).await;
            }
        };
        assert_eq!(within(LIMIT, client.clone(), work(60, 11)).await, Some(()));
        assert_eq!(within(LIMIT, client, work(60, 13)).await, None);
        assert_eq!(within(LIMIT, None, work(60, 1)).await, None);
    }

    async fn read(body: Body, most: usize) -> Result<Vec<u8>, BodyError> {
        read_body(&HeaderMap::new(), body, most).await
    }

    fn parts(parts: Vec<Result<&'static str, Box<dyn Error + Send + Sync>>>) -> Body {
        Body::from_stream(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_body_is_told_apart() {
        assert_eq!(read(Body::from("four"), 4).await, Ok(b"four".to_vec()));
        assert_eq!(read(parts(vec![Ok("fo"), Ok("ur")]), 4).await, Ok(b"four".to_vec()));
        assert_eq!(read(Body::empty(), 0).await, Ok(Vec::new()));
        assert_eq!(read(Body::from("fives"), 4).await, Err(BodyError::TooLarge));
        assert_eq!(
            read(parts(vec![Ok("fo"), Ok("urs")]), 4).await,
            Err(BodyError::TooLarge)
        );
        let late = parts(vec![Ok("fo"), Err(BodyTimedOut.into())]);
        assert_eq!(read(late, 4).await, Err(BodyError::TimedOut));
        let broken = parts(vec![Ok("fo"), Err("reset".into())]);
        assert_eq!(read(broken, 4).await, Err(BodyError::BrokenOff));
        let mut headers = HeaderMap::new();
        headers.insert("content-length", "5".parse().unwrap());
        assert_eq!(read_body(&headers, Body::empty(), 4).await, Err(BodyError::TooLarge));
    }
}
