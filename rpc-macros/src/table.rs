//! The method table.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use crate::method::Method;
use crate::service::Service;
use crate::{attributes, types};

/// The constant of the client that describes its method number `index`.
///
/// Numbered, because names of methods that differ only in case would give the same constant.
pub(crate) fn constant(index: usize) -> Ident {
    format_ident!("__METHOD_{index}", span = Span::mixed_site())
}

/// The constants of the client's `impl`: one for each method, and `SERVICE`.
pub(crate) fn render(service: &Service) -> TokenStream {
    let name = &service.wire_name;
    let vis = &service.item.vis;
    let docs = attributes::docs(&service.item.attrs);
    let constants = service.methods.iter().enumerate().map(|(index, method)| {
        let constant = constant(index);
        let cfgs = attributes::cfgs(method.attributes());
        let descriptor = descriptor(method);
        quote_spanned! {Span::mixed_site()=>
            #(#cfgs)* const #constant: ::rpc_core::MethodDescriptor = #descriptor;
        }
    });
    let entries = service.methods.iter().enumerate().map(|(index, method)| {
        let constant = constant(index);
        let cfgs = attributes::cfgs(method.attributes());
        quote!(#(#cfgs)* Self::#constant)
    });
    quote_spanned! {Span::mixed_site()=>
        #(#constants)*

        /// The method table of the service.
        #vis const SERVICE: &'static ::rpc_core::ServiceDescriptor =
            &::rpc_core::ServiceDescriptor::new(#name, #docs, &[#(#entries),*]);
    }
}

fn descriptor(method: &Method) -> TokenStream {
    let name = &method.wire_name;
    let aliases = &method.aliases;
    let docs = attributes::docs(method.attributes());
    let arguments = method.wire_arguments().map(|argument| {
        let name = argument.name.unraw().to_string();
        let rust_type = types::display(&argument.ty);
        let optional = argument.optional;
        quote! {
            ::rpc_core::ArgumentDescriptor { name: #name, rust_type: #rust_type, optional: #optional }
        }
    });
    let returns = types::display(method.returns.ty());
    let notification = method.notify.then(|| quote!(.notification()));
    let at_most_once = method.at_most_once.then(|| quote!(.at_most_once()));
    let no_cancel = method.no_cancel.then(|| quote!(.no_cancel()));
    let dedupe = method.dedupe.map(|window| {
        let (secs, nanos) = (window.as_secs(), window.subsec_nanos());
        quote!(.dedupe(::core::time::Duration::new(#secs, #nanos)))
    });
    let timeout = method.timeout.map(|timeout| {
        let (secs, nanos) = (timeout.as_secs(), timeout.subsec_nanos());
        quote!(.with_timeout(::core::time::Duration::new(#secs, #nanos)))
    });
    quote! {
        ::rpc_core::MethodDescriptor::new(#name)
            .with_aliases(&[#(#aliases),*])
            .with_docs(#docs)
            .with_signature(&[#(#arguments),*], #returns)
            #notification
            #at_most_once
            #no_cancel
            #dedupe
            #timeout
    }
}
