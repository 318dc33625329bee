use rpc_core::service;

#[service]
trait Calculator {
    async fn add(&self);
    #[rpc(name = "add")]
    async fn plus(&self);
    #[rpc(alias = "plus-one", alias = "add")]
    async fn increment(&self);
    #[rpc(alias = "own")]
    async fn own(&self);
}

fn main() {}
