//! The options in `#[service(..)]` and `#[rpc(..)]`.

use std::time::Duration;

use proc_macro2::TokenStream;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Lit, LitStr, Meta, Token};

use crate::errors::Errors;
use crate::{names, timeout};

/// What `#[service(..)]` says.
#[derive(Default)]
pub(crate) struct ServiceOptions {
    pub(crate) name: Option<LitStr>,
}

/// What the `#[rpc(..)]` of a method says.
#[derive(Default)]
pub(crate) struct MethodOptions {
    pub(crate) name: Option<LitStr>,
    pub(crate) aliases: Vec<LitStr>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) notify: bool,
    pub(crate) at_most_once: bool,
    pub(crate) no_cancel: bool,
    pub(crate) dedupe: Option<Duration>,
}

pub(crate) fn parse_service(options: TokenStream, errors: &mut Errors) -> ServiceOptions {
    let mut parsed = ServiceOptions::default();
    let metas = parse_list(options).map_err(|error| explain(&error, "#[service(name = \"..\")]"));
    let metas = errors.ok(metas).unwrap_or_default();
    let mut seen = Seen::default();
    for meta in &metas {
        if meta.path().is_ident("name") {
            seen.once(meta, "name", errors);
            parsed.name = string(meta, r#"name = "calc""#, errors).filter(|name| check_service_name(name, errors));
        } else {
            errors.at(meta, "unknown option of a service: write `name = \"..\"` or nothing");
        }
    }
    parsed
}

pub(crate) fn parse_method(attributes: &[Attribute], errors: &mut Errors) -> MethodOptions {
    let mut parsed = MethodOptions::default();
    let mut seen = Seen::default();
    for attribute in attributes {
        let list = attribute
            .meta
            .require_list()
            .and_then(|list| parse_list(list.tokens.clone()))
            .map_err(|error| explain(&error, "#[rpc(name = \"..\")]"));
        for meta in errors.ok(list).unwrap_or_default() {
            method_option(&meta, &mut parsed, &mut seen, errors);
        }
    }
    parsed
}

fn method_option(meta: &Meta, parsed: &mut MethodOptions, seen: &mut Seen, errors: &mut Errors) {
    let path = meta.path();
    if path.is_ident("name") {
        seen.once(meta, "name", errors);
        parsed.name = string(meta, r#"name = "add""#, errors).filter(|name| check_method_name(name, errors));
    } else if path.is_ident("alias") {
        let alias = string(meta, r#"alias = "plus""#, errors).filter(|name| check_method_name(name, errors));
        parsed.aliases.extend(alias);
    } else if path.is_ident("timeout") {
        seen.once(meta, "timeout", errors);
        parsed.timeout = string(meta, r#"timeout = "2s""#, errors).and_then(|text| duration(&text, errors));
    } else if path.is_ident("dedupe") {
        seen.once(meta, "dedupe", errors);
        parsed.dedupe = string(meta, r#"dedupe = "10m""#, errors).and_then(|text| duration(&text, errors));
    } else if path.is_ident("notify") {
        parsed.notify = flag(meta, "notify", seen, errors);
    } else if path.is_ident("at_most_once") {
        parsed.at_most_once = flag(meta, "at_most_once", seen, errors);
    } else if path.is_ident("no_cancel") {
        parsed.no_cancel = flag(meta, "no_cancel", seen, errors);
    } else {
        let known = "`name = \"..\"`, `alias = \"..\"`, `timeout = \"2s\"`, `notify`, `at_most_once`, \
                     `dedupe = \"10m\"` or `no_cancel`";
        errors.at(meta, format!("unknown option of a method: write {known}"));
    }
}

/// An option that is there or not.
fn flag(meta: &Meta, name: &'static str, seen: &mut Seen, errors: &mut Errors) -> bool {
    seen.once(meta, name, errors);
    if !matches!(meta, Meta::Path(_)) {
        errors.at(meta, format!("`{name}` takes no value: write `{name}`"));
    }
    true
}

fn parse_list(options: TokenStream) -> syn::Result<Punctuated<Meta, Token![,]>> {
    Punctuated::parse_terminated.parse2(options)
}

/// Adds to what the parser says what to write instead.
fn explain(error: &syn::Error, instead: &str) -> syn::Error {
    syn::Error::new(error.span(), format!("{error}: write `{instead}` or the like"))
}

/// The options that were given.
#[derive(Default)]
struct Seen(Vec<&'static str>);

impl Seen {
    fn once(&mut self, meta: &Meta, name: &'static str, errors: &mut Errors) {
        if self.0.contains(&name) {
            errors.at(meta, format!("`{name}` is given twice: keep one"));
        }
        self.0.push(name);
    }
}

fn string(meta: &Meta, example: &str, errors: &mut Errors) -> Option<LitStr> {
    let text = match meta {
        Meta::NameValue(meta) => literal(&meta.value),
        _ => None,
    };
    if text.is_none() {
        errors.at(meta, format!("a string is missing: write `{example}`"));
    }
    text
}

fn literal(expr: &Expr) -> Option<LitStr> {
    match expr {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text), ..
        }) => Some(text.clone()),
        // What `macro_rules!` makes of a `$name:literal`.
        Expr::Group(group) => literal(&group.expr),
        _ => None,
    }
}

fn duration(text: &LitStr, errors: &mut Errors) -> Option<Duration> {
    let duration = timeout::parse(&text.value());
    if duration.is_none() {
        let message = "not a duration: write a whole number above zero and its unit, `ms`, `s`, `m` or `h`: `1500ms`";
        errors.at(text, message);
    }
    duration
}

fn check_service_name(name: &LitStr, errors: &mut Errors) -> bool {
    let is_name = names::is_service_name(&name.value());
    if !is_name {
        let message =
            "not a wire name of a service: write ASCII letters, digits, `_` and `-`, in segments between dots";
        errors.at(name, message);
    }
    is_name
}

fn check_method_name(name: &LitStr, errors: &mut Errors) -> bool {
    let is_name = names::is_method_name(&name.value());
    if !is_name {
        let message = "not a wire name of a method: write ASCII letters, digits, `_` and `-`; the service's name is \
                       prefixed";
        errors.at(name, message);
    }
    is_name
}
