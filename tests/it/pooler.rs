//! PgBouncer between usher and Postgres: its session mode works, its transaction mode is refused.

use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::support::TestDatabase;
use crate::support::process::{UsherProcess, command, eventually, told};

struct Pooler {
    _process: Child,
    url: String,
}

impl Pooler {
    /// In front of a database, until it is dropped.
    async fn start(database: &TestDatabase, mode: &str) -> Self {
        let url = url::Url::parse(&database.url).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let name = url.path().trim_start_matches('/');
        let config = format!(
            r"[databases]
            {name} = user=usher host=127.0.0.1 port={server}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = any
            pool_mode = {mode}
            default_pool_size = 40
            ignore_startup_parameters = extra_float_digits
            ",
            server = url.port().unwrap()
        );
        let config: String = config.lines().map(|line| format!("{}\n", line.trim())).collect();
        let file = database.folder.path().join("pgbouncer.ini");
        std::fs::write(&file, config).unwrap();
        let mut pgbouncer = Command::new("/usr/sbin/pgbouncer");
        // It does not run as root.
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        if is_root {
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(database.folder.path(), readable).unwrap();
            pgbouncer.args(["-u", "nobody"]);
        }
        let process = pgbouncer
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("scripts/with-postgres installs pgbouncer");
        eventually("it listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let mut url = url;
        url.set_port(Some(port)).unwrap();
        Self {
            _process: process,
            url: url.into(),
        }
    }
}

#[tokio::test]
async fn transaction_mode_is_refused_before_anything_is_changed() {
    let database = TestDatabase::empty_postgres().await;
    let pooler = Pooler::start(&database, "transaction").await;
    for arguments in [&["migrate"][..], &["migrate", "--dry-run"], &["serve"]] {
        let (is_well, said) = command(&pooler.url, arguments).await;
        assert!(
            !is_well && said.contains("pooler in transaction mode"),
            "{arguments:?}: {said}"
        );
    }
    assert_eq!(
        database
            .pool
            .count("pg_namespace where nspname in ('usher', 'apalis')")
            .await,
        0
    );
}

#[tokio::test]
async fn session_mode_works() {
    let mut database = TestDatabase::empty_postgres().await;
    let pooler = Pooler::start(&database, "session").await;
    database.url.clone_from(&pooler.url);
    let (usher, _smtp) = UsherProcess::with_smtp(&database).await;
    assert!(usher.deliver("msg_1", &told(1)).await);
    assert!(usher.terminate().await);
}
