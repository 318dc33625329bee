use rpc_core::service;

#[service]
trait Calculator {
    const LIMIT: u8;
    type Number;
    println!();
    pub async fn f(&self);
}

fn main() {}
