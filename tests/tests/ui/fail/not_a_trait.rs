use rpc_core::service;

#[service]
struct Calculator;

fn main() {}
