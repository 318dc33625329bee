use rpc_core::service;

#[service]
trait Calculator {
    async fn types<T>(&self, a: T);
    async fn lifetimes<'a>(&'a self, a: u8);
    async fn bounds(&self)
    where
        Self: Clone;
}

fn main() {}
