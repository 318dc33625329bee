//! There is no greatest number of arguments.
#![deny(warnings)]
#![allow(clippy::too_many_arguments)]

#[rpc_core::service]
trait Many {
    #[rustfmt::skip]
    async fn many(
        &self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8,
        k: u8, l: u8, m: u8, n: u8, o: u8, p: u8, q: u8, r: u8, s: u8, t: Option<u8>,
    ) -> Vec<(u8, std::collections::HashMap<String, [u8; 4]>)>;
}

fn main() {
    let arguments = ManyClient::SERVICE.methods()[0].arguments();
    assert_eq!(arguments.len(), 20);
    assert!(arguments[19].optional && !arguments[18].optional);
}
