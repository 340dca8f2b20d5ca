use mx_job_webhook::Credentials;

fn main() {
    let _ = Credentials::verify(|head| {
        let certificate = head.headers.get("x-client-cert").cloned();
        async move { certificate }
    });
}
