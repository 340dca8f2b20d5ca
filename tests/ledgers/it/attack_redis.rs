//! Attacks on the ledger on Redis.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Ledger as _, RedisLedger, Sentinels};
use redis::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::engines::redis::replicated;
use crate::proxy::{Network, Proxy};
use crate::support::{LEASE, granted, name, unique_id};
use harness::servers::Folder;

const SOON: Duration = Duration::from_secs(4);

/// A call that takes this long hangs. Calls of a busy machine take seconds.
const FOREVER: Duration = Duration::from_secs(20);

fn url() -> String {
    std::env::var("MX_TEST_REDIS_URL").unwrap()
}

fn client() -> Client {
    Client::open(url()).unwrap()
}

fn server() -> std::net::SocketAddr {
    let url = url();
    let address = url.trim_start_matches("redis://").trim_end_matches('/');
    let address = address.split('/').next().unwrap();
    address.parse().unwrap()
}

#[test]
fn a_connect_in_a_stalled_runtime_does_not_block_another_runtime() {
    let build = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (one, other, proxying) = (build(), build(), tokio::runtime::Runtime::new().unwrap());
    let proxy = proxying.block_on(Proxy::slow_to_connect(server(), Duration::from_millis(300)));
    let ledger = RedisLedger::new(Client::open(format!("redis://{}", proxy.address)).unwrap());
    let guid = unique_id();
    let given_up = one.block_on(async {
        timeout(
            Duration::from_millis(100),
            ledger.claim(&name(&guid, 1), LEASE),
        )
        .await
    });
    assert!(given_up.is_err());
    // The runtime `one` exists but is not polled.
    let answered = other.block_on(async {
        let mut answered = 0;
        for number in 2..4 {
            let claim = timeout(SOON, ledger.claim(&name(&guid, number), LEASE)).await;
            answered += usize::from(claim.is_ok());
        }
        answered
    });
    drop((one, other));
    assert_eq!(answered, 2);
}

/// The connection exists, and its runtime is stalled.
#[test]
fn a_connection_of_a_stalled_runtime_is_replaced() {
    let build = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (one, other) = (build(), build());
    let ledger = RedisLedger::new(client());
    let guid = unique_id();
    granted(one.block_on(ledger.claim(&name(&guid, 1), LEASE)).unwrap());
    let claim = other.block_on(async { timeout(SOON, ledger.claim(&name(&guid, 2), LEASE)).await });
    granted(claim.expect("an answer").unwrap());
}

/// Values that this version did not write are an error and stay unchanged.
#[tokio::test]
async fn hostile_values_are_errors_and_stay_unchanged() {
    let mut connection = client().get_multiplexed_async_connection().await.unwrap();
    for version in ["", "0", "2", "1 ", "-1", "1\0", "nan"] {
        let (ledger, guid) = (RedisLedger::new(client()), unique_id());
        let key = format!("mx-job-webhook:{guid}");
        let _: () = redis::cmd("HSET")
            .arg(&key)
            .arg("version")
            .arg(version)
            .query_async(&mut connection)
            .await
            .unwrap();
        let event = name(&guid, 1);
        assert!(ledger.claim(&event, LEASE).await.is_err(), "{version:?}");
        assert!(
            ledger.commit(&event, FencingToken::new(1)).await.is_err(),
            "{version:?}"
        );
        assert!(
            ledger.release(&event, FencingToken::new(1)).await.is_err(),
            "{version:?}"
        );
        let count: usize = redis::cmd("HLEN")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(count, 1, "{version:?}");
    }
    let (ledger, guid) = (RedisLedger::new(client()), unique_id());
    let key = format!("mx-job-webhook:{guid}");
    let _: () = redis::cmd("SET")
        .arg(&key)
        .arg("text")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(ledger.claim(&name(&guid, 1), LEASE).await.is_err());
    assert!(
        ledger
            .commit(&name(&guid, 1), FencingToken::new(1))
            .await
            .is_err()
    );
    assert!(
        ledger
            .release(&name(&guid, 1), FencingToken::new(1))
            .await
            .is_err()
    );
    // Other events are unaffected.
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
}

/// Many calls while the server sends garbage: there are few connects, and the ledger recovers at once.
#[tokio::test]
async fn garbage_from_the_server_causes_few_connects() {
    let proxy = Proxy::to(server()).await;
    let ledger = RedisLedger::new(Client::open(format!("redis://{}", proxy.address)).unwrap());
    let run = unique_id();
    granted(ledger.claim(&name(&run, 1), LEASE).await.unwrap());
    proxy.set(Network::Garbage);
    let before = proxy.connections();
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..50 {
        let (ledger, run) = (ledger.clone(), run.clone());
        callers.spawn(async move {
            let until = std::time::Instant::now() + Duration::from_secs(3);
            while std::time::Instant::now() < until {
                let event = name(&format!("{run}-{number}"), 1);
                let claim = timeout(SOON, ledger.claim(&event, LEASE)).await;
                assert!(claim.expect("in time").is_err());
            }
        });
    }
    callers.join_all().await;
    let dials = proxy.connections() - before;
    assert!(dials <= 20, "{dials}");
    proxy.set(Network::Works);
    granted(
        timeout(SOON, ledger.claim(&name(&unique_id(), 1), LEASE))
            .await
            .unwrap()
            .unwrap(),
    );
}

/// A Sentinel that answers with this address and this epoch.
async fn sentinel(address: String, epoch: &'static str) -> String {
    sentinel_that_names(Arc::new(Mutex::new((address, epoch)))).await
}

/// A Sentinel that answers with this address and this epoch, which may change.
async fn sentinel_that_names(named: Arc<Mutex<(String, &'static str)>>) -> String {
    counting_sentinel(named).await.0
}

/// The same, and how often it was asked.
async fn counting_sentinel(
    named: Arc<Mutex<(String, &'static str)>>,
) -> (String, Arc<AtomicUsize>) {
    let questions = Arc::new(AtomicUsize::new(0));
    let counter = questions.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (named, counter) = (named.clone(), counter.clone());
            tokio::spawn(async move {
                let mut asked = vec![0; 4096];
                loop {
                    let count = stream.read(&mut asked).await.unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    let text = String::from_utf8_lossy(&asked[..count]).into_owned();
                    let mut answer = String::new();
                    let (address, epoch) = named.lock().unwrap().clone();
                    let (host, port) = address.rsplit_once(':').unwrap();
                    if text.contains("GET-MASTER-ADDR-BY-NAME") {
                        counter.fetch_add(1, Ordering::SeqCst);
                        answer = format!(
                            "*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n*2\r\n$12\r\nconfig-epoch\r\n${}\r\n{epoch}\r\n",
                            host.len(),
                            port.len(),
                            epoch.len(),
                        );
                    } else {
                        for _ in 0..text.matches("\r\n$").count().min(text.matches('*').count()) {
                            answer.push_str("+OK\r\n");
                        }
                    }
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (format!("redis://{own}"), questions)
}

async fn availability(sentinels: Vec<String>, wait: Duration) -> usize {
    let ledger = RedisLedger::from_sentinels(Sentinels::new(sentinels, "mymaster").unwrap());
    let _ = timeout(SOON, ledger.claim(&name(&unique_id(), 1), LEASE)).await;
    sleep(wait).await;
    let mut answered = 0;
    for _ in 0..3 {
        let claim = timeout(SOON, ledger.claim(&name(&unique_id(), 1), LEASE)).await;
        answered += usize::from(matches!(claim, Ok(Ok(Claim::Granted(_)))));
    }
    answered
}

/// "If their answers differ, the one from the latest failover counts", whichever comes first.
#[tokio::test]
async fn the_answer_from_the_latest_failover_counts() {
    let (old, new) = (Proxy::to(server()).await, Proxy::to(server()).await);
    for number in 0..8 {
        let mut sentinels = vec![
            sentinel(old.address.to_string(), "9").await,
            sentinel(new.address.to_string(), "10").await,
        ];
        if number % 2 == 0 {
            sentinels.reverse();
        }
        let ledger = RedisLedger::from_sentinels(Sentinels::new(sentinels, "mymaster").unwrap());
        granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    }
    assert_eq!((old.connections(), new.connections()), (0, 8));
}

/// Returns how often a ledger connected to each of two servers, after the Sentinels named the first one in epoch 3, and
/// then the second one in this epoch.
async fn followed(epoch: &'static str) -> (usize, usize) {
    let (first, second) = (Proxy::to(server()).await, Proxy::to(server()).await);
    let named = Arc::new(Mutex::new((first.address.to_string(), "3")));
    let sentinels = Sentinels::new([sentinel_that_names(named.clone()).await], "mymaster").unwrap();
    let ledger = RedisLedger::from_sentinels(sentinels);
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    *named.lock().unwrap() = (second.address.to_string(), epoch);
    // Longer than it takes the ledger to ask for the master twice.
    sleep(Duration::from_millis(2_500)).await;
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    (first.connections(), second.connections())
}

/// A connection moves to another server after a later failover alone. A Sentinel that was cut off names an old master,
/// and one can name the same master by its host name.
#[tokio::test]
async fn only_a_later_failover_moves_the_connection() {
    let proxy = Proxy::to(server()).await;
    let same = Arc::new(Mutex::new((proxy.address.to_string(), "3")));
    let sentinels = Sentinels::new([sentinel_that_names(same.clone()).await], "mymaster").unwrap();
    let ledger = RedisLedger::from_sentinels(sentinels);
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    same.lock().unwrap().1 = "4";
    let outcomes = tokio::join!(followed("2"), followed("3"), followed("10"));
    assert_eq!(outcomes, ((1, 0), (1, 0), (1, 1)));
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    assert_eq!(proxy.connections(), 1, "the same master, in a later epoch");
}

/// A failover of which one Sentinel knows first, and which answers last, moves the connection.
#[tokio::test]
async fn a_failover_that_the_slowest_sentinel_alone_knows_of_is_followed() {
    let (old, new) = (Proxy::to(server()).await, Proxy::to(server()).await);
    let named = Arc::new(Mutex::new((old.address.to_string(), "3")));
    let slow = sentinel_that_names(named.clone()).await;
    let slow = slow.trim_start_matches("redis://").parse().unwrap();
    let slow = Proxy::slow_to_connect(slow, Duration::from_millis(100)).await;
    let sentinels = [
        sentinel(old.address.to_string(), "3").await,
        sentinel(old.address.to_string(), "3").await,
        format!("redis://{}", slow.address),
    ];
    let ledger = RedisLedger::from_sentinels(Sentinels::new(sentinels, "mymaster").unwrap());
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    *named.lock().unwrap() = (new.address.to_string(), "4");
    // Longer than it takes the ledger to ask for the master twice.
    sleep(Duration::from_millis(2_500)).await;
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    assert_eq!((old.connections(), new.connections()), (1, 1));
}

/// The answers of a majority count, not the first one: a Sentinel that was cut off may answer first.
#[tokio::test]
async fn one_sentinel_is_no_majority() {
    let (old, new) = (Proxy::to(server()).await, Proxy::to(server()).await);
    let mut sentinels = vec![sentinel(old.address.to_string(), "3").await];
    for _ in 0..2 {
        let slow = sentinel(new.address.to_string(), "4").await;
        let slow = slow.trim_start_matches("redis://").parse().unwrap();
        let slow = Proxy::slow_to_connect(slow, Duration::from_millis(100)).await;
        sentinels.push(format!("redis://{}", slow.address));
        // It forwards to the end of the test.
        std::mem::forget(slow);
    }
    let ledger = RedisLedger::from_sentinels(Sentinels::new(sentinels, "mymaster").unwrap());
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    assert_eq!((old.connections(), new.connections()), (0, 1));
}

/// A call ends within the time that a ledger has by default, although the master accepts connections and never answers.
#[tokio::test]
async fn a_master_that_hangs_fails_a_call_in_time() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hangs.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = hangs.accept().await.unwrap();
            tokio::spawn(async move {
                let mut asked = vec![0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut asked).await {
                    let text = String::from_utf8_lossy(&asked[..count]).into_owned();
                    if text.contains("ROLE") || text.contains("EVAL") {
                        continue;
                    }
                    let commands = text.matches('*').count();
                    let answers = "+OK\r\n".repeat(commands);
                    if stream.write_all(answers.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let sentinels = Sentinels::new([sentinel(address, "3").await], "mymaster").unwrap();
    let ledger = RedisLedger::from_sentinels(sentinels);
    let event = name(&unique_id(), 1);
    let claim = timeout(Duration::from_secs(3), ledger.claim(&event, LEASE));
    claim.await.unwrap().unwrap_err();
}

/// A Sentinel can name a server that has not become a master yet. The connection waits for one.
#[tokio::test]
async fn a_server_that_is_no_master_is_not_used() {
    let folder = Folder::new();
    let servers = replicated(&folder, 1, &[]);
    let replica = sentinel(servers[1].address.to_string(), "3").await;
    let sentinels = Sentinels::new([replica], "mymaster").unwrap();
    let ledger = RedisLedger::from_sentinels(sentinels);
    for _ in 0..2 {
        let refused = ledger.claim(&name(&unique_id(), 1), LEASE).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("not a master yet"), "{refused}");
    }
}

/// The Sentinels are asked once a second, however often the connection was replaced.
#[tokio::test]
async fn connections_that_were_replaced_ask_no_sentinel() {
    let proxy = Proxy::to(server()).await;
    let named = Arc::new(Mutex::new((proxy.address.to_string(), "3")));
    let (address, questions) = counting_sentinel(named).await;
    let ledger = RedisLedger::from_sentinels(Sentinels::new([address], "mymaster").unwrap());
    for _ in 0..8 {
        granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
        proxy.cut().await;
        sleep(Duration::from_millis(200)).await;
    }
    granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
    sleep(Duration::from_secs(1)).await;
    questions.store(0, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    let questions = questions.load(Ordering::SeqCst);
    assert!((1..=3).contains(&questions), "{questions} questions");
}

/// Two of three Sentinels name the master, and one hangs.
#[tokio::test]
async fn a_hanging_sentinel_fails_no_call() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let master = server().to_string();
    let sentinels = vec![
        sentinel(master.clone(), "3").await,
        format!("redis://{}", hangs.local_addr().unwrap()),
        sentinel(master, "3").await,
    ];
    // The majority has answered, so no call waits until the third one is given up.
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let sentinels = Sentinels::new(sentinels.clone(), "mymaster").unwrap();
        let ledger = RedisLedger::from_sentinels(sentinels);
        let start = std::time::Instant::now();
        granted(ledger.claim(&name(&unique_id(), 1), LEASE).await.unwrap());
        fastest = fastest.min(start.elapsed());
    }
    assert!(fastest < Duration::from_millis(400), "{fastest:?}");
    assert_eq!(availability(sentinels, Duration::from_secs(3)).await, 3);
}

/// The runtime ends on which the connection is opened for all.
#[test]
fn a_call_goes_on_when_the_runtime_ends_that_connects_for_it() {
    let (one, other) = (
        tokio::runtime::Runtime::new().unwrap(),
        tokio::runtime::Runtime::new().unwrap(),
    );
    let proxy = other.block_on(Proxy::slow_to_connect(server(), Duration::from_millis(500)));
    let ledger = RedisLedger::new(Client::open(format!("redis://{}", proxy.address)).unwrap());
    let guid = unique_id();
    let event = name(&guid, 1);
    let given_up = one
        .block_on(async { timeout(Duration::from_millis(100), ledger.claim(&event, LEASE)).await });
    assert!(given_up.is_err());
    let waiting = ledger.clone();
    let call = other.spawn(async move { waiting.claim(&name(&guid, 2), LEASE).await });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!call.is_finished(), "it waits for the same connection");
    one.shutdown_background();
    granted(other.block_on(call).unwrap().unwrap());
}

/// Other runtimes use a clone of the ledger and end.
#[test]
fn runtimes_that_end_do_not_block_other_users_of_the_ledger() {
    let main = tokio::runtime::Runtime::new().unwrap();
    let ledger = RedisLedger::new(client());
    let until = std::time::Instant::now() + Duration::from_secs(4);
    let run = unique_id();
    let (mut hangs, mut errors, mut calls) = (0, 0, 0);
    std::thread::scope(|scope| {
        let (own, run_of_others) = (ledger.clone(), run.clone());
        scope.spawn(move || {
            let mut turn = 0;
            while std::time::Instant::now() < until {
                turn += 1;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let event = name(&format!("{run_of_others}-{turn}"), 1);
                    let _ = timeout(
                        Duration::from_millis(fastrand::u64(..20)),
                        own.claim(&event, LEASE),
                    )
                    .await;
                });
                drop(runtime);
            }
        });
        main.block_on(async {
            while std::time::Instant::now() < until {
                calls += 1;
                match timeout(
                    FOREVER,
                    ledger.claim(&name(&format!("{run}-m-{calls}"), 1), LEASE),
                )
                .await
                {
                    Err(_) => hangs += 1,
                    Ok(Err(_)) => errors += 1,
                    Ok(Ok(_)) => {}
                }
            }
        });
    });
    assert_eq!(hangs, 0, "{errors} of {calls} failed");
    // MX retries deliveries that failed while another runtime ended.
    let after = name(&format!("{run}-after"), 1);
    granted(main.block_on(async {
        match ledger.claim(&after, LEASE).await {
            Err(_) => ledger.claim(&after, LEASE).await.unwrap(),
            Ok(claim) => claim,
        }
    }));
}

/// Replies of other forms, each framed as Redis frames replies.
const SHAPES: [&str; 19] = [
    "$-1\r\n",
    "*-1\r\n",
    ":1\r\n",
    ":0\r\n",
    "*0\r\n",
    "*1\r\n$-1\r\n",
    "*2\r\n$7\r\ngranted\r\n:7\r\n",
    "*3\r\n$5\r\nclaim\r\n$7\r\ngranted\r\n:7\r\n",
    "*4\r\n$5\r\nclaim\r\n$-1\r\n$7\r\ngranted\r\n:7\r\n",
    "*4\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n",
    "*4\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
    "*4\r\n*0\r\n*0\r\n*0\r\n*0\r\n",
    "+OK\r\n",
    "$7\r\ngranted\r\n",
    "_\r\n",
    "#t\r\n",
    ",1.5\r\n",
    "%1\r\n+granted\r\n:7\r\n",
    ">2\r\n+message\r\n+x\r\n",
];

/// A proxy whose connections answer scripts with a reply of another form. Later ones work.
async fn answering(
    shape: &'static str,
) -> (
    std::net::SocketAddr,
    Arc<AtomicUsize>,
    Arc<std::sync::atomic::AtomicBool>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (made, works) = (
        Arc::<AtomicUsize>::default(),
        Arc::<std::sync::atomic::AtomicBool>::default(),
    );
    let (count, mended) = (made.clone(), works.clone());
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            if mended.load(Ordering::SeqCst) {
                let mut real = tokio::net::TcpStream::connect(server()).await.unwrap();
                tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut real).await;
                });
                continue;
            }
            tokio::spawn(async move {
                let mut bytes = vec![0; 1 << 16];
                while let Ok(read @ 1..) = client.read(&mut bytes).await {
                    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                    // A script comes alone; what prepares the connection comes in a pipeline.
                    let mut answer = String::new();
                    if text.contains("EVAL") {
                        answer.push_str(shape);
                    } else {
                        for _ in 0..text.matches('*').count() {
                            answer.push_str("+OK\r\n");
                        }
                    }
                    if client.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, made, works)
}

/// Neither a claim is granted nor a commit made by a reply of another form, and such a connection is not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_of_other_forms_grant_nothing_and_their_connections_are_replaced() {
    let limit = Duration::from_secs(8);
    let mut bad = Vec::new();
    for shape in SHAPES {
        let (address, made, works) = answering(shape).await;
        let ledger = RedisLedger::new(Client::open(format!("redis://{address}")).unwrap());
        let guid = unique_id();
        let event = name(&guid, 1);
        let token = FencingToken::new(7);
        for _ in 0..3 {
            let claim = timeout(limit, ledger.claim(&event, LEASE)).await;
            let commit = timeout(limit, ledger.commit(&event, token)).await;
            let release = timeout(limit, ledger.release(&event, token)).await;
            if !matches!(
                (&claim, &commit, &release),
                (Ok(Err(_)), Ok(Err(_)), Ok(Err(_)))
            ) {
                bad.push(format!("{shape:?}: {claim:?} {commit:?} {release:?}"));
            }
        }
        let before = made.load(Ordering::SeqCst);
        works.store(true, Ordering::SeqCst);
        let mut attempts = 0;
        loop {
            attempts += 1;
            match timeout(limit, ledger.claim(&event, LEASE)).await {
                Ok(Ok(Claim::Granted(_))) => break,
                other if attempts == 10 => {
                    bad.push(format!("{shape:?} for good: {other:?}"));
                    break;
                }
                _ => sleep(Duration::from_millis(300)).await,
            }
        }
        println!("{shape:?}: {before} connections, granted at attempt {attempts}");
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
