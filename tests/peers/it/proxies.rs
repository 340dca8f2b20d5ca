//! Reverse proxies in front of the quickstart, with their default settings.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::installed::{program, running_as_root};
use crate::load;
use crate::quickstart::Quickstart;
use crate::server::Server;
use crate::tally::Tally;
use crate::{DISCARDED, HUGE};

#[tokio::test]
async fn every_valid_delivery_is_204_while_half_of_the_load_is_refused_without_a_proxy() {
    let quickstart = Quickstart::start();
    half_refused("without a proxy", quickstart.address).await;
}

#[tokio::test]
async fn every_valid_delivery_is_204_while_half_of_the_load_is_refused_behind_nginx() {
    let quickstarts = [(); 2].map(|()| Quickstart::start());
    let proxy = nginx(
        &quickstarts.each_ref().map(|quickstart| quickstart.address),
        "",
        "",
    );
    half_refused("behind nginx", proxy.address).await;
}

#[tokio::test]
async fn every_valid_delivery_is_204_while_half_of_the_load_is_refused_behind_nginx_with_keep_alive()
 {
    let quickstart = Quickstart::start();
    let proxy = nginx(
        &[quickstart.address],
        "keepalive 8;",
        "proxy_http_version 1.1; proxy_set_header Connection '';",
    );
    half_refused("behind nginx with keep-alive", proxy.address).await;
}

#[tokio::test]
async fn every_valid_delivery_is_204_while_nginx_passes_on_1_mib_without_credentials_ten_times_a_second()
 {
    let quickstarts = [(); 2].map(|()| Quickstart::start());
    let proxy = nginx(
        &quickstarts.each_ref().map(|quickstart| quickstart.address),
        "",
        "",
    );
    let title = "behind nginx, 1 MiB without credentials ten times a second";
    nothing_refused(title, proxy.address).await;
    let tally = load::large_refused(proxy.address, HUGE, 10).await;
    tally.assert_as_expected(title);
}

/// The most for which nginx may be configured, as the guide *going live* says.
#[tokio::test]
async fn every_valid_delivery_is_204_while_nginx_passes_on_8_mib_without_credentials_twice_a_second()
 {
    let quickstarts = [(); 2].map(|()| Quickstart::start());
    let proxy = nginx(
        &quickstarts.each_ref().map(|quickstart| quickstart.address),
        "",
        "client_max_body_size 8m;",
    );
    let title = "behind nginx, 8 MiB without credentials twice a second";
    nothing_refused(title, proxy.address).await;
    let tally = load::large_refused(proxy.address, DISCARDED, 2).await;
    tally.assert_as_expected(title);
}

#[tokio::test]
async fn every_valid_delivery_is_204_while_half_of_the_load_is_refused_behind_haproxy() {
    let quickstart = Quickstart::start();
    let proxy = haproxy(quickstart.address, "");
    half_refused("behind HAProxy", proxy.address).await;
}

#[tokio::test]
async fn every_valid_delivery_is_204_while_half_of_the_load_is_refused_behind_haproxy_that_shares_connections()
 {
    let quickstart = Quickstart::start();
    let proxy = haproxy(quickstart.address, "http-reuse always");
    half_refused("behind HAProxy that shares connections", proxy.address).await;
}

#[tokio::test]
async fn every_valid_delivery_is_204_while_half_of_the_load_is_refused_behind_apache() {
    let quickstart = Quickstart::start();
    let proxy = apache(quickstart.address);
    half_refused("behind Apache", proxy.address).await;
}

async fn half_refused(title: &str, address: SocketAddr) {
    nothing_refused(title, address).await;
    let tally: Tally = load::half_refused(address).await;
    tally.assert_as_expected(title);
}

/// If this fails, the proxy or its configuration is at fault, and not a refusal.
async fn nothing_refused(title: &str, address: SocketAddr) {
    let tally = load::nothing_refused(address).await;
    tally.assert_as_expected(&format!("{title}, valid deliveries alone"));
}

/// nginx as Debian configures it, with other paths.
pub(crate) fn nginx(receivers: &[SocketAddr], upstream: &str, location: &str) -> Server {
    let mut servers = String::new();
    for receiver in receivers {
        write!(servers, "server {receiver}; ").unwrap();
    }
    // Its workers write request bodies into the folder, which belongs to root.
    let user = if running_as_root() { "user root;" } else { "" };
    Server::start(|address, folder| {
        let place = folder.display();
        let configuration = format!(
            "{user} daemon off; worker_processes auto; pid {place}/pid; error_log {place}/error.log;
            events {{ worker_connections 768; }}
            http {{
                access_log {place}/access.log;
                client_body_temp_path {place}/client_body;
                proxy_temp_path {place}/proxy;
                fastcgi_temp_path {place}/fastcgi;
                uwsgi_temp_path {place}/uwsgi;
                scgi_temp_path {place}/scgi;
                upstream receivers {{ {servers} {upstream} }}
                server {{
                    listen {address};
                    location / {{ proxy_pass http://receivers; {location} }}
                }}
            }}"
        );
        let mut nginx = program("nginx", "nginx");
        nginx.arg("-p").arg(folder).arg("-e").arg("stderr");
        nginx.arg("-c").arg(file(folder, &configuration));
        nginx
    })
}

/// HAProxy with the defaults of Debian's configuration.
pub(crate) fn haproxy(receiver: SocketAddr, more: &str) -> Server {
    Server::start(|address, folder| {
        let configuration = format!(
            "defaults\n mode http\n timeout connect 5000\n timeout client 50000\n timeout server 50000\n {more}\n\
             frontend webhooks\n bind {address}\n default_backend receivers\n\
             backend receivers\n server receiver {receiver}\n"
        );
        let mut haproxy = program("haproxy", "haproxy");
        haproxy
            .arg("-db")
            .arg("-f")
            .arg(file(folder, &configuration));
        haproxy
    })
}

/// Apache with the modules that a reverse proxy needs, and its own defaults.
pub(crate) fn apache(receiver: SocketAddr) -> Server {
    let user = if running_as_root() {
        "User www-data\nGroup www-data\n"
    } else {
        ""
    };
    Server::start(|address, folder| {
        let place = folder.display();
        let modules = ["mpm_event", "authz_core", "proxy", "proxy_http"].map(|module| {
            format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so\n")
        });
        let configuration = format!(
            "{}{user}ServerName receiver.example\nServerRoot {place}\nDefaultRuntimeDir {place}\n\
             PidFile {place}/pid\nErrorLog {place}/error.log\nListen {address}\n\
             ProxyPass / http://{receiver}/\n",
            modules.concat()
        );
        let mut apache = program("apache2", "apache2");
        apache.arg("-D").arg("FOREGROUND");
        apache.arg("-f").arg(file(folder, &configuration));
        apache
    })
}

fn file(folder: &Path, configuration: &str) -> PathBuf {
    let file = folder.join("configuration");
    fs::write(&file, configuration).unwrap();
    file
}
