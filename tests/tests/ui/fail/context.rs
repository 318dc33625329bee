use rpc_core::service;

#[service]
trait Calculator {
    async fn two(&self, #[ctx] a: &Context, #[ctx] b: &Context);
    async fn by_value(&self, #[ctx] cx: Context);
    async fn mutable(&self, #[ctx] cx: &mut Context);
    async fn other(&self, #[ctx] cx: &String);
    async fn options(&self, #[ctx(now)] cx: &Context);
    async fn absent(&self, #[ctx] #[serde(default)] cx: &Context);
    async fn unmarked(&self, cx: &Context);
}

fn main() {}
