//! The progress of a connection: what it waits for, and until when. Time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;

/// How long a connection that is to make room still has for bytes that are under way, or here and not read yet.
const LAST_CHANCE: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Opened; nothing has arrived.
    Silent,
    /// Answered; nothing more has arrived.
    Idle,
    /// A head has begun.
    Head,
    /// A handler has the request; its body may still be arriving.
    Request,
    /// The answer is being written.
    Answer,
    /// Closed on our side; what the client still sends is discarded.
    Closing,
}

/// What is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// The handler gets an error, and answers.
    Body,
    /// Anything else: the connection is closed.
    Connection,
}

/// One connection's progress.
#[derive(Debug)]
pub(super) struct Progress {
    phase: Phase,
    since: Instant,
    was_answered: bool,
    body: Body,
    write: Write,
    /// The last bytes that were read of a head.
    tail: [u8; 3],
    /// Whether bytes of the next head have arrived with this request or after it.
    next_has_begun: bool,
    /// Bytes in memory of an incomplete head or body.
    held: usize,
    /// When it was asked to make room, if nothing was read or written since.
    asked: Option<Instant>,
}

#[derive(Debug)]
struct Body {
    is_over: bool,
    bytes: u64,
    /// When it was first waited for.
    begun: Option<Instant>,
    waiting_since: Option<Instant>,
    /// The time waited so far, without the current wait.
    waited: Duration,
    is_late: bool,
}

impl Body {
    fn new(is_over: bool) -> Self {
        Self {
            is_over,
            bytes: 0,
            begun: None,
            waiting_since: None,
            waited: Duration::ZERO,
            is_late: false,
        }
    }
}

#[derive(Debug)]
struct Write {
    since: Instant,
    bytes: u64,
    blocked_since: Option<Instant>,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Silent,
            since: now,
            was_answered: false,
            body: Body::new(true),
            write: Write {
                since: now,
                bytes: 0,
                blocked_since: None,
            },
            tail: [0; 3],
            next_has_begun: false,
            held: 0,
            asked: None,
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
    }

    /// Bytes were read.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) {
        self.asked = None;
        match self.phase {
            Phase::Silent | Phase::Idle => self.enter(Phase::Head, now),
            Phase::Request | Phase::Answer if self.body.is_over => self.next_has_begun = true,
            Phase::Closing => return,
            _ => {}
        }
        if self.phase == Phase::Head {
            for &byte in &bytes[bytes.len().saturating_sub(self.tail.len())..] {
                self.tail = [self.tail[1], self.tail[2], byte];
            }
        }
        if self.phase == Phase::Head || !self.body.is_over {
            self.held += bytes.len();
        }
    }

    /// A head is complete, and a handler is called.
    pub(super) fn request(&mut self, has_body: bool, now: Instant) {
        let ends_with_head = self.tail == *b"\n\r\n" || self.tail[1..] == *b"\n\n";
        self.enter(Phase::Request, now);
        self.body = Body::new(!has_body);
        self.next_has_begun = !has_body && !ends_with_head;
        if !has_body {
            self.held = 0;
        }
    }

    /// The handler waits for more of the body.
    pub(super) fn body_waits(&mut self, now: Instant) {
        self.body.begun.get_or_insert(now);
        self.body.waiting_since.get_or_insert(now);
    }

    /// More of the body came, or its end.
    pub(super) fn body_came(&mut self, bytes: usize, is_over: bool, now: Instant) {
        if let Some(since) = self.body.waiting_since.take() {
            self.body.waited += now.saturating_duration_since(since);
        }
        self.body.bytes += bytes as u64;
        self.body.is_over = is_over;
        if is_over {
            self.held = 0;
        }
    }

    /// Whether the body's time is over.
    pub(super) fn body_is_late(&self) -> bool {
        self.body.is_late
    }

    /// How long this request's handler has waited for its client.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        let under_way = self
            .body
            .waiting_since
            .map(|since| now.saturating_duration_since(since));
        self.body.waited + under_way.unwrap_or_default()
    }

    /// The handler has answered.
    pub(super) fn answer(&mut self, now: Instant) {
        self.enter(Phase::Answer, now);
        self.body.waiting_since = None;
        // A blocked earlier answer already has its own deadline.
        if self.write.blocked_since.is_none() {
            (self.write.since, self.write.bytes) = (now, 0);
        }
    }

    /// The whole answer was written.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.phase != Phase::Answer {
            return;
        }
        let next = if self.next_has_begun { Phase::Head } else { Phase::Idle };
        self.enter(next, now);
        self.was_answered = true;
        self.held = 0;
    }

    /// The client read bytes of the answer.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.write.bytes += bytes as u64;
        self.write.blocked_since = None;
        self.asked = None;
    }

    /// The client does not read.
    pub(super) fn write_waits(&mut self, now: Instant) {
        if self.write.blocked_since.is_none() && matches!(self.phase, Phase::Head | Phase::Request) {
            // Not a handler's answer: a refused head, or "100 Continue".
            (self.write.since, self.write.bytes) = (now, 0);
        }
        self.write.blocked_since.get_or_insert(now);
    }

    /// Our side was closed. Returns whether more bytes of the request may arrive.
    pub(super) fn closes(&mut self, now: Instant) -> bool {
        let may_come = self.phase == Phase::Head || !self.body.is_over;
        self.enter(Phase::Closing, now);
        self.held = 0;
        may_come
    }

    /// Until when the client must act, and what is late otherwise.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<(Instant, Late)> {
        let reading = match self.phase {
            Phase::Silent | Phase::Head => Some((self.since + limits.head, Late::Connection)),
            Phase::Idle => Some((self.since + limits.idle, Late::Connection)),
            Phase::Closing => Some((self.since + limits.linger, Late::Connection)),
            Phase::Request => self.body_deadline(limits).map(|deadline| (deadline, Late::Body)),
            Phase::Answer => None,
        };
        let writing = self.write.blocked_since.map(|since| {
            let in_all = self.write.since + limits.in_all(limits.write, self.write.bytes);
            (in_all.min(since + limits.write), Late::Connection)
        });
        let making_room = self.makes_room_at().map(|at| (at, Late::Connection));
        let all = reading.into_iter().chain(writing).chain(making_room);
        all.min_by_key(|(deadline, _)| *deadline)
    }

    /// Another connection needs the room. This one is closed unless the client acts at once: its bytes may have arrived, but
    /// not been read yet.
    pub(super) fn ask_for_room(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// When it is closed to make room, if it was asked to and the client still keeps us waiting.
    pub(super) fn makes_room_at(&self) -> Option<Instant> {
        let asked = self.asked?;
        (self.waiting_since()? <= asked).then(|| asked + LAST_CHANCE)
    }

    fn body_deadline(&self, limits: &Limits) -> Option<Instant> {
        let (begun, waiting_since) = (self.body.begun?, self.body.waiting_since?);
        let in_all = begun + limits.in_all(limits.body, self.body.bytes);
        (!self.body.is_late).then(|| in_all.min(waiting_since + limits.body))
    }

    /// The deadline has passed.
    pub(super) fn is_late(&mut self, late: Late) {
        if late == Late::Body {
            self.body.is_late = true;
        }
    }

    /// Since when the client has kept us waiting, if it does.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let for_bytes = match self.phase {
            Phase::Silent | Phase::Idle | Phase::Head | Phase::Closing => Some(self.since),
            Phase::Request => self.body.waiting_since,
            Phase::Answer => None,
        };
        for_bytes.or(self.write.blocked_since)
    }

    /// Whether a request was answered.
    pub(super) fn was_answered(&self) -> bool {
        self.was_answered
    }

    /// Bytes in memory of an incomplete head or body.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: usher\r\n\r\n";

    struct Story {
        start: Instant,
        limits: Limits,
        progress: Progress,
    }

    impl Story {
        fn begin() -> Self {
            let start = Instant::now();
            Self {
                start,
                limits: Limits::public(1),
                progress: Progress::new(start),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// The deadline in whole seconds since the start.
        fn deadline(&self) -> Option<u64> {
            let (deadline, _) = self.progress.deadline(&self.limits)?;
            Some((deadline - self.start).as_secs())
        }

        /// A request that came as a whole at this second and is answered at once.
        fn answered_at(&mut self, bytes: &[u8], seconds: u64) {
            let at = self.at(seconds);
            self.progress.read(bytes, at);
            self.progress.request(false, at);
            self.progress.answer(at);
            self.progress.wrote(100);
            self.progress.answered(at);
        }
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_and_a_kept_connection_may_rest_before() {
        let mut story = Story::begin();
        assert_eq!(story.deadline(), Some(10), "nothing was ever sent");
        story.progress.read(b"GET", story.at(8));
        story.progress.read(b" /", story.at(15));
        assert_eq!(story.deadline(), Some(18), "more bytes are no more time");
        story.answered_at(HEAD, 17);
        assert_eq!(story.deadline(), Some(92));
        story.progress.read(b"G", story.at(80));
        assert_eq!(story.deadline(), Some(90));
    }

    #[test]
    fn a_head_that_began_behind_another_request_does_not_rest() {
        let mut story = Story::begin();
        story.answered_at(&[HEAD, b"GET /"].concat(), 3);
        assert_eq!(story.deadline(), Some(13), "with it");
        let mut story = Story::begin();
        story.progress.read(HEAD, story.at(1));
        story.progress.request(false, story.at(1));
        story.progress.read(b"GET /", story.at(2));
        story.progress.answer(story.at(3));
        story.progress.answered(story.at(3));
        assert_eq!(story.deadline(), Some(13), "while it was worked on");
        let mut story = Story::begin();
        story.answered_at(&[HEAD, HEAD].concat(), 3);
        story.answered_at(b"", 3);
        assert_eq!(story.deadline(), Some(78), "two whole ones");
    }

    #[test]
    fn a_body_has_its_time_from_when_it_is_wanted_and_more_the_more_of_it_comes() {
        let mut story = Story::begin();
        story.progress.read(HEAD, story.at(0));
        story.progress.request(true, story.at(0));
        assert_eq!(story.deadline(), None, "the handler is at work");
        story.progress.body_waits(story.at(2));
        assert_eq!(story.deadline(), Some(12));
        story.progress.body_came(1, false, story.at(11));
        story.progress.body_waits(story.at(11));
        assert_eq!(story.deadline(), Some(12), "one byte is no more time");
        story.progress.body_came(1 << 20, false, story.at(11));
        story.progress.body_waits(story.at(11));
        assert_eq!(
            story.deadline(),
            Some(21),
            "a MiB is, but no rest of more than ten seconds"
        );
        assert_eq!(story.progress.waited(story.at(14)), Duration::from_secs(12));
        story.progress.is_late(Late::Body);
        assert_eq!(story.deadline(), None, "the handler answers that it is late");
        story.progress.answer(story.at(21));
        story.progress.answered(story.at(21));
        assert!(story.progress.closes(story.at(21)), "the rest may still come");
        assert_eq!(story.deadline(), Some(23));
    }

    #[test]
    fn an_answer_that_nobody_takes_has_its_time() {
        let mut story = Story::begin();
        story.progress.read(HEAD, story.at(0));
        story.progress.request(false, story.at(0));
        story.progress.answer(story.at(1));
        story.progress.write_waits(story.at(1));
        assert_eq!(story.deadline(), Some(11));
        story.progress.wrote(20);
        story.progress.write_waits(story.at(9));
        assert_eq!(story.deadline(), Some(11), "a trickle is no more time");
        story.progress.answered(story.at(9));
        assert_eq!(story.deadline(), Some(11), "nor the rest from the buffers");
    }

    #[test]
    fn who_is_asked_to_make_room_is_closed_unless_something_has_come() {
        let mut story = Story::begin();
        let asked = story.at(1);
        story.progress.ask_for_room(asked);
        assert_eq!(story.progress.makes_room_at(), Some(asked + LAST_CHANCE));
        assert_eq!(story.deadline(), Some(1));
        story.progress.read(b"GET", story.at(1));
        assert_eq!((story.progress.makes_room_at(), story.deadline()), (None, Some(11)));
        story.progress.ask_for_room(story.at(2));
        story.progress.read(HEAD, story.at(2));
        story.progress.request(false, story.at(2));
        story.progress.ask_for_room(story.at(3));
        assert_eq!(story.progress.makes_room_at(), None, "it is being worked on");
    }

    #[test]
    fn memory_is_held_by_what_is_not_there_as_a_whole() {
        let mut story = Story::begin();
        story.progress.read(HEAD, story.at(0));
        assert_eq!(story.progress.held(), HEAD.len());
        story.progress.request(true, story.at(0));
        story.progress.read(&[0; 100], story.at(0));
        assert_eq!(story.progress.held(), HEAD.len() + 100);
        story.progress.body_came(100, true, story.at(0));
        assert_eq!(story.progress.held(), 0);
    }
}
