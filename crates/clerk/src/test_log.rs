//! What is logged, for the tests of this crate.

use std::io;
use std::sync::{Arc, Mutex};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};

/// The lines that are logged on this thread from now on.
pub fn log() -> (Arc<Mutex<Vec<u8>>>, (Dispatch, DefaultGuard)) {
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    // With only one in the process, a thread without any may have a line switched off for all of them.
    let other = Dispatch::new(NoSubscriber::default());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || Lines(writer.clone()));
    (lines, (other, set_default(subscriber.finish())))
}
