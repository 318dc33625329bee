use rpc_core::service;

#[service]
unsafe trait Calculator {
    async fn f(&self);
}

fn main() {}
