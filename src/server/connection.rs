//! One connection: HTTP/1 by hyper, over a stream that records reads and writes. Its task closes it when the client is too
//! slow.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use futures::future::poll_fn;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service as _;

use super::body::{ClientTime, TimedBody};
use super::connections::{Connection, OpenConnection};
use super::limits::Limits;
use super::progress::Late;

/// Bytes of a body or an answer that a connection buffers before it waits.
const BUFFER: usize = 64 * 1024;
/// Bytes that are thrown away after an answer that did not wait for them. Whoever sends more may miss the answer.
const MOST_DISCARDED: usize = 8 * 1024 * 1024;

/// Serves one client until it goes, is told to, or keeps us waiting too long.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, router: Router, open: OpenConnection) {
    let connection = Arc::clone(&open.connection);
    let mut watch = Watch::new(Arc::clone(&connection));
    // A silent client gets no buffers.
    let speaks = poll_fn(|cx| {
        if let Poll::Ready(ready) = stream.poll_read_ready(cx) {
            return Poll::Ready(ready.is_ok());
        }
        watch.poll(cx).map(|_| false)
    });
    if speaks.await {
        Box::pin(serve_http(stream, peer, router, connection, watch)).await;
    }
}

async fn serve_http(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    connection: Arc<Connection>,
    mut watch: Watch,
) {
    let stream = TokioIo::new(NotedStream::new(stream, Arc::clone(&connection)));
    let handler = Handler {
        router,
        peer,
        connection: Arc::clone(&connection),
    };
    let mut http = pin!(protocol(connection.limits()).serve_connection(stream, handler));
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(error = %error, "a connection was closed by an error");
                }
                return Poll::Ready(());
            }
            match ready!(watch.poll(cx)) {
                End::Close => return Poll::Ready(()),
                End::Finish => http.as_mut().graceful_shutdown(),
            }
        }
    })
    .await;
}

/// HTTP/1 only. hyper's own timer is off: it would also run while a kept-alive connection is idle.
fn protocol(limits: &Limits) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .header_read_timeout(None)
        .max_header_size(limits.head_size)
        .max_buf_size(BUFFER.max(limits.head_size));
    protocol
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// At once.
    Close,
    /// After the current request.
    Finish,
}

/// Watches one connection's deadline, and the listener's orders to it.
struct Watch {
    connection: Arc<Connection>,
    sleep: Pin<Box<Sleep>>,
    is_finishing: bool,
}

impl Watch {
    fn new(connection: Arc<Connection>) -> Self {
        let deadline = connection
            .deadline()
            .map_or_else(Instant::now, |(deadline, _)| deadline);
        Self {
            connection,
            sleep: Box::pin(sleep_until(deadline)),
            is_finishing: false,
        }
    }

    /// Ready when the connection must end. Poll it after each step of the connection, which may move the deadline.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.connection.listen_for_orders(cx);
        if self.connection.is_to_close() {
            return Poll::Ready(End::Close);
        }
        if self.connection.is_to_finish() && !self.is_finishing {
            self.is_finishing = true;
            return Poll::Ready(End::Finish);
        }
        while let Some((deadline, late)) = self.connection.deadline() {
            // The timer is not moved to a later deadline before it fires: most deadlines move again before that.
            if deadline < self.sleep.deadline() || self.sleep.is_elapsed() {
                self.sleep.as_mut().reset(deadline);
            }
            ready!(self.sleep.as_mut().poll(cx));
            if self.connection.deadline() != Some((deadline, late)) || Instant::now() < deadline {
                continue;
            }
            self.connection.is_late(late);
            if late == Late::Connection {
                return Poll::Ready(End::Close);
            }
        }
        Poll::Pending
    }
}

/// The stream, with what comes and goes noted.
struct NotedStream {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// After our side is closed: how many more bytes may be discarded.
    discards: Option<usize>,
}

impl NotedStream {
    fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            discards: None,
        }
    }

    fn note_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.connection.note(|progress| progress.wrote(*bytes)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.connection.note(|progress| progress.write_waits(Instant::now())),
        }
        written
    }
}

impl AsyncRead for NotedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() {
            self.connection.note(|progress| progress.read(bytes, Instant::now()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for NotedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes our side. If the client may still be sending, its bytes are read and discarded for a while: closing with unread
    /// bytes resets the connection, and the client might never see its answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.discards.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let may_come = self.connection.note(|progress| progress.closes(Instant::now()));
            self.discards = Some(if may_come { MOST_DISCARDED } else { 0 });
        }
        let mut scratch = [0; 4096];
        while let Some(left) = self.discards.filter(|left| *left > 0) {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
            let bytes = buffer.filled().len();
            if read.is_err() || bytes == 0 {
                break;
            }
            self.discards = Some(left.saturating_sub(bytes));
        }
        Poll::Ready(Ok(()))
    }
}

/// Passes requests to the routes.
struct Handler {
    router: Router,
    peer: SocketAddr,
    connection: Arc<Connection>,
}

impl Service<Request<Incoming>> for Handler {
    type Response = Response<NotedAnswer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let connection = Arc::clone(&self.connection);
        let has_body = !request.body().is_end_stream();
        connection.note(|progress| progress.request(has_body, Instant::now()));
        let mut request = request.map(|body| {
            if has_body {
                Body::new(TimedBody::new(body, Arc::clone(&connection)))
            } else {
                Body::empty()
            }
        });
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        extensions.insert(ClientTime::of(Arc::clone(&connection)));
        let answer = self.router.clone().call(request);
        Box::pin(async move {
            let answer = answer.await?;
            connection.note(|progress| progress.answer(Instant::now()));
            Ok(answer.map(|body| NotedAnswer { body, connection }))
        })
    }
}

/// An answer's body, which notes its end.
struct NotedAnswer {
    body: Body,
    connection: Arc<Connection>,
}

impl HttpBody for NotedAnswer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for NotedAnswer {
    fn drop(&mut self) {
        self.connection.note(|progress| progress.answered(Instant::now()));
    }
}
