//! Servers for one test, which may kill them: `PostgreSQL`, Redis, `HAProxy`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::run;

/// A generous limit for a server's start and stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns a free address of this machine, each time another one.
///
/// Its port and the one 10,000 above, which a server of a Redis cluster listens on too, are below those that the
/// system gives to outgoing connections. Otherwise a connection of another test could take one while its server
/// starts or restarts.
pub fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    static FIRST: LazyLock<u16> = LazyLock::new(|| fastrand::u16(..PORTS));
    const PORTS: u16 = 10_000;
    for _ in 0..PORTS {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = PORTS + (*FIRST + taken) % PORTS;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free(port) && is_free(port + PORTS) {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
    panic!("no port between 10,000 and 20,000 is free")
}

/// A temporary folder, deleted when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Creates an empty folder.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("mx-job-webhook-{:016x}", fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that listens on an address. It is killed when dropped.
#[derive(Debug)]
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    command: Command,
    child: Option<Child>,
    /// How it has ended before it was started again.
    ended: Option<ExitStatus>,
    /// The signal that simulates a crash, without `SIG`.
    pub crash_by: &'static str,
}

impl Server {
    /// Starts it, and waits until it listens.
    pub fn start(address: SocketAddr, command: Command) -> Self {
        let mut server = Self {
            address,
            command,
            child: None,
            ended: None,
            crash_by: "KILL",
        };
        server.restart();
        server.wait_until_it_listens();
        server
    }

    /// Starts it, without waiting until it listens.
    pub fn restart(&mut self) {
        self.child = Some(self.command.spawn().unwrap());
    }

    /// Waits until its address accepts connections.
    pub fn wait_until_it_listens(&mut self) {
        let patience = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            assert!(
                Instant::now() < patience,
                "no server listens on {}; {:?} has ended before: {:?}",
                self.address,
                self.command.get_program(),
                self.ended
            );
            self.restart_if_it_ended();
            sleep(Duration::from_millis(20));
        }
    }

    /// Restarts it if it has ended, because its predecessor still ran or a dependency was missing.
    pub fn restart_if_it_ended(&mut self) {
        let ended = match &mut self.child {
            Some(child) => child.try_wait().unwrap(),
            None => return self.restart(),
        };
        if ended.is_some() {
            self.ended = ended;
            self.restart();
        }
    }

    /// Sets an environment variable for its next start.
    pub fn set_environment(&mut self, variable: &str, value: &str) {
        self.command.env(variable, value);
    }

    /// Stops it by SIGINT, and waits until it has ended.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    /// Kills it by `crash_by`, and waits until it has ended.
    pub fn crash(&mut self) {
        self.end(self.crash_by);
    }

    fn end(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let _ = run(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]));
        let patience = Instant::now() + PATIENCE;
        while child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > patience {
                let _ = child.kill();
                panic!("{:?} continued after {signal}", self.command);
            }
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Starts a Redis that writes each command to disk before it answers.
pub fn redis(folder: &Folder, arguments: &[&str]) -> Server {
    let address = free_address();
    let place = folder.path().join(format!("redis-{}", address.port()));
    fs::create_dir(&place).unwrap();
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "yes", "--dir"])
        .arg(&place)
        .args(arguments)
        .stdout(Stdio::null());
    Server::start(address, command)
}

/// Starts a cluster of three Redis servers.
pub fn redis_cluster(folder: &Folder) -> Vec<Server> {
    let servers: Vec<Server> = (0..3)
        .map(|_| {
            redis(
                folder,
                &["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"],
            )
        })
        .collect();
    let created = run(Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(servers.iter().map(|server| server.address.to_string()))
        .arg("--cluster-yes"));
    assert!(created.status.success(), "{created:?}");
    let patience = Instant::now() + PATIENCE;
    for server in &servers {
        let port = server.address.port().to_string();
        let info = || run(Command::new("redis-cli").args(["-p", &port, "cluster", "info"]));
        while !String::from_utf8_lossy(&info().stdout).contains("cluster_state:ok") {
            assert!(Instant::now() < patience, "the cluster did not form");
            sleep(Duration::from_millis(50));
        }
    }
    servers
}

/// Starts the installed `PostgreSQL`. The URL is that of the superuser `postgres`.
pub fn postgres(folder: &Folder) -> (Server, String) {
    let address = free_address();
    let place = folder.path().join("postgres");
    fs::create_dir(&place).unwrap();
    let owner = postgres_user();
    if let Some((user, group)) = owner {
        std::os::unix::fs::chown(&place, Some(user), Some(group)).unwrap();
    }
    let command = |program: &str| {
        let mut command = Command::new(postgres_programs().join(program));
        if let Some((user, group)) = owner {
            command.uid(user).gid(group);
        }
        command.current_dir(&place);
        command
    };
    make_data(&mut command("initdb"), &place.join("data"));
    let mut server = command("postgres");
    server.arg("-D").arg(place.join("data"));
    for setting in [
        format!("port={}", address.port()),
        format!("unix_socket_directories={}", place.display()),
        "listen_addresses=127.0.0.1".to_owned(),
        "max_connections=100".to_owned(),
    ] {
        server.arg("-c").arg(setting);
    }
    server.stderr(fs::File::create(place.join("log")).unwrap());
    let url = format!("postgres://postgres@{address}/postgres");
    let mut server = Server::start(address, server);
    // The server's children end with it and leave its shared memory behind.
    server.crash_by = "QUIT";
    (server, url)
}

/// Makes the files of a new server with this `initdb`. It runs once for each version and user, and leaves a copy beside the test
/// program.
pub fn make_data(initdb: &mut Command, data: &Path) {
    static MAKING: Mutex<()> = Mutex::new(());
    let copy = |from: &Path, to: &Path| {
        let copied = run(Command::new("cp").arg("-a").args([from, to]));
        assert!(copied.status.success(), "{copied:?}");
    };
    let version = run(Command::new(initdb.get_program()).arg("--version")).stdout;
    let version = String::from_utf8(version).unwrap();
    let version = version.split_whitespace().nth(2).unwrap();
    let program = std::env::current_exe().unwrap();
    let owner = data.parent().unwrap().metadata().unwrap().uid();
    let made_before = program.with_file_name(format!("postgres-{version}-{owner}"));
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if made_before.exists() {
        return copy(&made_before, data);
    }
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8"]);
    initdb.args(["--locale=C", "-N", "-D"]).arg(data);
    let made = run(initdb);
    assert!(made.status.success(), "{made:?}");
    let partial = program.with_file_name(format!("postgres-{:016x}", fastrand::u64(..)));
    copy(data, &partial);
    if fs::rename(&partial, &made_before).is_err() {
        // Another process has made it meanwhile.
        fs::remove_dir_all(&partial).unwrap();
    }
}

/// Debian keeps these programs out of `PATH`.
fn postgres_programs() -> PathBuf {
    let found = fs::read_dir("/usr/lib/postgresql");
    let programs = found
        .into_iter()
        .flatten()
        .map(|version| version.unwrap().path().join("bin"));
    let programs = programs.filter(|programs| programs.join("initdb").exists());
    programs.max().unwrap_or_default()
}

/// Returns the user and the group of `postgres` if this process is root, as which `PostgreSQL` refuses to run.
pub fn postgres_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = run(Command::new("id").args(arguments));
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

/// Starts `HAProxy` in front of the replicas, which answer on `/health`.
pub fn load_balancer(folder: &Folder, replicas: &[SocketAddr]) -> Server {
    let address = free_address();
    let mut configuration = format!(
        "defaults\n mode http\n timeout connect 1s\n timeout client 20s\n timeout server 20s\n \
         option redispatch\n retries 2\n\
         frontend webhooks\n bind {address}\n default_backend replicas\n\
         backend replicas\n balance roundrobin\n option httpchk GET /health\n \
         default-server check inter 100ms fall 1 rise 1\n"
    );
    for (number, replica) in replicas.iter().enumerate() {
        configuration.push_str(&format!(" server replica{number} {replica}\n"));
    }
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, configuration).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Server::start(address, command)
}
