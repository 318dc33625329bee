use rpc_core::service;

struct Opaque;

#[service]
trait Calculator {
    async fn take(&self, a: Opaque);
    async fn give(&self) -> Opaque;
    async fn fail(&self) -> Result<u8, Opaque>;
}

fn main() {}
