use rpc_core::service;

#[service]
trait Calculator {
    async fn new(&self);
    async fn clone(&self);
    async fn with_timeout(&self);
    async fn without_timeout(&self);
    async fn with_header(&self);
    async fn with_idempotency_key(&self);
}

fn main() {}
