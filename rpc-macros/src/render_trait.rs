//! The trait, whose methods return futures that are `Send`.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::{TraitItem, TraitItemFn, parse_quote_spanned};

use crate::method::Method;
use crate::service::Service;

pub(crate) fn render(service: &Service) -> TokenStream {
    let mut item = service.item.clone();
    let span = Span::mixed_site();
    item.supertraits.push(parse_quote_spanned!(span=> ::core::marker::Send));
    item.supertraits.push(parse_quote_spanned!(span=> ::core::marker::Sync));
    item.supertraits.push(parse_quote_spanned!(span=> 'static));
    item.colon_token.get_or_insert_default();
    item.items = service
        .methods
        .iter()
        .map(|method| TraitItem::Fn(method_item(method)))
        .collect();
    item.into_token_stream()
}

/// `async fn` in a trait promises no `Send`, which spawning a handler needs; hence the future is spelled out.
fn method_item(method: &Method) -> TraitItemFn {
    let mut item = method.item.clone();
    let span = Span::mixed_site();
    let output = method.returns.ty();
    item.sig.asyncness = None;
    item.sig.output = parse_quote_spanned! {span=>
        -> impl ::core::future::Future<Output = #output> + ::core::marker::Send
    };
    item.default = item
        .default
        .map(|body| parse_quote_spanned!(span=> { async move #body }));
    item
}
