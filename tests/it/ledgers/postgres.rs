use mx_job_webhook::PostgresLedger;
use mx_job_webhook::testing::check_ledger;
use sqlx::PgPool;

async fn pool() -> PgPool {
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    PgPool::connect(&url).await.unwrap()
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn conforms() {
    let ledger = PostgresLedger::new(pool().await);
    ledger.create_table().await.unwrap();
    check_ledger(ledger).await;
}
