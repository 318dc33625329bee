//! Generated code is held to what its users hold their own code to.
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    rust_2018_idioms,
    single_use_lifetimes,
    unused_lifetimes
)]
#![forbid(unsafe_code)]

/// A module that others see.
pub mod public {
    use rpc_core::{Context, service};

    /// Does sums.
    #[service(name = "acme.calc")]
    pub trait Calculator {
        /// Adds two numbers.
        async fn add(&self, a: i64, b: i64) -> i64;
        /// Divides.
        #[rpc(name = "div", alias = "divide", timeout = "2s")]
        async fn divide(&self, #[ctx] cx: &Context, a: f64, b: f64) -> Result<f64, String>;
        /// Logs.
        #[rpc(notify)]
        async fn log(&self, line: Option<String>, #[serde(default)] level: u8);
        /// Has a body, which does not use all.
        #[allow(unused_variables)]
        async fn twice(&self, mut a: i64, unused: String) -> Result<i64, String> {
            a = self.add(a, a).await;
            if a == 0 {
                return Err("zero".to_owned());
            }
            let checked: Result<i64, String> = Ok(a);
            Ok(checked?)
        }
    }
}

fn main() {}
