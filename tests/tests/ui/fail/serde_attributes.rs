use rpc_core::service;

#[service]
trait Calculator {
    async fn renamed(&self, #[serde(rename = "b")] a: u8);
    async fn with_path(&self, #[serde(default = "one")] a: u8);
    async fn bare(&self, #[serde] a: u8);
    async fn first(&self, #[serde(default)] a: u8, b: Option<u8>, c: u8, d: Option<u8>);
}

fn main() {}
