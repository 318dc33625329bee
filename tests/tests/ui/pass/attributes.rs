//! Users' attributes reach what is generated, which itself uses nothing deprecated with a warning.
#![deny(warnings, missing_docs)]

use rpc_core::service;

mod absent {
    #[rpc_core::service]
    #[cfg(any())]
    trait Absent {
        async fn f(&self, a: Missing);
    }
}

/// Has cases.
#[service]
pub trait Cases {
    /// Is not there, so that its type need not be.
    #[cfg(any())]
    async fn missing(&self, a: Missing) -> Missing;

    /// One case.
    #[cfg(all())]
    async fn case(&self, a: u8) -> u8;

    /// The other.
    #[cfg(not(all()))]
    async fn case(&self) -> u8;

    #[cfg_attr(all(), doc = "Documented under a condition.", inline)]
    #[cfg_attr(all(), cfg(any()))]
    async fn also_missing(&self, a: Missing);

    /// Expects a lint that fires on the trait.
    #[expect(clippy::too_many_arguments, reason = "a test")]
    #[allow(clippy::too_many_arguments)]
    async fn many(&self, a: u8);

    #[doc = include_str!("attributes.rs")]
    async fn included(&self);

    /// Is old.
    #[deprecated(note = "use `case`")]
    async fn old(&self);
}

/// Is old as a whole.
#[service]
#[deprecated]
pub trait Old {
    /// Is old, too.
    async fn f(&self);
}

struct Now;

impl Cases for Now {
    async fn case(&self, a: u8) -> u8 {
        a
    }
    async fn many(&self, _: u8) {}
    async fn included(&self) {}
    async fn old(&self) {}
}

#[expect(deprecated)]
fn warned(client: &CasesClient) {
    let _ = client.old();
}

#[expect(deprecated)]
fn also_warned(client: OldClient) {
    let _ = client.f();
}

fn main() {
    let client = CasesClient::new(CasesServer::new(Now));
    let _ = client.case(1);
    warned(&client);
    let _ = also_warned;
    assert_eq!(CasesClient::SERVICE.methods().len(), 4);
}
