use rpc_core::service;

#[service]
trait Calculator {}

fn main() {}
