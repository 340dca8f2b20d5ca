//! PostgreSQL in every installed version: primaries with settings, and their standbys.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};

use super::programs;
use harness::run;
use harness::servers::{Folder, Server, free_address, make_data, postgres_user};

/// The versions, by the variable that names the folder of their programs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Version {
    V10,
    /// Debian 12's version, the only one with the programs for standbys.
    V15,
    V18,
}

impl Version {
    fn programs(self) -> PathBuf {
        programs(match self {
            Self::V10 => "MX_TEST_POSTGRES_10",
            Self::V15 => "MX_TEST_POSTGRES_15",
            Self::V18 => "MX_TEST_POSTGRES_18",
        })
    }
}

/// A server for one test. It crashes when it is dropped.
pub(crate) struct Postgres {
    server: Server,
    place: ServerFolder,
    /// How often it was started.
    starts: usize,
}

impl Postgres {
    /// A primary with these settings: `"fsync=off"`.
    pub(crate) fn primary(folder: &Folder, version: Version, settings: &[&str]) -> Self {
        let place = ServerFolder::new(folder, version);
        make_data(&mut place.command("initdb"), &place.data());
        Self::start(place, settings)
    }

    /// A standby that streams from the server at this address, a primary of the same version or a proxy
    /// to one.
    ///
    /// The primary treats it as synchronous if its `synchronous_standby_names` says so.
    pub(crate) fn standby_of(
        folder: &Folder,
        version: Version,
        primary: SocketAddr,
        settings: &[&str],
    ) -> Self {
        let place = ServerFolder::new(folder, version);
        let mut copy = place.command("pg_basebackup");
        let port = primary.port().to_string();
        copy.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"])
            .args(["-R", "-X", "stream", "-c", "fast", "-N", "-D"])
            .arg(place.data());
        let copied = run(&mut copy);
        assert!(copied.status.success(), "{copied:?}");
        Self::start(place, settings)
    }

    fn start(place: ServerFolder, settings: &[&str]) -> Self {
        let address = free_address();
        let mut command = place.command("postgres");
        command.arg("-D").arg(place.data());
        for setting in [
            format!("port={}", address.port()),
            format!("unix_socket_directories={}", place.path.display()),
        ] {
            command.arg("-c").arg(setting);
        }
        for setting in ["listen_addresses=127.0.0.1", "max_connections=100"] {
            command.arg("-c").arg(setting);
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let log = place.path.join("log");
        command.stderr(fs::File::create(log).unwrap());
        let mut server = Server::start(address, command);
        // The server's children end with it and leave its shared memory behind.
        server.crash_by = "QUIT";
        let postgres = Self {
            server,
            place,
            starts: 1,
        };
        postgres.wait_until_it_is_ready();
        postgres
    }

    /// The server listens before it accepts sessions. Its log has this line for each start.
    fn wait_until_it_is_ready(&self) {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.log().matches("ready to accept").count() < self.starts {
            assert!(Instant::now() < patience, "the server does not start");
            sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Returns what the server has logged since its first start.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.place.path.join("log")).unwrap()
    }

    /// Returns the superuser's connection options.
    pub(crate) fn options(&self) -> PgConnectOptions {
        at(self.address())
    }

    pub(crate) fn pool(&self) -> PgPool {
        pool(self.options())
    }

    /// Stops the server like a crash: transactions in progress do not finish, and clients receive no message.
    pub(crate) fn crash(&mut self) {
        self.server.crash();
    }

    /// Starts it after a crash.
    pub(crate) fn start_again(&mut self) {
        self.server.restart();
        self.server.wait_until_it_listens();
        self.starts += 1;
        self.wait_until_it_is_ready();
    }

    /// Restarts the server after a crash as a successor whose clock differs by this much: `+15m`.
    pub(crate) fn start_again_with_a_clock_that_differs(&mut self, by: &str) {
        let library = std::env::var("MX_TEST_FAKETIME").expect("`.ci/servers engines` prints it");
        self.server.set_environment("LD_PRELOAD", &library);
        self.server.set_environment("FAKETIME", by);
        // Timers are unaffected; only the time of day differs.
        self.server
            .set_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.start_again();
    }

    /// Promotes a standby to primary, and waits until it is one.
    pub(crate) fn promote(&self) {
        let mut promote = self.place.command("pg_ctl");
        let promoted = run(promote.args(["promote", "-w", "-D"]).arg(self.place.data()));
        assert!(promoted.status.success(), "{promoted:?}");
    }
}

/// Returns the superuser's connection options for the server at this address.
pub(crate) fn at(address: SocketAddr) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(address.port())
        .username("postgres")
        .database("postgres")
        .ssl_mode(sqlx::postgres::PgSslMode::Disable)
        .disable_statement_logging()
}

/// A pool whose timeouts suit a slow machine.
pub(crate) fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(30))
        .connect_lazy_with(options)
}

/// A database for one test on the shared server. It is dropped with this value.
pub(crate) struct Database {
    pub(crate) name: String,
    server: PgConnectOptions,
}

impl Database {
    /// The rest of `CREATE DATABASE`: `"TEMPLATE template0 ENCODING 'LATIN1'"`.
    pub(crate) async fn create(settings: &str) -> Self {
        let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
        let server: PgConnectOptions = url.parse().unwrap();
        let server = server.disable_statement_logging();
        let name = format!("mx_{}", crate::support::unique_id());
        let create = format!("CREATE DATABASE {name} {settings}");
        let admin = pool(server.clone());
        let created = sqlx::query(sqlx::AssertSqlSafe(create)).execute(&admin);
        created.await.unwrap();
        admin.close().await;
        Self { name, server }
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        self.server.clone().database(&self.name)
    }

    pub(crate) fn pool(&self) -> PgPool {
        pool(self.options())
    }

    /// The address of its server.
    pub(crate) fn server(&self) -> SocketAddr {
        let address = format!("{}:{}", self.server.get_host(), self.server.get_port());
        address.parse().unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let port = self.server.get_port().to_string();
        let _ = run(Command::new(Version::V15.programs().join("dropdb"))
            .args(["--force", "-h", self.server.get_host(), "-p", &port])
            .args(["-U", self.server.get_username(), &self.name]));
    }
}

/// The folder of a server's files, and its owner.
struct ServerFolder {
    path: PathBuf,
    programs: PathBuf,
    /// The user to run as instead of root, which PostgreSQL refuses.
    owner: Option<(u32, u32)>,
}

impl ServerFolder {
    fn new(folder: &Folder, version: Version) -> Self {
        let path = folder
            .path()
            .join(format!("postgres-{:08x}", fastrand::u32(..)));
        fs::create_dir(&path).unwrap();
        let owner = postgres_user();
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(&path, Some(user), Some(group)).unwrap();
        }
        Self {
            path,
            programs: version.programs(),
            owner,
        }
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command.current_dir(Path::new(&self.path));
        command
    }
}
