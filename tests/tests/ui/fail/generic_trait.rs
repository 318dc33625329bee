use rpc_core::service;

#[service]
trait Calculator<T> {
    async fn add(&self, a: T) -> T;
}

#[service]
trait Bounded
where
    Self: Clone,
{
    async fn f(&self);
}

fn main() {}
