//! The trait as a whole, in the form that is rendered.

use std::collections::HashMap;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Item, ItemTrait, TraitItem};

use crate::errors::Errors;
use crate::method::{self, Method};
use crate::options::{self, ServiceOptions};
use crate::{attributes, names};

/// A service: the trait that `#[service]` stands on.
pub(crate) struct Service {
    /// The trait, whose methods have moved to `methods`.
    pub(crate) item: ItemTrait,
    pub(crate) wire_name: String,
    pub(crate) methods: Vec<Method>,
}

impl Service {
    pub(crate) fn client(&self) -> Ident {
        format_ident!("{}Client", self.item.ident)
    }

    pub(crate) fn server(&self) -> Ident {
        format_ident!("{}Server", self.item.ident)
    }

    /// The attributes of the `impl`s that are generated.
    pub(crate) fn impl_attributes(&self) -> TokenStream {
        let cfgs = attributes::cfgs(&self.item.attrs);
        let methods = self.methods.iter().map(Method::attributes);
        let is_deprecated = methods
            .chain([&self.item.attrs[..]])
            .any(|attributes| attributes::mentions(attributes, "deprecated"));
        // Who uses something deprecated should be warned, and not who declares it.
        let allow_deprecated = is_deprecated.then(|| quote!(#[allow(deprecated)]));
        // A crate may call what it never serves, and serve what it never calls.
        quote!(#(#cfgs)* #[allow(dead_code)] #allow_deprecated)
    }
}

/// Reads `#[service(options)] item`.
pub(crate) fn parse(options: TokenStream, item: TokenStream) -> syn::Result<Service> {
    let mut item = match syn::parse2(item)? {
        Item::Trait(item) => item,
        other => {
            let message = "`#[service]` goes on a trait: write `#[service] trait Name { async fn .. }`";
            return Err(syn::Error::new(other.span(), message));
        }
    };
    let mut errors = Errors::default();
    let options = options::parse_service(options, &mut errors);
    check_trait(&item, &mut errors);
    let wire_name = service_name(&item.ident, &options, &mut errors);
    let items = std::mem::take(&mut item.items);
    let methods = parse_methods(items, &wire_name, &mut errors);
    check_duplicates(&methods, &mut errors);
    errors.finish(Service {
        item,
        wire_name,
        methods,
    })
}

fn check_trait(item: &ItemTrait, errors: &mut Errors) {
    if let Some(unsafety) = &item.unsafety {
        errors.at(unsafety, "a service cannot be an `unsafe` trait: remove `unsafe`");
    }
    if let Some(auto) = &item.modifiers.auto_token {
        errors.at(auto, "a service cannot be an `auto` trait: remove `auto`");
    }
    if !item.generics.params.is_empty() {
        let message = "a service cannot be generic, because the other side must know its types: write concrete types";
        errors.at(&item.generics.params, message);
    }
    if let Some(clause) = &item.generics.where_clause {
        let message = "a service takes no where clause: write supertraits, `trait Name: Bound`";
        errors.at(clause, message);
    }
    if item.items.is_empty() {
        errors.at(&item.ident, "a service needs a method: write `async fn name(&self);`");
    }
}

fn service_name(ident: &Ident, options: &ServiceOptions, errors: &mut Errors) -> String {
    if let Some(name) = &options.name {
        return name.value();
    }
    let name = names::snake_case(&ident.unraw().to_string());
    if !names::is_service_name(&name) {
        let message = "wire names are ASCII: give this service one with `#[service(name = \"..\")]`";
        errors.at(ident, message);
    }
    name
}

fn parse_methods(items: Vec<TraitItem>, service: &str, errors: &mut Errors) -> Vec<Method> {
    let mut methods = Vec::new();
    for item in items {
        let message = match item {
            TraitItem::Fn(item) => {
                methods.push(method::parse(item, service, errors));
                continue;
            }
            TraitItem::Const(_) => "a service has no constants: put it into another trait or a module",
            TraitItem::Type(_) => "a service has no associated types: name the type in the methods",
            TraitItem::Macro(_) => "a service cannot hold a macro call, which is expanded too late: write the methods",
            _ => "a service has methods only: write `async fn name(&self);`, without `pub`",
        };
        errors.at(item, message);
    }
    methods
}

fn check_duplicates(methods: &[Method], errors: &mut Errors) {
    let mut taken: HashMap<&str, &Method> = HashMap::new();
    for method in methods {
        for name in method.wire_names() {
            let Some(other) = taken.insert(name, method) else {
                continue;
            };
            // Two that depend on a `cfg` are usually its two cases.
            let alternatives = [method, other].map(|m| attributes::mentions(m.attributes(), "cfg"));
            if alternatives != [true, true] || std::ptr::eq(method, other) {
                let message = if std::ptr::eq(method, other) {
                    format!("this method has the wire name `{name}` twice: remove an alias")
                } else {
                    let other = other.ident();
                    format!("the wire name `{name}` is taken by `{other}`: give one of them another name or alias")
                };
                errors.at(method.ident(), message);
            }
        }
    }
}
