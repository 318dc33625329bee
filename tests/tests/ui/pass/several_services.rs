//! One module holds several services, whose methods may have the same names; macros may write services, too.
#![deny(warnings)]

use rpc_core::service;

#[service]
trait First: std::fmt::Debug {
    async fn f(&self, a: String) -> String;
}

#[service]
trait Second: Send + Sync + 'static {
    async fn f(&self, a: String) -> String;
}

macro_rules! generated {
    ($name:ident, $wire:literal, $($method:ident($argument:ty) -> $result:ty),*) => {
        #[service(name = $wire)]
        trait $name {
            $(async fn $method(&self, argument: $argument) -> $result;)*
        }
    };
}

generated!(Third, "third-one", f(Option<u8>) -> Result<u8, String>, g((u8, u8)) -> ());

#[derive(Debug)]
struct Both;

impl First for Both {
    async fn f(&self, a: String) -> String {
        a
    }
}

impl Second for Both {
    async fn f(&self, a: String) -> String {
        a
    }
}

impl Third for Both {
    async fn f(&self, argument: Option<u8>) -> Result<u8, String> {
        argument.ok_or_else(String::new)
    }
    async fn g(&self, _: (u8, u8)) {}
}

fn main() {
    let _ = FirstClient::new(FirstServer::new(Both)).f(String::new());
    let _ = SecondClient::new(SecondServer::new(Both)).f(String::new());
    let call: rpc_core::Call<u8, String> = ThirdClient::new(ThirdServer::new(Both)).f(None);
    drop(call);
    assert_eq!(ThirdClient::SERVICE.name(), "third-one");
    assert!(ThirdClient::SERVICE.methods()[0].arguments()[0].optional);
}
