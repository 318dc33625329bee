//! A real `redis-server` (or `valkey-server`) for one test: own port, own directory, gone when the test ends.

use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::child::{self, OwnedChild, POLL};

/// How long a server may take to start or to stop, loading its data included.
const LIMIT: Duration = Duration::from_secs(10);

/// How often another port is tried when somebody else was faster.
const PORT_ATTEMPTS: u32 = 20;

/// A running server. Dropping it kills it.
///
/// Keeps nothing on disk unless told so (`.arg("--appendonly", "yes")`).
///
/// ```no_run
/// # async fn example() {
/// # use tests::RedisServer;
/// let mut server = RedisServer::builder().arg("--appendonly", "yes").start().await;
/// server.command(&["SET", "key", "value"]).await;
/// server.kill();
/// server.restart().await;
/// # }
/// ```
#[derive(Debug)]
pub struct RedisServer {
    options: RedisServerBuilder,
    port: u16,
    dir: TempDir,
    child: OwnedChild,
}

impl RedisServer {
    /// Starts a server with default options and waits until it answers.
    ///
    /// # Panics
    /// If there is no server program, or it doesn't answer within ten seconds; as do all methods here that wait.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Options for a server to be started.
    #[must_use]
    pub fn builder() -> RedisServerBuilder {
        RedisServerBuilder::default()
    }

    /// `redis://127.0.0.1:<port>`, with the password if there is one.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.options.password {
            Some(password) => format!("redis://:{}@127.0.0.1:{}", percent_encoded(password), self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// `unix://<path of the socket>`, with the password if there is one.
    #[must_use]
    pub fn unix_url(&self) -> String {
        unix_url(&self.dir.path().join("redis.sock"), self.options.password.as_deref())
    }

    /// The TCP port, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the server keeps its data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.options.data_dir.as_deref().unwrap_or(self.dir.path())
    }

    /// The server's process id; another one after each restart.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// What the server has logged since it was first started.
    #[must_use]
    pub fn log(&self) -> String {
        log(&self.dir)
    }

    /// Runs one command on a connection of its own, over the unix socket.
    ///
    /// # Panics
    /// If the server can't be reached or answers with an error.
    pub async fn command(&self, args: &[&str]) -> redis::Value {
        query(&self.unix_url(), args, LIMIT)
            .await
            .unwrap_or_else(|error| panic!("{args:?}: {error}"))
    }

    /// How many entries of `stream` are pending in `group`.
    ///
    /// # Panics
    /// If there is no such group.
    pub async fn pending(&self, stream: &str, group: &str) -> i64 {
        match self.command(&["XPENDING", stream, group]).await {
            redis::Value::Array(summary) => match summary[..] {
                [redis::Value::Int(pending), ..] => pending,
                _ => panic!("{summary:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// What INFO says of a command by this name (`calls`, `failed_calls`); 0 if it has never been run.
    ///
    /// # Panics
    /// If that is not a number.
    pub async fn counted(&self, command: &str, what: &str) -> u64 {
        let stats = self.command(&["INFO", "commandstats"]).await;
        let stats: String = redis::from_redis_value(stats).expect("text");
        let head = format!("cmdstat_{command}:");
        let line = stats.lines().find_map(|line| line.strip_prefix(&head));
        let values = line.unwrap_or_default().split(',');
        let value = values
            .into_iter()
            .find_map(|value| value.strip_prefix(what)?.strip_prefix('='));
        value.map_or(0, |value| value.parse().expect("a number"))
    }

    /// SIGKILL: whatever was not on disk is lost.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// SIGTERM: the server saves what it was told to save, then ends. Resumes it first if it was paused.
    pub async fn stop(&mut self) {
        self.child.signal(Signal::CONT);
        self.child.signal(Signal::TERM);
        if self.child.wait(LIMIT).await.is_none() {
            panic!("redis-server did not stop within {LIMIT:?}; its log:\n{}", self.log());
        }
    }

    /// Starts the server again, on the same port and data, after stopping it if it still runs. Returns when it answers
    /// and has loaded its data.
    pub async fn restart(&mut self) {
        self.stop().await;
        let deadline = Instant::now() + LIMIT;
        // The port may be held by a stranger for a moment (a client that connected to itself, say).
        loop {
            match launch(&self.options, &self.dir, self.port).await {
                Ok(child) => {
                    self.child = child;
                    return;
                }
                Err(PortTaken) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Err(PortTaken) => panic!("port {} was taken while the server was down", self.port),
            }
        }
    }

    /// SIGSTOP: connections stay open, nothing is answered. This is how a hung server or a dead network looks.
    pub fn pause(&mut self) {
        assert!(self.child.pause(), "redis-server has already ended");
    }

    /// SIGCONT: the end of [`pause`](Self::pause).
    pub fn resume(&mut self) {
        assert!(self.child.signal(Signal::CONT), "redis-server has already ended");
    }
}

/// Options of a server to be started; see [`RedisServer::builder`].
#[derive(Debug, Clone, Default)]
pub struct RedisServerBuilder {
    args: Vec<(String, String)>,
    password: Option<String>,
    data_dir: Option<PathBuf>,
    program: Option<PathBuf>,
}

impl RedisServerBuilder {
    /// One option of redis.conf, in command line form: `.arg("--appendonly", "yes")`.
    #[must_use]
    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Clients must give this password; the urls of the server contain it.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Keeps the data in this existing directory, which stays, instead of a temporary one.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(dir.into());
        self
    }

    /// Starts this program instead of the one on the PATH.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// If there is no server program, or it doesn't answer within ten seconds.
    pub async fn start(self) -> RedisServer {
        let dir = tempfile::Builder::new()
            .prefix("redis-")
            .tempdir()
            .expect("create a temporary directory");
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port();
            // On failure somebody took the port between our look and the server's: take another.
            if let Ok(child) = launch(&self, &dir, port).await {
                return RedisServer {
                    options: self,
                    port,
                    dir,
                    child,
                };
            }
        }
        panic!(
            "no free port after {PORT_ATTEMPTS} attempts; the last server's log:\n{}",
            log(&dir)
        );
    }
}

/// The port belongs to somebody else.
struct PortTaken;

/// Starts the program and waits until it answers.
async fn launch(options: &RedisServerBuilder, dir: &TempDir, port: u16) -> Result<OwnedChild, PortTaken> {
    let socket = dir.path().join("redis.sock");
    // A socket left by a killed server must not be mistaken for the new one's.
    let _ = fs::remove_file(&socket);
    let logged_before = log(dir).len();

    let program = options.program.clone().unwrap_or_else(server_program);
    let mut command = child::command(program.as_os_str());
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--daemonize",
        "no",
        "--save",
        "",
    ]);
    command
        .arg("--dir")
        .arg(options.data_dir.as_deref().unwrap_or(dir.path()));
    command.arg("--unixsocket").arg(&socket);
    if let Some(password) = &options.password {
        command.args(["--requirepass", password]);
    }
    for (name, value) in &options.args {
        command.args([name, value]);
    }
    // Standard output is the log: unlike a log file it also has what is wrong with the options.
    let log_file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path(dir))
        .expect("open the log");
    command
        .stderr(log_file.try_clone().expect("share the log"))
        .stdout(log_file);
    let mut child = OwnedChild::spawn(&mut command).unwrap_or_else(|error| panic!("{}: {error}", program.display()));

    // Asked over the unix socket, in our own directory: on the port a stranger might answer. The server opens the
    // socket after the port, so both are ready.
    let deadline = Instant::now() + LIMIT;
    loop {
        let not_ready = match query(&unix_url(&socket, options.password.as_deref()), &["PING"], LIMIT).await {
            Ok(_) => return Ok(child),
            Err(error) => error,
        };
        if let Some(status) = child.exit_status() {
            let log = log(dir).split_off(logged_before);
            if log.contains("Address already in use") {
                return Err(PortTaken);
            }
            panic!("{} ended at once ({status}); its log:\n{log}", program.display());
        }
        if Instant::now() >= deadline {
            panic!(
                "{} not ready within {LIMIT:?}: {not_ready}; its log:\n{}",
                program.display(),
                log(dir)
            );
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One command on a connection of its own.
async fn query(url: &str, args: &[&str], limit: Duration) -> redis::RedisResult<redis::Value> {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit));
    let mut connection = redis::Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut command = redis::Cmd::new();
    for arg in args {
        command.arg(arg);
    }
    command.query_async(&mut connection).await
}

fn unix_url(socket: &Path, password: Option<&str>) -> String {
    match password {
        Some(password) => format!("unix://{}?pass={}", socket.display(), percent_encoded(password)),
        None => format!("unix://{}", socket.display()),
    }
}

fn log_path(dir: &TempDir) -> PathBuf {
    dir.path().join("redis.log")
}

fn log(dir: &TempDir) -> String {
    fs::read(log_path(dir))
        .map(|log| String::from_utf8_lossy(&log).into_owned())
        .unwrap_or_default()
}

/// `REDIS_SERVER_BIN`, else `redis-server` or `valkey-server` on the PATH.
fn server_program() -> PathBuf {
    if let Some(program) = env::var_os("REDIS_SERVER_BIN") {
        return program.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!(
                "this test starts its own redis-server, and neither redis-server nor valkey-server is on the PATH: \
                 install one (apt-get install redis-server, dnf install valkey, apk add redis, pacman -S valkey, \
                 brew install redis; scripts/test does it for you) or set REDIS_SERVER_BIN to its path"
            )
        })
}

/// A port on which nobody listens.
///
/// Not one of the system's choice (port 0): those are also given to outgoing connections, so while the server is down
/// a client that keeps reconnecting could take its port, or even connect to itself.
fn free_port() -> u16 {
    loop {
        // Std's only source of randomness. The range is below the ephemeral ports of Linux and macOS.
        let random = RandomState::new().hash_one(());
        let port = 20_000 + u16::try_from(random % 12_000).expect("below 12 000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;
    use crate::eventually;

    fn text(value: &str) -> Value {
        Value::BulkString(value.into())
    }

    async fn ping(url: &str) -> redis::RedisResult<Value> {
        query(url, &["PING"], LIMIT).await
    }

    #[tokio::test]
    async fn answers_on_the_port_and_the_socket() {
        let server = RedisServer::start().await;
        assert_ne!(server.port(), 6379);
        for url in [server.url(), server.unix_url()] {
            assert_eq!(ping(&url).await.unwrap(), Value::SimpleString("PONG".into()), "{url}");
        }
    }

    #[tokio::test]
    async fn many_at_once_do_not_meet() {
        let servers: Vec<_> = (0..8).map(|_| tokio::spawn(RedisServer::start())).collect();
        let mut ports = std::collections::HashSet::new();
        let mut running = Vec::new();
        for server in servers {
            let server = server.await.unwrap();
            assert_eq!(server.command(&["DBSIZE"]).await, Value::Int(0));
            server.command(&["SET", "mine", "1"]).await;
            assert!(ports.insert(server.port()));
            running.push(server);
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_noticed() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let dir = TempDir::new().unwrap();
        assert!(launch(&RedisServerBuilder::default(), &dir, port).await.is_err());
    }

    #[tokio::test]
    async fn data_survives_with_aof_only() {
        let mut durable = RedisServer::builder()
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "always")
            .start()
            .await;
        let mut volatile = RedisServer::start().await;
        let port = durable.port();
        for server in [&mut durable, &mut volatile] {
            server.command(&["SET", "key", "value"]).await;
            server.kill();
            assert!(ping(&server.url()).await.is_err());
            server.restart().await;
        }
        assert_eq!(durable.port(), port);
        assert_eq!(durable.command(&["GET", "key"]).await, text("value"));
        assert_eq!(volatile.command(&["GET", "key"]).await, Value::Nil);

        durable.restart().await;
        assert_eq!(durable.command(&["GET", "key"]).await, text("value"));
    }

    #[tokio::test]
    async fn a_password_is_in_the_urls_and_required() {
        let server = RedisServer::builder().password("p@ss:/?#%ü word").start().await;
        for url in [server.url(), server.unix_url()] {
            assert!(ping(&url).await.is_ok(), "{url}");
        }
        let without = format!("redis://127.0.0.1:{}", server.port());
        assert_eq!(ping(&without).await.unwrap_err().code(), Some("NOAUTH"));
    }

    #[tokio::test]
    async fn a_given_data_dir_outlives_the_server() {
        let data = TempDir::new().unwrap();
        let start = || {
            RedisServer::builder()
                .data_dir(data.path())
                .arg("--appendonly", "yes")
                .start()
        };
        let mut server = start().await;
        assert_eq!(server.dir(), data.path());
        server.command(&["SET", "key", "value"]).await;
        server.stop().await;
        drop(server);
        assert_eq!(start().await.command(&["GET", "key"]).await, text("value"));
    }

    #[tokio::test]
    async fn paused_it_is_silent_but_alive() {
        let mut server = RedisServer::start().await;
        server.pause();
        let answer = query(&server.url(), &["PING"], Duration::from_millis(100)).await;
        assert!(answer.unwrap_err().is_timeout());
        server.resume();
        assert!(ping(&server.url()).await.is_ok());
        server.pause();
        server.stop().await;
    }

    #[tokio::test]
    async fn dropped_it_is_gone() {
        let mut server = RedisServer::start().await;
        server.pause();
        let (url, dir) = (server.url(), server.dir().to_owned());
        drop(server);
        assert!(ping(&url).await.is_err());
        assert!(!dir.exists());
    }

    #[tokio::test]
    #[should_panic(expected = "ended at once")]
    async fn bad_options_are_reported() {
        RedisServer::builder().arg("--no-such-option", "1").start().await;
    }

    #[tokio::test]
    async fn a_command_is_sent_as_it_is() {
        let server = RedisServer::start().await;
        server.command(&["XADD", "s", "*", "a", "b c"]).await;
        eventually(LIMIT, "one entry", async || {
            server.command(&["XLEN", "s"]).await == Value::Int(1)
        })
        .await;
    }
}
