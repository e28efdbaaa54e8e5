//! Clients that say nothing, say it slowly, never listen, or come in crowds: they get their time and no more, and nobody
//! else notices.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use usher::app::App;
use usher::clock::Clock;
use usher::server::Limits;
use usher::service::{Role, Service};

use crate::support::app::{API_KEY, settings};
use crate::support::process::{UsherProcess, signed, told_of};
use crate::support::smtp::SmtpServer;
use crate::support::{TestDatabase, on_both_databases};

/// usher in this process, on real sockets, with limits that a story can wait for.
struct Usher {
    service: Service,
    public: SocketAddr,
    private: SocketAddr,
    _database: TestDatabase,
}

/// What every limit of time is in most stories.
const LIMIT: Duration = Duration::from_millis(400);
/// Long enough for everything that is due to have happened, on a busy machine, too.
const LONG: Duration = Duration::from_secs(30);

fn short() -> Limits {
    Limits {
        head: LIMIT,
        idle: LONG,
        body: LIMIT,
        write: LIMIT,
        linger: LIMIT,
        stop: LIMIT,
        ..Limits::public(10_000)
    }
}

impl Usher {
    async fn start(limits: Limits) -> Self {
        Self::start_on(TestDatabase::sqlite().await, limits).await
    }

    async fn start_on(database: TestDatabase, limits: Limits) -> Self {
        let mut settings = settings(&database.url, "smtp://127.0.0.1:9");
        settings.usher_listen = Some("127.0.0.1:0".to_owned());
        settings.usher_admin_listen = Some("127.0.0.1:0".to_owned());
        settings.usher_drain_time = Some("off".to_owned());
        settings.usher_rate_limit = Some("off".to_owned());
        let config = settings.resolve_in(database.folder.path()).unwrap();
        let app = App::new(config, Clock::System).await.unwrap();
        let service = Service::start_within(app, Role::Api, limits).await.unwrap();
        Self {
            public: service.address().unwrap(),
            private: service.admin_address(),
            service,
            _database: database,
        }
    }

    async fn client(&self) -> Client {
        Client::open(self.public).await
    }

    /// A client whose first request was answered.
    async fn answered(&self) -> Client {
        let mut client = self.client().await;
        client.say(SMALL).await;
        assert_eq!(client.answer().await.status, 200);
        client
    }

    async fn is_ready(&self) -> bool {
        let mut client = Client::open(self.private).await;
        client.say("GET /readyz HTTP/1.1\r\nHost: usher\r\n\r\n").await;
        client.answer().await.status == 200
    }

    /// How many webhooks had this outcome.
    async fn webhooks(&self, outcome: &str) -> u32 {
        let mut client = Client::open(self.private).await;
        client.say("GET /metrics HTTP/1.1\r\nHost: usher\r\n\r\n").await;
        let page = client.answer().await.body;
        let name = format!("usher_webhooks_total{{type=\"unknown\",outcome=\"{outcome}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{outcome} in {page}")).parse().unwrap()
    }
}

const SMALL: &str = "GET /openapi.json HTTP/1.1\r\nHost: usher\r\n\r\n";
const HALF_A_HEAD: &str = "GET /openapi.json HTTP/1.1\r\nHost: ush";

/// A webhook that Clerk signed: its head, and its body.
fn webhook(id: &str) -> (String, String) {
    let body = told_of(&format!("user_{id}"), &format!("{id}@example.com")).to_string();
    let headers = signed(id, &body).map(|(name, value)| format!("{name}: {value}\r\n"));
    let head = format!(
        "POST /webhooks/clerk HTTP/1.1\r\nHost: usher\r\nContent-Length: {}\r\n{}\r\n",
        body.len(),
        headers.concat()
    );
    (head, body)
}

/// A call of the app with a body of so many bytes, to what takes the longest ones.
fn call(length: usize) -> String {
    format!(
        "POST /v1/invites/batch HTTP/1.1\r\nHost: usher\r\nAuthorization: Bearer {API_KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

struct Client(TcpStream);

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn problem(&self, status: u16, code: &str) {
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_default();
        assert_eq!((self.status, &problem["code"]), (status, &json!(code)), "{self:?}");
    }
}

impl Client {
    async fn open(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Says it byte by byte until usher has had enough, or all is said.
    async fn trickle(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.0.write_all(&[byte]).await.is_err() {
                return;
            }
            let answered = timeout(LIMIT / 20, self.0.readable()).await;
            if answered.is_ok() {
                return;
            }
        }
    }

    async fn answer(&mut self) -> Answer {
        let read = async {
            let mut bytes = Vec::new();
            loop {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    if body.len() >= length.unwrap_or("0").parse().unwrap() {
                        return Answer {
                            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
                            head: head.to_owned(),
                            body: body.to_owned(),
                        };
                    }
                }
                let read = self.0.read_buf(&mut bytes).await;
                assert_ne!(
                    read.expect("an answer, not a reset"),
                    0,
                    "an answer, not an end: {text:?}"
                );
            }
        };
        timeout(LONG, read).await.expect("an answer in time")
    }

    /// Waits until usher closes the connection; how many bytes came before.
    async fn end(&mut self) -> usize {
        let mut bytes = Vec::new();
        let ended = timeout(LONG, self.0.read_to_end(&mut bytes)).await;
        let _ = ended.expect("it is closed");
        bytes.len()
    }

    /// Whether usher has closed the connection by now.
    async fn is_over(&mut self) -> bool {
        let read = timeout(Duration::from_millis(50), self.0.read(&mut [0])).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }
}

#[tokio::test]
async fn a_head_must_come_within_its_time_however_it_comes() {
    let usher = Usher::start(short()).await;
    let started = Instant::now();
    let (mut silent, mut half, mut slow) = (usher.client().await, usher.client().await, usher.client().await);
    half.say(HALF_A_HEAD).await;
    let long_head = format!("GET /openapi.json HTTP/1.1\r\nCookie: {}", "x".repeat(10_000));
    tokio::join!(slow.trickle(&long_head), silent.end(), half.end());
    slow.end().await;
    assert!(started.elapsed() >= LIMIT);
}

#[tokio::test]
async fn a_kept_connection_may_rest_longer_than_a_head_may_take() {
    let usher = Usher::start(short()).await;
    let mut kept = usher.answered().await;
    let mut pipelined = usher.client().await;
    pipelined.say(&format!("{SMALL}{HALF_A_HEAD}")).await;
    pipelined.answer().await;
    sleep(LIMIT * 3).await;
    assert!(pipelined.is_over().await, "half a head does not rest");
    kept.say(SMALL).await;
    assert_eq!(kept.answer().await.status, 200);
    kept.say(HALF_A_HEAD).await;
    kept.end().await;

    let usher = Usher::start(Limits { idle: LIMIT, ..short() }).await;
    assert_eq!(usher.answered().await.end().await, 0, "but not for ever");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408_and_not_the_databases_fault() {
    let usher = Usher::start(short()).await;
    let (head, body) = webhook("msg_slow");
    let answers = async |head: &str, begin: &str, trickled: &str| {
        let mut client = usher.client().await;
        client.say(head).await;
        client.say(begin).await;
        client.trickle(trickled).await;
        let answer = client.answer().await;
        answer.problem(408, "request_timeout");
        assert!(answer.head.contains("connection: close"), "{answer:?}");
        client.end().await;
    };
    let (api, chunked) = (
        call(300_000),
        head.replace(&format!("Content-Length: {}", body.len()), "Transfer-Encoding: chunked"),
    );
    let trickle = &"x".repeat(1000);
    tokio::join!(
        answers(&head, "", ""),
        answers(&head, &body[..10], ""),
        answers(&head, "", &body[..body.len() - 1]),
        answers(&chunked, "5\r\n{\"typ", ""),
        answers(&api, "", ""),
        answers(&api, "{", ""),
        answers(&api, "{", trickle),
    );
    assert_eq!(usher.webhooks("timed_out").await, 4);
    assert_eq!(usher.webhooks("store_away").await, 0);
    assert!(usher.is_ready().await);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_400_and_not_too_large() {
    let usher = Usher::start(short()).await;
    let (head, body) = webhook("msg_cut");
    for (head, body) in [(head, body), (call(300), "{\"name\": ".to_owned())] {
        let mut client = usher.client().await;
        client.say(&head).await;
        client.say(&body[..body.len() / 2]).await;
        client.0.shutdown().await.unwrap();
        client.answer().await.problem(400, "unreadable_body");
    }
    assert_eq!(usher.webhooks("unreadable").await, 1);
    assert_eq!(usher.webhooks("too_large").await, 0);
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_body_arrives_while_the_client_still_sends() {
    let usher = Usher::start(Limits {
        linger: LONG,
        ..short()
    })
    .await;
    let body = "x".repeat(2_000_000);
    let unsigned = "POST /webhooks/clerk HTTP/1.1\r\nHost: usher\r\nContent-Length: 200000\r\n\r\n";
    let mut client = usher.client().await;
    client.say(unsigned).await;
    client.answer().await.problem(401, "bad_signature");
    let (head, signed) = webhook("msg_big");
    let too_long = head.replace(&format!("Length: {}", signed.len()), "Length: 2000000");
    for (head, body, status) in [
        (unsigned.to_owned(), &body[..200_000], 401),
        (unsigned.replace("200000", "2000000"), &body, 401),
        (too_long, &body, 413),
        (call(50_000_000), &body, 413),
        (call(300_000).replace(API_KEY, "wrong"), &body[..300_000], 401),
    ] {
        let mut client = usher.client().await;
        client.say(&head).await;
        client.say(body).await;
        assert_eq!(client.answer().await.status, status, "{head}");
    }
}

#[tokio::test]
async fn a_webhook_that_cannot_be_signed_is_refused_before_its_body_is_read() {
    let usher = Usher::start(Limits::public(100)).await;
    let (head, _) = webhook("msg_1");
    let without = |name: &str| {
        let lines = head.split_inclusive("\r\n").filter(|line| !line.starts_with(name));
        lines.collect::<String>()
    };
    let timestamp = head.lines().find(|line| line.starts_with("svix-timestamp")).unwrap();
    for head in [
        without("svix-id"),
        without("svix-timestamp"),
        without("svix-signature"),
        head.replace(timestamp, "svix-timestamp: 1600000000"),
        head.replace(timestamp, "svix-timestamp: -9223372036854775808"),
        head.replace("v1,", "v1a,"),
    ] {
        let mut client = usher.client().await;
        client.say(&head).await;
        client.answer().await.problem(401, "bad_signature");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_431() {
    let usher = Usher::start(short()).await;
    let large = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(40_000));
    let endless = format!("GET /{}", "x".repeat(500_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    for head in [large, endless, many] {
        let mut client = usher.client().await;
        client.say(&head).await;
        assert_eq!(client.answer().await.status, 431);
        client.end().await;
    }
    let mut client = usher.client().await;
    let fits = format!(
        "GET /openapi.json HTTP/1.1\r\nHost: usher\r\nCookie: {}\r\n\r\n",
        "x".repeat(30_000)
    );
    client.say(&fits).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_cut_off() {
    let usher = Usher::start(short()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = Client(socket.connect(usher.public).await.unwrap());
    let size = {
        let mut client = usher.client().await;
        client.say(SMALL).await;
        client.answer().await.body.len()
    };
    let requests = 1 + 20_000_000 / size;
    let _ = timeout(LIMIT, deaf.say(&SMALL.repeat(requests))).await;
    sleep(LIMIT * 3).await;
    assert!(deaf.end().await < requests * size, "not all of them were written");
}

#[tokio::test]
async fn a_full_listener_closes_the_oldest_that_was_never_answered() {
    let usher = Usher::start(Limits {
        connections: 8,
        ..Limits::public(8)
    })
    .await;
    let mut kept = usher.answered().await;
    let mut busy = usher.client().await;
    let (head, body) = webhook("msg_busy");
    busy.say(&head).await;
    let mut crowd = Vec::new();
    for number in 0..40 {
        let mut client = usher.client().await;
        if number % 2 == 0 {
            client.say(HALF_A_HEAD).await;
        }
        crowd.push(client);
    }
    let mut newcomer = usher.answered().await;
    let mut over = Vec::new();
    for client in &mut crowd {
        over.push(client.is_over().await);
    }
    assert!(over[..33].iter().all(|over| *over), "{over:?}");
    assert!(over[36..].iter().all(|over| !over), "{over:?}");
    for client in [&mut kept, &mut newcomer] {
        client.say(SMALL).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert!(busy.is_over().await, "the oldest of all whose request was not there");
    assert!(usher.is_ready().await);
    let mut again = usher.client().await;
    again.say(&format!("{head}{body}")).await;
    assert_eq!(again.answer().await.status, 202);
}

#[tokio::test]
async fn unfinished_requests_share_a_limited_memory() {
    let usher = Usher::start(Limits {
        unfinished: 256 * 1024,
        body: LONG,
        ..Limits::public(100)
    })
    .await;
    let half = "x".repeat(60 * 1024);
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = usher.client().await;
        client.say(&call(200_000)).await;
        client.say(&half).await;
        slow.push(client);
    }
    sleep(Duration::from_millis(1500)).await;
    let mut next = usher.client().await;
    next.say(&call(200_000)).await;
    next.say(&half).await;
    assert_eq!(slow[0].end().await, 0, "the slowest is closed");
    assert!(
        !slow[3].is_over().await && !next.is_over().await,
        "no more than it takes"
    );
}

on_both_databases!(multi_thread fifteen_hundred_that_keep_it_waiting_keep_nobody_else);

/// More than may be connected, so that the oldest are closed while webhooks come on new connections.
async fn fifteen_hundred_that_keep_it_waiting_keep_nobody_else(database: TestDatabase) {
    let usher = Usher::start_on(database, Limits::public(1000)).await;
    let mut kept = usher.answered().await;
    let mut opening = JoinSet::new();
    for number in 0..1500 {
        let address = usher.public;
        opening.spawn(async move {
            let mut client = Client::open(address).await;
            let (head, _) = webhook(&format!("msg_never_{number}"));
            let said = match number % 3 {
                0 => "",
                1 => HALF_A_HEAD,
                _ => &head,
            };
            // It may have been closed by now.
            let _ = client.0.write_all(said.as_bytes()).await;
            client
        });
    }
    let mut slowest = Duration::ZERO;
    for number in 0..50 {
        let (head, body) = webhook(&format!("msg_{number}"));
        let started = Instant::now();
        let mut client = usher.client().await;
        client.say(&format!("{head}{body}")).await;
        assert_eq!(client.answer().await.status, 202);
        assert!(usher.is_ready().await);
        slowest = slowest.max(started.elapsed());
    }
    let crowd = opening.join_all().await;
    kept.say(SMALL).await;
    assert_eq!(
        kept.answer().await.status,
        200,
        "whoever was answered before is still connected"
    );
    // The real limit is far lower: this is a debug build beside other tests.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    drop(crowd);
}

/// The private listener has connections and files of its own, and so has the rest of the process.
#[tokio::test]
async fn a_process_that_may_open_few_files_serves_on_when_all_are_wanted() {
    let database = TestDatabase::sqlite().await;
    let smtp = SmtpServer::start().await;
    let program = ["prlimit", "--nofile=100:160", env!("CARGO_BIN_EXE_usher"), "serve"];
    let usher = UsherProcess::start_program(&database, &smtp.url(), &[], &program).await;
    let address = |url: &str| url.strip_prefix("http://").unwrap().parse().unwrap();
    let (public, private) = (address(&usher.address), address(&usher.admin_address));
    let mut crowd = Vec::new();
    for number in 0..400 {
        let mut client = Client::open(public).await;
        client.say(HALF_A_HEAD).await;
        crowd.push(client);
        if number % 40 == 0 {
            let (head, body) = webhook(&format!("msg_{number}"));
            let mut clerk = Client::open(public).await;
            clerk.say(&format!("{head}{body}")).await;
            assert_eq!(clerk.answer().await.status, 202);
            let mut probe = Client::open(private).await;
            probe.say("GET /readyz HTTP/1.1\r\nHost: usher\r\n\r\n").await;
            assert_eq!(probe.answer().await.status, 200);
        }
    }
    let log = usher.log();
    let full = log
        .iter()
        .filter(|line| line.contains("has no room for more than 80 connections"));
    assert_eq!(full.count(), 1, "{log:?}");
    assert!(log.len() < 15, "{log:?}");
    drop(crowd);
    assert!(usher.terminate().await);
}

#[tokio::test]
async fn a_stop_closes_what_rests_and_answers_what_has_begun() {
    let usher = Usher::start(Limits {
        stop: LONG,
        ..Limits::public(100)
    })
    .await;
    let mut kept = usher.answered().await;
    let mut silent = usher.client().await;
    let mut begun = usher.client().await;
    let (head, body) = webhook("msg_begun");
    begun
        .say(&head.replace("svix-id", "Expect: 100-continue\r\nsvix-id"))
        .await;
    let mut proceed = [0; 25];
    begun.0.read_exact(&mut proceed).await.unwrap();
    let stopped = tokio::spawn(usher.service.stop());
    kept.end().await;
    silent.end().await;
    begun.say(&body).await;
    let answer = begun.answer().await;
    assert_eq!(answer.status, 202);
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    begun.end().await;
    timeout(LONG, stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn slow_clients_do_not_hold_up_a_stop() {
    let usher = Usher::start(Limits {
        stop: LIMIT,
        ..Limits::public(100)
    })
    .await;
    let mut slow = Vec::new();
    for said in [HALF_A_HEAD, &call(1000), &webhook("msg_slow").0] {
        let mut client = usher.client().await;
        client.say(said).await;
        slow.push(client);
    }
    // So that what they said was read.
    usher.answered().await;
    let started = Instant::now();
    usher.service.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    for mut client in slow {
        client.end().await;
    }
}

#[tokio::test]
async fn what_strangers_send_is_logged_once_a_minute_with_a_count() {
    let database = TestDatabase::sqlite().await;
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    let now = Clock::System.now().timestamp().to_string();
    let signed = |timestamp: &str| {
        vec![
            ("svix-id", "msg_1".to_owned()),
            ("svix-timestamp", timestamp.to_owned()),
            ("svix-signature", format!("v1,{}=", "A".repeat(43))),
        ]
    };
    let http = reqwest::Client::new();
    let get = async |path: &str, token: &str| {
        let request = http.get(format!("{}{path}", usher.address)).bearer_auth(token);
        request.send().await.unwrap();
    };
    for _ in 0..40 {
        assert_eq!(usher.send_raw(&[], "{}".to_owned()).await, 401);
        assert_eq!(usher.send_raw(&signed(&now), "{}".to_owned()).await, 401);
        assert_eq!(usher.send_raw(&signed("1"), "{}".to_owned()).await, 401);
        get("/v1/invites", "wrong").await;
        get("/v1/me/invites", "wrong").await;
        get("/v1/me/invites", "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.e30.AAAA").await;
        get("/v1/invite-links/wrong", "").await;
        get("/%ff?%ff", "").await;
        let mut client = Client::open(usher.address.strip_prefix("http://").unwrap().parse().unwrap()).await;
        client.say("NO HTTP\r\n\r\n").await;
        client.end().await;
    }
    let log = usher.log();
    let refused = log.iter().filter(|line| line.contains("rejected a webhook"));
    assert_eq!(refused.count(), 3, "one for each reason: {log:?}");
    let loud = log.iter().filter(|line| !line.contains("\"INFO\""));
    assert_eq!(loud.count(), 3, "{log:?}");
    assert!(log.len() < 15, "{log:?}");
    assert!(usher.terminate().await);
}
