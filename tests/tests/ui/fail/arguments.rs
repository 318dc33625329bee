use rpc_core::service;

#[service]
trait Calculator {
    async fn pattern(&self, (a, b): (u8, u8));
    async fn wildcard(&self, _: u8);
    async fn mutable(&self, mut a: u8);
    async fn string(&self, a: &str);
    async fn slice(&self, a: &[u8], b: &mut Vec<u8>);
    async fn nested(&self, a: Vec<&str>);
    async fn implied(&self, a: impl Clone);
    async fn own(&self, a: Self);
    async fn conditional(&self, #[cfg(unix)] a: u8);
}

fn main() {}
