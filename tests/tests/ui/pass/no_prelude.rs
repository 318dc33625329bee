//! Generated code needs no prelude, and is not confused by names that users gave to something else.
#![deny(warnings)]
#![no_implicit_prelude]
#![allow(dead_code, non_camel_case_types)]

struct Option;
struct Result;
struct String;
struct Box;
struct Send;
struct Sync;
trait Future {}
trait Into {}
mod core {}
mod std {}
mod rpc_core {}

mod types {
    #[derive(::serde::Serialize, ::serde::Deserialize)]
    pub(crate) struct T;
}
use self::types::T;

#[::rpc_core::service]
trait Calculator {
    async fn add(&self, a: i64, b: ::core::option::Option<i64>) -> i64;
    async fn take(&self, #[ctx] cx: &::rpc_core::Context, t: T) -> ::core::result::Result<T, T>;
    #[rpc(notify, timeout = "1m")]
    async fn log(&self, line: ::std::string::String);
    async fn nothing(&self) {}
}

struct Calc;

impl Calculator for Calc {
    async fn add(&self, a: i64, _: ::core::option::Option<i64>) -> i64 {
        a
    }
    async fn take(&self, _: &::rpc_core::Context, t: T) -> ::core::result::Result<T, T> {
        ::core::result::Result::Ok(t)
    }
    async fn log(&self, _: ::std::string::String) {}
}

fn main() {
    let client = CalculatorClient::new(CalculatorServer::new(Calc));
    ::core::mem::drop(client.add(1, ::core::option::Option::None));
}
