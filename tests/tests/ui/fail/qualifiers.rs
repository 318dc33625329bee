use rpc_core::service;

#[service]
trait Calculator {
    fn blocking(&self) -> u8;
    const fn constant(&self);
    async unsafe fn hazardous(&self);
    async extern "C" fn foreign(&self);
}

#[service]
trait Variadic {
    async unsafe extern "C" fn variadic(&self, a: ...);
}

fn main() {}
