//! The server: decodes arguments, runs the method, encodes its result.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use crate::argument::Argument;
use crate::attributes;
use crate::method::{Method, Returns};
use crate::service::Service;

pub(crate) fn render(service: &Service) -> TokenStream {
    let server = service.server();
    let impl_attributes = service.impl_attributes();
    let declaration = declaration(service);
    let constructors = constructors(service);
    let debug = debug(service);
    let service_impl = service_impl(service);
    let trait_name = &service.item.ident;
    quote_spanned! {Span::mixed_site()=>
        #declaration
        #impl_attributes
        #constructors
        #impl_attributes
        impl<T> ::core::clone::Clone for #server<T> {
            fn clone(&self) -> Self {
                Self { service: ::core::clone::Clone::clone(&self.service) }
            }
        }
        #impl_attributes
        #debug
        #impl_attributes
        #service_impl
        #impl_attributes
        impl<T: #trait_name> ::core::convert::From<#server<T>> for ::rpc_core::Caller {
            fn from(server: #server<T>) -> Self {
                Self::in_process(::std::sync::Arc::new(server))
            }
        }
    }
}

fn declaration(service: &Service) -> TokenStream {
    let server = service.server();
    let vis = &service.item.vis;
    let attributes = attributes::forwarded(&service.item.attrs);
    let intro = format!(" Serves a [`{}`].\n", service.item.ident);
    quote_spanned! {Span::mixed_site()=>
        #[doc = #intro]
        #(#attributes)*
        #[allow(dead_code)]
        #vis struct #server<T> {
            service: ::std::sync::Arc<T>,
        }
    }
}

fn constructors(service: &Service) -> TokenStream {
    let server = service.server();
    let vis = &service.item.vis;
    let trait_name = &service.item.ident;
    quote_spanned! {Span::mixed_site()=>
        impl<T: #trait_name> #server<T> {
            /// Serves `service`.
            #[must_use]
            #vis fn new(service: T) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }

            /// Serves a service that is also used elsewhere.
            #[must_use]
            #vis fn from_arc(service: ::std::sync::Arc<T>) -> Self {
                Self { service }
            }
        }
    }
}

fn debug(service: &Service) -> TokenStream {
    let server = service.server();
    let name = server.unraw().to_string();
    quote_spanned! {Span::mixed_site()=>
        impl<T> ::core::fmt::Debug for #server<T> {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#name).finish_non_exhaustive()
            }
        }
    }
}

/// Here stand types that users wrote, so the type parameter has a name that hides none of theirs.
fn service_impl(service: &Service) -> TokenStream {
    let server = service.server();
    let client = service.client();
    let trait_name = &service.item.ident;
    let arms = service.methods.iter().map(|method| arm(method, trait_name));
    quote_spanned! {Span::mixed_site()=>
        impl<__T: #trait_name> ::rpc_core::Service for #server<__T> {
            fn descriptor(&self) -> &'static ::rpc_core::ServiceDescriptor {
                #client::SERVICE
            }

            fn call(
                &self,
                __method: &'static ::rpc_core::MethodDescriptor,
                __cx: ::rpc_core::Context,
                __arguments: ::rpc_core::Payload,
            ) -> ::rpc_core::HandlerFuture {
                let __service = ::core::clone::Clone::clone(&self.service);
                match __method.name() {
                    #(#arms)*
                    __unknown => ::std::boxed::Box::pin(async move {
                        ::rpc_core::Outcome::Fault(
                            ::rpc_core::Fault::new(::rpc_core::FaultKind::MethodNotFound, __unknown)
                        )
                    }),
                }
            }
        }
    }
}

fn arm(method: &Method, trait_name: &Ident) -> TokenStream {
    let cfgs = attributes::cfgs(method.attributes());
    let wire_name = &method.wire_name;
    let names = method
        .wire_arguments()
        .map(|argument| argument.name.unraw().to_string());
    let types = decode_list(method, |marker, _, ty| quote!(::rpc_core::arguments::#marker<#ty>));
    let pattern = decode_list(
        method,
        |marker, local, _| quote!(::rpc_core::arguments::#marker(#local)),
    );
    let outcome = outcome(method, trait_name);
    quote_spanned! {Span::mixed_site()=>
        #(#cfgs)*
        #wire_name => ::std::boxed::Box::pin(async move {
            match ::rpc_core::arguments::decode::<#types>(&__arguments, &[#(#names),*]) {
                ::core::result::Result::Ok(#pattern) => #outcome,
                ::core::result::Result::Err(__error) => ::rpc_core::Outcome::Fault(::rpc_core::Fault::new(
                    ::rpc_core::FaultKind::BadArguments,
                    ::std::string::ToString::to_string(&__error),
                )),
            }
        }),
    }
}

/// The nested list `(first, (second, ()))` of what `item` makes of each argument's marker, local and type.
fn decode_list(method: &Method, item: impl Fn(Ident, Ident, &syn::Type) -> TokenStream) -> TokenStream {
    let span = method.span();
    let arguments: Vec<_> = method.wire_arguments().collect();
    arguments
        .iter()
        .enumerate()
        .rfold(quote!(()), |list, (index, argument)| {
            let marker = if argument.optional { "Optional" } else { "Required" };
            let item = item(format_ident!("{marker}"), local(index), &argument.ty);
            quote_spanned!(span=> (#item, #list))
        })
}

fn local(index: usize) -> Ident {
    format_ident!("__argument_{index}", span = Span::mixed_site())
}

/// Calls the method with the decoded arguments.
fn outcome(method: &Method, trait_name: &Ident) -> TokenStream {
    let span = Span::mixed_site();
    let ident = method.ident();
    let mut locals = (0..).map(local);
    let arguments = method.arguments.iter().map(|argument| match argument {
        Argument::Context => quote_spanned!(span=> &__cx),
        Argument::Wire(_) => {
            let local = locals.next();
            quote!(#local)
        }
    });
    let from = match &method.returns {
        Returns::Plain(ty) => quote!(from_value::<#ty>),
        Returns::Fallible { ok, error, .. } => quote!(from_result::<#ok, #error>),
    };
    quote_spanned! {span=>
        ::rpc_core::Outcome::#from(
            __arguments.codec,
            &<__T as #trait_name>::#ident(&*__service, #(#arguments),*).await,
        )
    }
}
