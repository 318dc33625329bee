use rpc_core::service;

#[service(nmae = "calc")]
trait Calculator {
    fn blocking(&mut self, a: &str) -> std::io::Result<u8>;
    #[rpc(notfy)]
    async fn log(&self);
}

fn main() {}
