use rpc_core::service;

#[service]
trait Calculator {
    async fn f(&self);
}

struct Calc;

impl Calculator for Calc {
    async fn f(&self) {
        let held = std::rc::Rc::new(1);
        std::future::ready(()).await;
        drop(held);
    }
}

fn main() {}
