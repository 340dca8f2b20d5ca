use mx_job_webhook::RedisLedger;
use mx_job_webhook::testing::check_ledger;
use redis::aio::ConnectionManager;

async fn connection() -> ConnectionManager {
    let url = std::env::var("MX_TEST_REDIS_URL").unwrap();
    let client = redis::Client::open(url).unwrap();
    client.get_connection_manager().await.unwrap()
}

#[tokio::test]
#[ignore = "needs Redis: set MX_TEST_REDIS_URL"]
async fn conforms() {
    check_ledger(RedisLedger::new(connection().await)).await;
}
