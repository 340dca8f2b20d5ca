//! Tests over real sockets, with rustls as the client.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use rustls::ClientConfig;
use rustls::crypto::ring;
use tokio_rustls::TlsConnector;

use super::certificates::Authority;
use super::tls::{Identity, acceptor, roots};
use super::*;

/// Starts a server with a certificate of this CA, which accepts the certificates of `clients`.
async fn server(
    authority: &Authority,
    clients: Option<&Authority>,
    credentials: Credentials,
) -> SocketAddr {
    let clients = clients.map(|clients| roots(&clients.pem()).unwrap());
    let acceptor = acceptor(identity(authority, "localhost"), clients).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, acceptor, app(credentials)));
    address
}

fn identity(authority: &Authority, name: &str) -> Identity {
    let [chain, key] = authority.issue(name).unwrap();
    Identity::from_pem(&chain, &key).unwrap()
}

/// Returns the status, or the reason for which there is none.
async fn send(
    server: SocketAddr,
    authority: &Authority,
    client: Option<Identity>,
    request: http::request::Builder,
) -> Result<StatusCode, Box<dyn Error>> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&authority.pem()).unwrap());
    let config = match client {
        Some(client) => config.with_client_auth_cert(client.chain, client.key)?,
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(server).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into()?, stream)
        .await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let body = Full::<Bytes>::from(include_str!("../../../tests/fixtures/completed.json"));
    Ok(sender.send_request(request.body(body)?).await?.status())
}

fn delivery() -> http::request::Builder {
    Request::post("/admin/webhooks")
        .header("host", "localhost")
        .header("content-type", "application/json")
}

#[tokio::test]
async fn the_certificate_authenticates_the_sender() {
    let (ours, another) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = server(&ours, Some(&ours), certificate_of(MX)).await;
    let send = |client, request| send(server, &ours, client, request);

    let mx = send(Some(identity(&ours, MX)), delivery()).await;
    assert_eq!(mx.unwrap(), StatusCode::NO_CONTENT);
    let stranger = send(Some(identity(&ours, "mx.example")), delivery()).await;
    assert_eq!(stranger.unwrap(), StatusCode::UNAUTHORIZED);
    let anonymous = send(None, delivery()).await;
    assert_eq!(anonymous.unwrap(), StatusCode::UNAUTHORIZED);

    let visitor = send(None, Request::get("/").header("host", "localhost")).await;
    assert_eq!(visitor.unwrap(), StatusCode::OK);

    // The same name from a CA that is not accepted: rustls refuses the connection.
    let forged = send(Some(identity(&another, MX)), delivery()).await;
    assert!(forged.is_err(), "{forged:?}");
}

#[tokio::test]
async fn over_plain_tls_a_password_authenticates_the_sender() {
    let ours = Authority::new().unwrap();
    let password = Credentials::basic("mx", "secret").unwrap();
    let server = server(&ours, None, password).await;
    for (header, status) in [
        ("Basic bXg6c2VjcmV0", StatusCode::NO_CONTENT),
        ("Basic bXg6Z3Vlc3M=", StatusCode::UNAUTHORIZED),
    ] {
        let delivery = delivery().header("authorization", header);
        let answer = send(server, &ours, None, delivery).await;
        assert_eq!(answer.unwrap(), status);
    }
}

#[tokio::test]
async fn the_server_serves_with_the_written_certificates() {
    let folder = env::temp_dir().join(format!("mx-job-webhook-{}", std::process::id()));
    certificates::write(&folder, MX).unwrap();
    let acceptor = tls::read(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(acceptor.is_ok());
}
