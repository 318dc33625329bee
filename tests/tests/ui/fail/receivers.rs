use rpc_core::service;

#[service]
trait Calculator {
    async fn by_value(self);
    async fn mutable(&mut self);
    async fn shared(self: std::sync::Arc<Self>);
    async fn none(a: u8);
}

fn main() {}
