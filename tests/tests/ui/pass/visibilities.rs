//! The client and the server are as visible as the trait, which may also stand in a function.
#![deny(warnings, missing_docs, unreachable_pub)]

mod outer {
    use rpc_core::service;

    #[service]
    trait Private {
        async fn f(&self);
    }

    #[service]
    pub(crate) trait Crate {
        async fn f(&self);
    }

    pub(crate) mod inner {
        use rpc_core::service;

        #[service]
        pub(super) trait Super {
            async fn f(&self);
        }

        #[service]
        pub(in crate::outer) trait Within {
            async fn f(&self);
        }
    }

    pub(crate) fn use_them(caller: &rpc_core::Caller) {
        let _ = PrivateClient::new(caller.clone()).f();
        let _ = inner::SuperClient::new(caller.clone()).f();
        let _ = inner::WithinClient::new(caller.clone()).f();
    }
}

fn main() {
    #[rpc_core::service]
    trait Local {
        async fn f(&self) -> u8;
    }
    struct One;
    impl Local for One {
        async fn f(&self) -> u8 {
            1
        }
    }
    let caller = rpc_core::Caller::from(LocalServer::new(One));
    outer::use_them(&caller);
    let _ = LocalClient::new(caller.clone()).f();
    let _ = outer::CrateClient::new(caller).f();
}
