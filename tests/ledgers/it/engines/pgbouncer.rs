//! PgBouncer between a test and a PostgreSQL.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::programs;
use harness::servers::{Folder, Server, free_address, postgres_user};

/// The versions, by the variable that names the folder of their programs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Version {
    /// Debian 12's version. It does not track prepared statements.
    V1_18,
    /// It tracks prepared statements, unless `max_prepared_statements` is 0.
    V1_24,
}

/// Starts a PgBouncer that forwards every database to this server as the user `postgres`.
///
/// The settings are lines of its configuration: `("pool_mode", "session")`.
pub(crate) fn start(
    folder: &Folder,
    version: Version,
    server: SocketAddr,
    settings: &[(&str, &str)],
) -> Server {
    let address = free_address();
    let place = folder.path().join(format!("pgbouncer-{}", address.port()));
    fs::create_dir(&place).unwrap();
    let mut configuration = format!(
        "[databases]\n\
         * = host={} port={} user=postgres\n\
         [pgbouncer]\n\
         listen_addr = {}\n\
         listen_port = {}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         max_client_conn = 500\n",
        server.ip(),
        server.port(),
        address.ip(),
        address.port(),
    );
    for (setting, value) in settings {
        configuration.push_str(&format!("{setting} = {value}\n"));
    }
    let file = place.join("pgbouncer.ini");
    fs::write(&file, configuration).unwrap();
    let variable = match version {
        Version::V1_18 => "MX_TEST_PGBOUNCER_1_18",
        Version::V1_24 => "MX_TEST_PGBOUNCER_1_24",
    };
    let mut command = Command::new(programs(variable).join("pgbouncer"));
    command.arg(file).current_dir("/").stdout(Stdio::null());
    command.stderr(fs::File::create(place.join("log")).unwrap());
    // It refuses to run as root.
    if let Some((user, group)) = postgres_user() {
        command.uid(user).gid(group);
    }
    Server::start(address, command)
}
