//! Users' names do not clash with those of generated code.
#![deny(warnings)]

#[rpc_core::service]
trait Names {
    async fn generated(&self, self_: u8, cx: u8, method: u8, arguments: u8, service: u8, caller: u8) -> u8;
    async fn locals(&self, __cx: u8, __service: u8, __arguments: u8, __argument_0: u8, __error: u8, __method: u8)
    -> u8;
    async fn with_context(&self, arguments: u8, #[ctx] service: &rpc_core::Context, error: u8) -> u8;
    async fn raw(&self, r#type: u8, r#fn: u8) -> u8;
    async fn r#match(&self, _unused: u8) -> u8 {
        0
    }
    async fn call(&self) -> u8;
    async fn descriptor(&self) -> u8;
    async fn fmt(&self) -> u8;
    async fn from(&self) -> u8;
    async fn caller(&self) -> u8;
    async fn from_arc(&self) -> u8;
}

fn main() {}
