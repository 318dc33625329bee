use rpc_core::service;

#[service(version = 2)]
trait Unknown {
    async fn f(&self);
}

#[service(name = "a", name = "b")]
trait Repeated {
    async fn f(&self);
}

#[service(name = "a..b")]
trait BadName {
    async fn f(&self);
}

#[service(name)]
trait NoValue {
    async fn f(&self);
}

#[service("calc")]
trait Literal {
    async fn f(&self);
}

#[service]
trait Größe {
    async fn länge(&self);
}

fn main() {}
