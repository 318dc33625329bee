use rpc_core::service;

#[service]
trait Calculator {
    #[rpc(timeout = "2")]
    async fn no_unit(&self);
    #[rpc(timeout = "1.5s")]
    async fn fraction(&self);
    #[rpc(timeout = "0s")]
    async fn zero(&self);
    #[rpc(timeout = 2)]
    async fn number(&self);
}

fn main() {}
