use rpc_core::service;

#[service]
trait Calculator {
    async fn alias(&self) -> std::io::Result<u8>;
    async fn bare(&self) -> Result;
    async fn borrowed(&self) -> &str;
    async fn borrowed_error(&self) -> Result<u8, &'static str>;
    async fn implied(&self) -> impl Clone;
    async fn own(&self) -> Option<Self>;
}

fn main() {}
