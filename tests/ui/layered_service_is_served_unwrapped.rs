use axum::Router;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tower::Layer;

async fn serve(listener: tokio::net::TcpListener) {
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), JobRouter::new());
    let app = webhooks.at("/webhooks").layer(Router::new());
    axum::serve(listener, app).await.unwrap();
}

fn main() {
    let _ = serve;
}
