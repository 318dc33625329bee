//! A service and a call, in one process, without a server.
//!
//!     cargo run --example quickstart
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use rpc_core::{MemoryBroker, Mode, RpcChannel, service};

#[service]
pub trait Calculator {
    async fn add(&self, a: i64, b: i64) -> i64;
    async fn divide(&self, a: f64, b: f64) -> Result<f64, String>;
}

struct MyCalculator;

impl Calculator for MyCalculator {
    async fn add(&self, a: i64, b: i64) -> i64 {
        a + b
    }

    async fn divide(&self, a: f64, b: f64) -> Result<f64, String> {
        if b == 0.0 {
            return Err("division by zero".to_owned());
        }
        Ok(a / b)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // With rpc-redis-streams, `RedisStreamsIo::connect(config)` stands in place of `broker.connect()`.
    let broker = MemoryBroker::new(Mode::Group);
    let server = RpcChannel::builder(broker.connect())
        .serve(CalculatorServer::new(MyCalculator))?
        .start()
        .await?;

    let client = RpcChannel::open(broker.connect()).await?;
    let calculator = CalculatorClient::new(&client);
    println!("2 + 3 = {}", calculator.add(2, 3).await?);
    println!("1 / 4 = {}", calculator.divide(1.0, 4.0).await?);
    println!("1 / 0: {}", calculator.divide(1.0, 0.0).await.unwrap_err());

    server.close().await;
    println!(
        "after close: {}",
        calculator
            .with_timeout(std::time::Duration::from_secs(3))
            .add(2, 3)
            .await
            .unwrap_err()
    );
    Ok(())
}
