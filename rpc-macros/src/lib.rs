//! The `#[service]` attribute of `rpc-core`, which re-exports it; depend on `rpc-core`, not on this crate.
//!
//! It works in phases: `service` and `method` read the trait into an intermediate form and collect every misuse; the
//! `render_*` modules turn that form into code and cannot fail.

mod argument;
mod attributes;
mod errors;
mod method;
mod names;
mod options;
mod render_client;
mod render_server;
mod render_trait;
mod service;
mod table;
mod timeout;
mod types;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;

/// Turns a trait into a typed client and a typed server.
///
/// ```ignore
/// use rpc_core::{Context, service};
///
/// /// Does sums.
/// #[service(name = "calc")]
/// pub trait Calculator {
///     /// Adds two numbers.
///     async fn add(&self, a: i64, b: i64) -> i64;
///
///     #[rpc(name = "div", alias = "divide", timeout = "2s")]
///     async fn divide(&self, #[ctx] cx: &Context, a: f64, b: f64) -> Result<f64, MathError>;
///
///     #[rpc(notify)]
///     async fn log(&self, line: String);
/// }
/// ```
///
/// # What it generates
/// With the visibility of the trait, for a trait `Calculator`:
///
/// - The trait itself, with the supertraits `Send + Sync + 'static` and each `async fn f(..) -> T` rewritten to
///   `fn f(..) -> impl Future<Output = T> + Send`. Implementors write `async fn` as usual. Default bodies are kept.
/// - `CalculatorServer<T: Calculator>`, a `Service`: `new(service)` or `from_arc(service)`.
/// - `CalculatorClient`: `new(caller)`, and a method per method of the trait that returns a `Call`.
///   `CalculatorClient::new(CalculatorServer::new(service))` calls in process, which is handy in tests.
///   `with_timeout`, `without_timeout`, `with_header` and `with_idempotency_key` return a client whose calls differ in
///   that.
/// - `CalculatorClient::SERVICE`, the method table: names, docs, arguments and types.
///
/// Docs, `cfg`, `cfg_attr`, `deprecated`, `allow` and `expect` reach the generated items they concern (`expect` as
/// `allow`, because the lint need not fire there). Other attributes stay on the trait.
///
/// # Options of a service
/// - `name = ".."`: the wire name, which prefixes the methods'. Default: the trait's name in snake case. ASCII letters,
///   digits, `_` and `-`, in segments between dots.
///
/// # Options of a method, in `#[rpc(..)]`
/// - `name = ".."`: the wire name, without the service's. Default: the method's name. Letters as above, no dots.
/// - `alias = ".."`: another wire name that servers answer to, for callers of an older version; may be repeated.
/// - `timeout = ".."`: how long callers wait unless the client says otherwise: a whole number and a unit, `ms`, `s`,
///   `m` or `h`.
/// - `notify`: nobody waits for the result. The method returns nothing or `Result<(), E>`; the client's `Call` ends when
///   the notification is sent.
/// - `at_most_once`: the method is never run twice. When its worker dies, the caller is told `WorkerLost`; without this
///   option another worker runs the call again.
/// - `dedupe = ".."`: for so long after it has returned, a call with the same idempotency key is not run but gets the same
///   result; the client gives the key, else it is the call's identity, which is the same at each attempt. Written like
///   `timeout`.
/// - `no_cancel`: once begun, the method runs on when its caller drops the call; without this option it is dropped. Its
///   deadline ends it all the same.
///
/// # Arguments
/// They are positional, owned, and need `Serialize` and `DeserializeOwned`. An argument whose type is written `Option`,
/// or that carries `#[serde(default)]`, may be left out by callers if nothing required follows it; it is then
/// `Default::default()`. Add such arguments at the end to extend a method that is in use.
///
/// `#[ctx] cx: &Context`, at any position, gives the handler the call's context. It is neither on the wire nor in the
/// client.
///
/// # Results
/// Any type with `Serialize` and `DeserializeOwned`. A type written `Result<T, E>` makes the client's call end in
/// `Result<T, CallError<E>>`; write it with both types, because a macro cannot see through an alias.
///
/// # Misuse
/// Generic traits and methods, methods without `async` or `&self`, borrowed arguments, duplicate wire names, unknown
/// options and the like are compile errors at the place in question, all of them at once.
#[proc_macro_attribute]
pub fn service(options: TokenStream, item: TokenStream) -> TokenStream {
    expand(options.into(), item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

fn expand(options: Tokens, item: Tokens) -> syn::Result<Tokens> {
    let service = service::parse(options, item)?;
    let parts = [
        render_trait::render(&service),
        render_client::render(&service),
        render_server::render(&service),
    ];
    Ok(quote!(#(#parts)*))
}
