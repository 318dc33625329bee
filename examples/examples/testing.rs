//! Testing one's own service, and what uses its client, without a server.
//!
//!     cargo run --example testing
//!     cargo test --example testing
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use rpc_core::{CallError, RpcChannel, service};

#[service]
pub trait Prices {
    async fn price(&self, article: String) -> Result<u32, String>;
}

/// The code under test: it knows a client, and not where its calls go.
pub async fn total(prices: &PricesClient, articles: &[&str]) -> Result<u32, CallError<String>> {
    let mut total = 0;
    for article in articles {
        total += prices.price((*article).to_owned()).await?;
    }
    Ok(total)
}

/// A stand-in for the real service.
struct FixedPrices;

impl Prices for FixedPrices {
    async fn price(&self, article: String) -> Result<u32, String> {
        match article.as_str() {
            "tea" => Ok(3),
            "bread" => Ok(4),
            other => Err(format!("no {other} here")),
        }
    }
}

/// Without any IO: the client calls the server in this process. Arguments and results are encoded as on a wire.
fn in_process() -> PricesClient {
    PricesClient::new(PricesServer::new(FixedPrices))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!("tea and bread: {}", total(&in_process(), &["tea", "bread"]).await?);
    println!("milk: {}", total(&in_process(), &["milk"]).await.unwrap_err());

    // With channels, where sessions, deadlines or several workers are part of what is tested.
    let broker = rpc_core::MemoryBroker::new(rpc_core::Mode::Group);
    let _worker = RpcChannel::builder(broker.connect())
        .serve(PricesServer::new(FixedPrices))?
        .start()
        .await?;
    let channel = RpcChannel::open(broker.connect()).await?;
    println!(
        "tea by channel: {}",
        total(&PricesClient::new(&channel), &["tea"]).await?
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn adds_up() {
        assert_eq!(total(&in_process(), &["tea", "bread"]).await, Ok(7));
    }

    #[tokio::test]
    async fn reports_what_is_missing() {
        let missing = total(&in_process(), &["milk"]).await;
        assert_eq!(missing, Err(CallError::Service("no milk here".to_owned())));
    }
}
