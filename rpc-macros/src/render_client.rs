//! The client: a method per method of the trait, which returns a `Call`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};

use crate::method::{Method, Returns};
use crate::service::Service;
use crate::{attributes, table};

pub(crate) fn render(service: &Service) -> TokenStream {
    let client = service.client();
    let vis = &service.item.vis;
    let intro = format!(" Calls the methods of [`{}`].\n", service.item.ident);
    let attributes = attributes::forwarded(&service.item.attrs);
    let impl_attributes = service.impl_attributes();
    let table = table::render(service);
    let constructors = constructors(service);
    let methods = service
        .methods
        .iter()
        .enumerate()
        .map(|(index, m)| method(index, m, service));
    quote_spanned! {Span::mixed_site()=>
        #[doc = #intro]
        #(#attributes)*
        #[allow(dead_code)]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #vis struct #client {
            caller: ::rpc_core::Caller,
        }

        #impl_attributes
        impl #client {
            #table
            #constructors
            #(#methods)*
        }
    }
}

fn constructors(service: &Service) -> TokenStream {
    let vis = &service.item.vis;
    quote_spanned! {Span::mixed_site()=>
        /// A client that calls through `caller`: a channel, a context's caller, or a server in this process.
        #[must_use]
        #vis fn new(caller: impl ::core::convert::Into<::rpc_core::Caller>) -> Self {
            Self { caller: ::core::convert::Into::into(caller) }
        }

        /// A client whose calls have `timeout` to return.
        #[must_use]
        #vis fn with_timeout(&self, timeout: ::core::time::Duration) -> Self {
            Self { caller: self.caller.with_timeout(timeout) }
        }

        /// A client whose calls wait for ever.
        #[must_use]
        #vis fn without_timeout(&self) -> Self {
            Self { caller: self.caller.without_timeout() }
        }

        /// A client that sends a header along with each call, in place of an earlier one of that name.
        #[must_use]
        #vis fn with_header(
            &self,
            name: impl ::core::convert::Into<::std::string::String>,
            value: impl ::core::convert::Into<::std::string::String>,
        ) -> Self {
            Self { caller: self.caller.with_header(name, value) }
        }

        /// A client whose calls have this key: of calls with one key to one method that is marked `dedupe`, one runs, and the
        /// others get its result.
        #[must_use]
        #vis fn with_idempotency_key(&self, key: impl ::core::convert::Into<::std::string::String>) -> Self {
            Self { caller: self.caller.with_idempotency_key(key) }
        }
    }
}

fn method(index: usize, method: &Method, service: &Service) -> TokenStream {
    let vis = &service.item.vis;
    let ident = method.ident();
    let attributes = attributes::forwarded(method.attributes());
    let docs = (!attributes::has_docs(method.attributes())).then(|| {
        let docs = format!(" Calls `{}`.", method.wire_name);
        quote!(#[doc = #docs])
    });
    let names: Vec<_> = method.wire_arguments().map(|argument| &argument.name).collect();
    let types = method.wire_arguments().map(|argument| &argument.ty);
    let span = method.span();
    let list = names.iter().rfold(
        quote_spanned!(span=> ()),
        |list, name| quote_spanned!(span=> (&#name, #list)),
    );
    let list = quote_spanned!(span=> &#list);
    // A handler may ignore an argument, which the client still sends.
    let uses_ignored = names.iter().any(|name| name.to_string().starts_with('_'));
    let allow_use = uses_ignored.then(|| quote!(#[allow(clippy::used_underscore_binding)]));
    let (call, returns) = call(method);
    let constant = table::constant(index);
    quote_spanned! {Span::mixed_site()=>
        #docs
        #(#attributes)*
        #allow_use
        #vis fn #ident(&self, #(#names: #types),*) -> ::rpc_core::Call<#returns> {
            self.caller.#call(&Self::#constant, #list)
        }
    }
}

/// The method of the caller to call, and the type arguments of the `Call` that it returns.
fn call(method: &Method) -> (TokenStream, TokenStream) {
    let span = method.span();
    match &method.returns {
        _ if method.notify => (quote_spanned!(span=> notify), quote!(())),
        Returns::Plain(ty) => (quote_spanned!(span=> call::<#ty, _>), quote!(#ty)),
        Returns::Fallible { ok, error, .. } => (
            quote_spanned!(span=> call_fallible::<#ok, #error, _>),
            quote!(#ok, #error),
        ),
    }
}
