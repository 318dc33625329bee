use rpc_core::service;

#[service]
trait Calculator {
    #[rpc(notify)]
    async fn value(&self) -> u8;
    #[rpc(notify)]
    async fn fallible(&self) -> Result<u8, String>;
}

fn main() {}
