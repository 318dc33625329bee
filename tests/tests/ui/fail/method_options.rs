use rpc_core::service;

#[service]
trait Calculator {
    #[rpc(retries = 3)]
    async fn unknown(&self);
    #[rpc(name = "a", name = "b")]
    async fn repeated(&self);
    #[rpc(notify)]
    #[rpc(notify)]
    async fn repeated_apart(&self);
    #[rpc(timeout = "1s", timeout = "2s")]
    async fn repeated_timeout(&self);
    #[rpc(name = "calc.add")]
    async fn dotted(&self);
    #[rpc(alias = "")]
    async fn empty(&self);
    #[rpc(name = 3)]
    async fn number(&self);
    #[rpc(notify = true)]
    async fn valued(&self);
    #[rpc(dedupe = "ten minutes")]
    async fn not_a_window(&self);
    #[rpc(at_most_once, dedupe = "10m")]
    async fn contradictory(&self);
    #[rpc(notify, no_cancel)]
    async fn needless(&self);
    #[rpc]
    async fn bare(&self);
    #[rpc("add")]
    async fn literal(&self);
    #[cfg_attr(unix, rpc(notify))]
    async fn conditional(&self);
}

fn main() {}
